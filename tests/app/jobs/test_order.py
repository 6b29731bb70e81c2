"""In which order jobs are claimed: legal deadlines first, then tenants in turn."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from app.core import db, keys
from app.core.db import Database
from app.core.tables import AuditEvent, DeletionRequest, Job, Model, Need, OutcomeRow, Tenant, Worker
from app.deletions import compliance
from app.jobs import Claim, claim, enqueue, fenced, gives_way, outbox, problem, requeue, step_aside
from app.jobs.claiming import claimable, moments
from app.jobs.ending import REFUSED_SINCE
from app.jobs.routing import Takes
from app.rules.states import JobKind
from tests.trained import Trained

DAY = timedelta(days=1)


def another_tenant(database: Database) -> str:
    with database.write() as session:
        session.add(Tenant(id="ten_other", name="other", created_at=db.now(session)))
    return "ten_other"


def train(database: Database, tenant: str, lane: str) -> str:
    with database.write() as session:
        return enqueue(session, tenant_id=tenant, kind=JobKind.TRAIN, lane=lane).id


def taken(database: Database, hint: str | None = None) -> str:
    found = claim(database, "w", 60.0, hint)
    assert found is not None
    return found.id


def test_tenants_take_turns(database: Database) -> None:
    """As seen: a tenant queued 500 trainings, and another waited behind all of them."""
    many = [train(database, keys.FIRST_TENANT, f"model:a{number}") for number in range(4)]
    other = another_tenant(database)
    few = [train(database, other, f"model:b{number}") for number in range(2)]
    assert [taken(database) for _ in range(6)] == [many[0], few[0], many[1], few[1], many[2], many[3]]


def test_a_hint_goes_before_a_turn(database: Database) -> None:
    jobs = [train(database, keys.FIRST_TENANT, f"model:a{number}") for number in range(3)]
    assert taken(database, jobs[2]) == jobs[2]


def due_in(database: Database, request: str, **period: float) -> None:
    with database.write() as session:
        due = db.now(session) + timedelta(**period)
        session.execute(update(DeletionRequest).where(DeletionRequest.id == request).values(due_at=due))


def test_a_near_deadline_goes_before_every_hint_and_the_nearest_first(trained: Trained) -> None:
    account = trained.account
    waiting = train(account.database, keys.FIRST_TENANT, "model:long")
    made = trained.delete(trained.ids[:2])
    due_in(account.database, made["id"], days=6)
    other = account.model(trained.dataset, train=False)["id"]
    unlearn = unlearning_id(trained.account.database)
    assert taken(account.database, waiting) == unlearn
    with account.database.write() as session:
        session.execute(update(Job).where(Job.id == unlearn).values(state="succeeded"))
        hurried = enqueue(
            session, tenant_id=keys.FIRST_TENANT, kind=JobKind.PURGE, lane=f"model:{other}", request_id=made["id"]
        ).id
    assert [taken(account.database, waiting), taken(account.database)] == [hurried, waiting]


def test_five_hundred_trainings_of_another_tenant_do_not_hold_up_a_near_deadline(trained: Trained) -> None:
    """As seen: it started 509 s after its 202. Here the tenant has just been served, so that it is not its turn."""
    database = trained.account.database
    other = another_tenant(database)
    with database.write() as session:
        for number in range(500):
            enqueue(session, tenant_id=other, kind=JobKind.TRAIN, lane=f"model:b{number}")
        session.execute(update(Tenant).where(Tenant.id == keys.FIRST_TENANT).values(served_at=db.now(session)))
    made = trained.delete(trained.ids[:2])
    due_in(database, made["id"], seconds=60)
    assert taken(database) == unlearning_id(database)


def test_many_requests_that_were_late_when_they_came_keep_no_other_from_its_deadline(trained: Trained) -> None:
    database = trained.account.database
    mine = trained.delete(trained.ids[:1])
    due_in(database, mine["id"], hours=20)
    other, late = another_tenant(database), []
    with database.write() as session:
        long_ago = db.now(session) - timedelta(days=2000)
        row = session.get_one(DeletionRequest, mine["id"])
        facts = {column.key: getattr(row, column.key) for column in DeletionRequest.__table__.columns}
        for number in range(5):
            request = f"del_{number:026d}"
            session.add(DeletionRequest(**facts | {"id": request, "tenant_id": other, "due_at": long_ago}))
            session.flush()
            lane = f"model:b{number}"
            late.append(enqueue(session, tenant_id=other, kind=JobKind.PURGE, lane=lane, request_id=request).id)
    assert [taken(database) for _ in range(3)] == [late[0], unlearning_id(database), late[1]]


def test_a_purge_of_one_model_does_not_wait_for_another_model(trained: Trained) -> None:
    """Whose unlearning may never find a worker."""
    account, database = trained.account, trained.account.database
    other = account.model(trained.dataset)["id"]
    account.post(
        "/v1/deletion-requests", {"dataset": trained.dataset, "model": other, "sample_ids": trained.ids[:1]}, 202
    )
    with database.write() as session:
        session.execute(update(Job).where(Job.kind == JobKind.UNLEARN).values(device="npu"))
    body = {"dataset": trained.dataset, "model": trained.model, "sample_ids": trained.ids[1:2]}
    mine = account.post("/v1/deletion-requests", body, 202)
    account.work()
    assert trained.request(mine)["status"] == "fulfilled"


def test_a_deadline_in_a_year_takes_its_turn(trained: Trained) -> None:
    database = trained.account.database
    made = trained.delete(trained.ids[:2])
    due_in(database, made["id"], days=365)
    unlearn = unlearning_id(trained.account.database)
    training = train(database, keys.FIRST_TENANT, "model:long")
    assert taken(database, training) == training, "a hint goes before it"
    assert taken(database) == unlearn


def test_of_one_tenant_what_has_a_deadline_soon_is_first(trained: Trained) -> None:
    """A month away, it is no reason to let other tenants wait."""
    database = trained.account.database
    training = train(database, keys.FIRST_TENANT, "model:long")
    theirs = train(database, another_tenant(database), "model:b")
    made = trained.delete(trained.ids[:2])
    due_in(database, made["id"], days=30)
    with database.write() as session:
        session.execute(update(Tenant).values(served_at=None))
        session.execute(update(Tenant).where(Tenant.id == keys.FIRST_TENANT).values(served_at=db.now(session)))
    assert [taken(database) for _ in range(3)] == [theirs, unlearning_id(database), training]


def unlearning_id(database: Database) -> str:
    with database.read() as session:
        return session.scalars(select(Job.id).where(Job.kind == JobKind.UNLEARN)).one()


def test_what_a_deletion_waits_for_has_its_deadline(trained: Trained) -> None:
    """The comparison that its purge waits for; an earlier job that both pass has none."""
    account, database = trained.account, trained.account.database
    long = train(database, keys.FIRST_TENANT, "model:long")
    before = account.post(f"{trained.where}:precompute", {})["id"]
    made = trained.delete(trained.ids[:2])
    due_in(database, made["id"], seconds=60)
    body = {"seed": 1, "compare_only": True, "exclude_request": made["id"]}
    comparison = account.post(f"{trained.where}:train", body)["id"]
    unlearn = unlearning_id(database)
    order = []
    for _ in range(4):
        order.append(taken(database, long))
        with database.write() as session:
            session.execute(update(Job).where(Job.id == order[-1]).values(state="succeeded"))
    names = {long: "long", before: "before", unlearn: "unlearn", comparison: "comparison"}
    assert [names[each] for each in order] == ["unlearn", "comparison", "long", "before"]


# -- giving way ------------------------------------------------------------------------------------


def running(trained: Trained) -> Claim:
    """A training that a worker called `w` runs, while a deletion from another model is due in a minute."""
    database = trained.account.database
    train(database, keys.FIRST_TENANT, "model:long")
    found = claim(database, "w", 60.0)
    assert found is not None
    due_in(database, trained.delete(trained.ids[:2])["id"], seconds=60)
    return found


def yields(database: Database, held: Claim) -> bool:
    with database.read() as session:
        return gives_way(session, held, Takes())


def test_a_job_gives_way_to_a_near_deadline_while_no_worker_is_free(trained: Trained) -> None:
    database, held = trained.account.database, running(trained)
    assert yields(database, held)
    with database.write() as session:
        session.add(Worker(name="free", device="cpu", label="cpu", kinds=[], seen_at=db.now(session)))
    assert not yields(database, held), "the free one takes it"
    with database.write() as session:
        enqueue(session, tenant_id=keys.FIRST_TENANT, kind=JobKind.TRAIN, lane="model:other")
        session.execute(update(Job).where(Job.lane == "model:other").values(state="running", owner="free"))
    assert yields(database, held), "it is not free any more"
    with database.write() as session:
        session.execute(update(Worker).values(kinds=["ingest"]))
        session.execute(update(Job).where(Job.lane == "model:other").values(state="succeeded"))
    assert yields(database, held), "it takes no such jobs"


def test_a_job_does_not_give_way_to_a_far_deadline(trained: Trained) -> None:
    database, held = trained.account.database, running(trained)
    with database.write() as session:
        session.execute(update(DeletionRequest).values(due_at=db.now(session) + timedelta(days=8)))
    assert not yields(database, held)


def test_a_job_gives_way_to_an_imminent_unlearning_of_its_own_lane(trained: Trained) -> None:
    """As read: a training of days inherited the deadline of the deletion behind it, and so never gave way to it."""
    database = trained.account.database
    trained.account.post(f"{trained.where}:train", {"seed": 1})
    held = claim(database, "w", 60.0)
    made = trained.delete(trained.ids[:2])["id"]
    due_in(database, made, seconds=2 * 86400)
    assert held is not None
    assert not yields(database, held), "it inherits a deadline that is not imminent"
    due_in(database, made, seconds=60)
    assert yields(database, held)


def test_an_unlearning_passes_audits_that_nobody_takes(trained: Trained) -> None:
    """As seen: an audit that needed a plug-in of a worker that was gone kept the model's deletions for ever."""
    account = trained.account
    audit = account.post(f"{trained.where}:audit")["id"]
    with account.database.write() as session:
        session.add(Need(owner=audit, name="audits/theirs"))
    trained.delete(trained.ids[:2])
    found = claim(account.database, "w", 60.0, takes=Takes(offers=frozenset()))
    assert found is not None
    assert found.kind == JobKind.UNLEARN


def test_an_imminent_unlearning_passes_all_that_does_not_unlearn(trained: Trained) -> None:
    account = trained.account
    before = account.post(f"{trained.where}:train", {"seed": 1})["id"]
    made = trained.delete(trained.ids[:2])["id"]
    due_in(account.database, made, seconds=2 * 86400)
    with account.database.write() as session:
        [first, *_] = session.scalars(claimable(), moments(db.now(session)))
        assert first.id == before, "it may need what that makes"
    due_in(account.database, made, seconds=60)
    found = claim(account.database, "w", 60.0)
    assert found is not None
    assert found.kind == JobKind.UNLEARN


def test_twenty_audits_of_a_model_keep_no_deletion_from_its_deadline(trained: Trained) -> None:
    account = trained.account
    for _ in range(20):
        account.post(f"{trained.where}:audit")
    due_in(account.database, trained.delete(trained.ids[:2])["id"], seconds=60)
    found = claim(account.database, "w", 60.0)
    assert found is not None
    assert found.kind == JobKind.UNLEARN


def test_nor_does_a_deletion(trained: Trained) -> None:
    database = trained.account.database
    due_in(database, trained.delete(trained.ids[:2])["id"], seconds=60)
    held = claim(database, "w", 60.0)
    assert held is not None
    assert held.kind == JobKind.UNLEARN
    assert not yields(database, held)


def test_a_job_gives_way_to_a_purge_that_waits_for_it_whoever_is_free(trained: Trained) -> None:
    database = trained.account.database
    with database.write() as session:
        enqueue(session, tenant_id=keys.FIRST_TENANT, kind=JobKind.TRAIN, lane="model:x", dataset_id=trained.dataset)
        session.add(Worker(name="free", device="cpu", label="cpu", kinds=[], seen_at=db.now(session)))
    held = claim(database, "w", 60.0)
    assert held is not None
    made = trained.delete(trained.ids[:2])["id"]
    due_in(database, made, seconds=60)
    with database.write() as session:
        session.execute(update(Job).where(Job.kind == JobKind.UNLEARN).values(state="succeeded"))
        assert not gives_way(session, held, Takes())
        enqueue(
            session,
            tenant_id=keys.FIRST_TENANT,
            kind=JobKind.PURGE,
            lane=f"dataset:{trained.dataset}",
            dataset_id=trained.dataset,
            request_id=made,
        )
    assert claim(database, "free", 60.0) is None, "the purge waits for what trains on the samples"
    assert yields(database, held)


def test_of_two_deadlines_the_nearer_is_first_whatever_came_first(trained: Trained) -> None:
    account = trained.account
    requests = [trained.delete(trained.ids[number : number + 1])["id"] for number in range(2)]
    jobs = []
    with account.database.write() as session:
        session.execute(update(Job).where(Job.kind == "unlearn").values(state="succeeded"))
        session.execute(
            update(DeletionRequest)
            .where(DeletionRequest.id == requests[1])
            .values(due_at=db.now(session) + timedelta(hours=1))
        )
        for number, request in enumerate(requests):
            job = enqueue(
                session, tenant_id=keys.FIRST_TENANT, kind=JobKind.PURGE, lane=f"lane:{number}", request_id=request
            )
            jobs.append(job.id)
    assert [taken(account.database), taken(account.database)] == [jobs[1], jobs[0]]


@pytest.mark.parametrize("held", [False, True])
def test_what_is_overdue_is_told_once(trained: Trained, held: bool) -> None:
    database, made = trained.account.database, trained.delete(trained.ids[:2])["id"]
    if held:
        trained.account.post(f"/v1/deletion-requests/{made}:hold", {"reason": "a court asked for it"})
    assert compliance.notice_overdue(database) == 0
    with database.write() as session:
        late = db.now(session) - timedelta(seconds=1)
        session.execute(update(DeletionRequest).where(DeletionRequest.id == made).values(due_at=late))
    assert [compliance.notice_overdue(database), compliance.notice_overdue(database)] == [1, 0]
    with database.read() as session:
        assert session.scalars(select(AuditEvent.object_id).where(AuditEvent.kind == "request.overdue")).all() == [made]


# -- a model's deletions among its other jobs ------------------------------------------------------


def for_nobody(trained: Trained, job: str) -> None:
    """Queue a job for a device that no worker has."""
    with trained.account.database.write() as session:
        session.execute(update(Job).where(Job.id == job).values(device="npu"))


def put_back(database: Database, held: Claim, **how: Any) -> Claim | None:
    """It gives way; what its worker claims then."""
    with database.write() as session:
        step_aside(session, fenced(session, held))
    return claim(database, "w", 60.0, **how)


def test_an_imminent_deletion_behind_one_that_is_not_waits_for_no_training(trained: Trained) -> None:
    """As seen: the first, which might wait, kept the second behind a training that nobody took."""
    account = trained.account
    for_nobody(trained, account.post(f"{trained.where}:train", {"seed": 1})["id"])
    first, second = (trained.delete(trained.ids[at : at + 2])["id"] for at in (0, 4))
    due_in(account.database, first, days=29)
    due_in(account.database, second, hours=2)
    account.work()
    assert [trained.request({"id": each})["status"] for each in (first, second)] == ["processing", "fulfilled"]
    due_in(account.database, first, hours=20)
    account.work()
    assert trained.request({"id": first})["status"] == "fulfilled"


@pytest.mark.parametrize("rule", ["each", "batch"])
def test_a_training_gives_way_once_to_a_later_request_that_is_imminent(trained: Trained, rule: str) -> None:
    """As seen: it gave way, claimed itself again, and so on; or not at all, where that request awaits its batch."""
    account, database = trained.account, trained.account.database
    if rule == "batch":
        with database.write() as session:
            model = session.get_one(Model, trained.model)
            when = {"mode": "batch", "max_requests": 1, "max_samples": 1000, "max_age_seconds": 60}
            model.policy = {**model.policy, "when": when}
    account.post(f"{trained.where}:train", {"seed": 1})
    held = claim(database, "w", 60.0)
    assert held is not None
    due_in(database, trained.delete(trained.ids[:2])["id"], days=29)
    due_in(database, trained.delete(trained.ids[4:6])["id"], hours=2)
    assert yields(database, held)
    found = put_back(database, held)
    assert found is not None
    assert found.kind == JobKind.UNLEARN


def test_a_model_that_never_learned_keeps_no_imminent_request(trained: Trained) -> None:
    """As seen: its first training waited for a device that was gone."""
    account = trained.account
    other = account.model(trained.dataset, train=False)["id"]
    for_nobody(trained, account.post(f"/v1/models/{other}:train", {"seed": 1})["id"])
    made = trained.delete(trained.ids[:2])
    due_in(account.database, made["id"], hours=2)
    account.work()
    assert trained.request(made)["status"] == "fulfilled"


def test_a_comparison_behind_a_long_training_keeps_no_imminent_purge(trained: Trained) -> None:
    account, database = trained.account, trained.account.database
    long = account.post(f"{trained.where}:train", {"seed": 1})["id"]
    for_nobody(trained, long)
    made = trained.delete(trained.ids[:2])
    due_in(database, made["id"], hours=2)
    body = {"seed": 1, "compare_only": True, "exclude_request": made["id"]}
    compared = account.post(f"{trained.where}:train", body)["id"]
    account.work()
    assert trained.request(made)["status"] == "fulfilled"
    with database.write() as session:
        session.execute(update(Job).where(Job.id == long).values(device=None))
    account.work()
    assert account.get(f"/v1/jobs/{compared}")["problem"]["type"].endswith("/samples-erased")


def test_nothing_gives_way_to_what_its_worker_cannot_take(trained: Trained) -> None:
    """As seen: a worker for trainings put its training back and claimed it again, for ever."""
    account, database = trained.account, trained.account.database
    account.post(f"{trained.where}:train", {"seed": 1})
    trains = Takes(kinds=frozenset({JobKind.TRAIN}))
    held = claim(database, "w", 60.0, takes=trains)
    assert held is not None
    due_in(database, trained.delete(trained.ids[:2])["id"], hours=20)
    with database.write() as session:
        assert not gives_way(session, held, trains)
        session.add(Worker(name="free", device="cpu", label="cpu", kinds=[], seen_at=db.now(session)))
    with database.read() as session:
        assert gives_way(session, held, trains), "another worker takes it"


def test_a_comparison_keeps_no_purge(trained: Trained) -> None:
    """As read: within a day of its request's due date it gave way to nothing, so that it made that very request late;
    and for a request on hold for ever."""
    database = trained.account.database
    made = trained.delete(trained.ids[:2])["id"]
    due_in(database, made, hours=1)
    compared(trained, made)
    published(trained)
    held = claim(database, "w", 60.0)
    assert held is not None
    assert held.params["exclude_request"] == made
    assert not yields(database, held)
    purge = purges(trained, made)
    assert yields(database, held)
    found = put_back(database, held)
    assert found is not None
    assert found.id == purge


def request_of(trained: Trained, found: Claim | None) -> str:
    """The request that the claimed unlearning carries out."""
    assert found is not None
    with trained.account.database.read() as session:
        return session.scalars(select(OutcomeRow.request_id).where(OutcomeRow.job_id == found.id)).one()


def compared(trained: Trained, request: str) -> str:
    """The job of a retraining that the request is compared with."""
    body = {"seed": 1, "compare_only": True, "exclude_request": request}
    return str(trained.account.post(f"{trained.where}:train", body)["id"])


def test_a_purge_passes_one_that_waits_for_its_comparison(trained: Trained) -> None:
    """As read: it stood behind it in the dataset's lane, and no deadline brought it past."""
    account = trained.account
    one = trained.delete(trained.ids[:2])
    due_in(account.database, one["id"], days=20)
    for_nobody(trained, compared(trained, one["id"]))
    account.work()
    two = trained.delete(trained.ids[4:6])
    due_in(account.database, two["id"], hours=1)
    account.work()
    assert [trained.request(each)["status"] for each in (one, two)] == ["published", "fulfilled"]


def test_of_a_models_unlearnings_the_one_that_is_due_leads(trained: Trained) -> None:
    """As read: the last of many waited for all before it, and had lent them its deadline."""
    made = [trained.delete(trained.ids[at : at + 1])["id"] for at in range(4)]
    due_in(trained.account.database, made[2], hours=2)
    due_in(trained.account.database, made[3], hours=1)
    order = []
    for _ in made:
        found = claim(trained.account.database, "w", 60.0, hint=made[1])
        order.append(request_of(trained, found))
        published_one(trained, found)
    assert order == [made[3], made[2], made[0], made[1]]


def published_one(trained: Trained, found: Claim | None) -> None:
    assert found is not None
    with trained.account.database.write() as session:
        session.execute(update(OutcomeRow).where(OutcomeRow.job_id == found.id).values(state="published"))
        session.execute(update(Job).where(Job.id == found.id).values(state="succeeded"))


def test_what_is_due_in_six_days_gives_way_to_an_hour(trained: Trained) -> None:
    """As read: a comparison, or an unlearning, with any urgent deadline of its own kept the only worker."""
    database = trained.account.database
    one = trained.delete(trained.ids[:2])["id"]
    due_in(database, one, days=6)
    held = claim(database, "w", 60.0)
    two = trained.delete(trained.ids[4:6])["id"]
    due_in(database, two, days=5)
    assert held is not None
    assert not yields(database, held), "both are urgent"
    due_in(database, two, hours=1)
    published_one(trained, held)
    compared(trained, one)
    with database.write() as session:
        session.execute(update(Job).where(Job.kind == JobKind.UNLEARN).values(available_at=db.now(session) + DAY))
    held = claim(database, "w", 60.0)
    assert held is not None
    assert held.params["exclude_request"] == one
    assert not yields(database, held), "what pauses takes nobody's place"
    with database.write() as session:
        session.execute(update(Job).where(Job.kind == JobKind.UNLEARN).values(available_at=db.now(session)))
    assert yields(database, held)
    assert request_of(trained, put_back(database, held)) == two


def test_what_gave_way_to_another_workers_job_is_not_taken_back_first(trained: Trained) -> None:
    """As read: a worker for trainings put its training back and had it again before the other looked, whose hint was
    spent behind it."""
    account, database = trained.account, trained.account.database
    account.post(f"{trained.where}:train", {"seed": 1})
    trains = Takes(kinds=frozenset({JobKind.TRAIN}))
    held = claim(database, "w", 60.0, takes=trains)
    assert held is not None
    due_in(database, trained.delete(trained.ids[:2])["id"], hours=20)
    outbox.relay_hints(database, outbox.discard)
    with database.write() as session:
        session.add(Worker(name="b", device="cpu", label="cpu", kinds=["unlearn", "purge"], seen_at=db.now(session)))
    with database.read() as session:
        assert gives_way(session, held, trains)
    assert put_back(database, held, takes=trains) is None
    sent: list[str] = []
    outbox.relay_hints(database, lambda _job, queue: sent.append(queue))
    assert [each for each in sent if each.startswith("lethe.unlearn")]
    assert request_of(trained, claim(database, "b", 60.0, takes=Takes(kinds=frozenset({JobKind.UNLEARN}))))


def test_what_is_on_hold_lends_no_deadline(trained: Trained) -> None:
    """As read: since a hold that was long over its date, every unlearning of its model counted as overdue."""
    account, database = trained.account, trained.account.database
    other = account.model(trained.dataset)["id"]
    held = trained.delete(trained.ids[:1], model=trained.model)["id"]
    account.post(f"/v1/deletion-requests/{held}:hold", {"reason": "litigation"})
    due_in(database, held, days=-90)
    due_in(database, trained.delete(trained.ids[1:2], model=trained.model)["id"], days=29)
    near = trained.delete(trained.ids[2:3], model=other)["id"]
    due_in(database, near, hours=1)
    assert request_of(trained, claim(database, "w", 60.0)) == near


def test_a_refusing_storage_is_told_when_it_has_refused_for_so_long(trained: Trained) -> None:
    """As read: tries were counted, which a give-way also makes, and of which a busy worker makes one an hour."""
    database, waits = trained.account.database, problem("storage-unavailable", "the storage is away")
    job = trained.account.post(f"{trained.where}:train", {"seed": 1})["id"]

    def fails(**how: Any) -> dict[str, Any] | None:
        held = claim(database, "w", 60.0)
        assert held is not None
        with database.write() as session:
            row = fenced(session, held)
            requeue(session, row, "the storage is away", counted=False, **how)
            return row.problem

    def earlier(**how: float) -> None:
        with database.write() as session:
            row = session.get_one(Job, job)
            since = datetime.fromisoformat(row.params[REFUSED_SINCE]) - timedelta(**how)
            row.params = {**row.params, REFUSED_SINCE: since.isoformat()}

    hour = timedelta(hours=1)
    assert [fails() for _ in range(3)] == [None] * 3, "other ends are no refusals"
    assert [fails(waits=waits, patience=hour) for _ in range(3)] == [None] * 3
    earlier(hours=1)
    assert fails(waits=waits, patience=hour) == waits


def purges(trained: Trained, request: str, dataset: str | None = None) -> str:
    """A queued purge of the request."""
    dataset = dataset or trained.dataset
    fields: dict[str, Any] = {"tenant_id": keys.FIRST_TENANT, "kind": JobKind.PURGE, "lane": f"dataset:{dataset}"}
    with trained.account.database.write() as session:
        return enqueue(session, **fields, dataset_id=dataset, request_id=request).id


def published(trained: Trained) -> None:
    """As if all that is to be unlearned were."""
    with trained.account.database.write() as session:
        session.execute(update(Job).where(Job.kind == JobKind.UNLEARN).values(state="succeeded"))
        session.execute(update(OutcomeRow).values(state="published"))


def test_two_workers_that_train_on_a_dataset_make_room_for_an_imminent_purge(trained: Trained) -> None:
    """As read: each gave way while the other ran, and took its training again, for ever."""
    database = trained.account.database
    fields: dict[str, Any] = {"tenant_id": keys.FIRST_TENANT, "kind": JobKind.TRAIN, "dataset_id": trained.dataset}
    for number in range(3):
        with database.write() as session:
            enqueue(session, **fields, lane=f"model:{number}")
    one, two = claim(database, "one", 60.0), claim(database, "two", 60.0)
    assert one is not None
    assert two is not None
    made = trained.delete(trained.ids[:2])["id"]
    published(trained)
    due_in(database, made, hours=1)
    purge = purges(trained, made)
    assert yields(database, one)
    assert put_back(database, one) is None
    with database.write() as session:
        session.execute(update(Job).where(Job.state == "queued").values(available_at=db.now(session)))
    assert claim(database, "one", 60.0) is None, "neither that training nor the third begins"
    assert yields(database, two)
    found = put_back(database, two)
    assert found is not None
    assert found.id == purge


def test_trainings_of_a_tenant_take_no_turn_from_its_deletions(trained: Trained) -> None:
    """As read: each training that another worker took made its tenant's imminent deletion the last again."""
    database, other = trained.account.database, another_tenant(trained.account.database)
    made = [trained.delete(trained.ids[at : at + 1])["id"] for at in range(4)]
    published(trained)
    for each in made[:3]:
        due_in(database, each, days=-9)
        purges(trained, each)
    due_in(database, made[3], hours=1)
    last = purges(trained, made[3])
    with database.write() as session:
        session.execute(update(Job).where(Job.id == last).values(tenant_id=other))
    order = []
    for _ in range(2):
        trains = train(database, other, "model:theirs")
        assert ended(database, JobKind.TRAIN) == trains
        order.append(ended(database, JobKind.PURGE))
    assert last in order


def ended(database: Database, kind: JobKind) -> str:
    """The job of that kind that was claimed, and is over."""
    found = claim(database, "w", 60.0, takes=Takes(kinds=frozenset({kind})))
    assert found is not None
    with database.write() as session:
        session.execute(update(Job).where(Job.id == found.id).values(state="succeeded"))
    return found.id


def test_an_unlearning_gives_way_to_an_imminent_one_of_its_model(trained: Trained) -> None:
    """As read: the later one's deadline counted as its own, and so protected what kept it."""
    database = trained.account.database
    due_in(database, trained.delete(trained.ids[:2])["id"], days=29)
    held = claim(database, "w", 60.0)
    assert held is not None
    two = trained.delete(trained.ids[4:6])["id"]
    due_in(database, two, days=2)
    assert not yields(database, held)
    due_in(database, two, hours=1)
    assert yields(database, held)
    assert request_of(trained, put_back(database, held)) == two


def test_what_stands_aside_keeps_its_place_in_the_lane(trained: Trained) -> None:
    """As read: for so long the lane was open to the next training of the model."""
    database = trained.account.database
    first, _second = (train(database, keys.FIRST_TENANT, "model:one") for _ in range(2))
    held = claim(database, "w", 60.0)
    assert held is not None
    assert held.id == first
    assert put_back(database, held) is None


# -- every pair ------------------------------------------------------------------------------------

KINDS = ("training", "comparison", "unlearning", "purge")
DATES: dict[str, dict[str, float]] = {"imminent": {"hours": 2}, "urgent": {"days": 3}, "far": {"days": 25}}


class Pairs:
    """A job of each kind and date, of which a test lets two be there."""

    def __init__(self, trained: Trained) -> None:
        self.trained, self.database = trained, trained.account.database
        self.jobs: dict[tuple[str, str], str] = {}
        self.requests: dict[str, str] = {}
        cases = [(kind, date) for kind in KINDS[1:] for date in DATES]
        for number, (kind, date) in enumerate(cases):
            request = trained.delete(trained.ids[number : number + 1])["id"]
            due_in(self.database, request, **DATES[date])
            with self.database.write() as session:
                unlearning = session.scalars(select(OutcomeRow.job_id).where(OutcomeRow.request_id == request)).one()
                session.execute(update(Job).where(Job.id == unlearning).values(lane=f"model:{number}"))
                fields: dict[str, Any] = {"tenant_id": keys.FIRST_TENANT, "dataset_id": trained.dataset}
                if kind == "comparison":
                    params = {"exclude_request": request}
                    made = enqueue(session, **fields, kind=JobKind.TRAIN, lane=f"model:{number}", params=params).id
                elif kind == "purge":
                    made = enqueue(session, **fields, kind=JobKind.PURGE, lane=f"p:{number}", request_id=request).id
                else:
                    made = str(unlearning)
            self.jobs[kind, date], self.requests[made] = made, request
        with self.database.write() as session:
            fields = {"tenant_id": keys.FIRST_TENANT, "dataset_id": trained.dataset}
            self.jobs["training", "none"] = enqueue(session, **fields, kind=JobKind.TRAIN, lane="model:t").id
            self.other = enqueue(session, **fields, kind=JobKind.TRAIN, lane="model:other").id

    def only(self, held: str, waiting: str, *, beside: bool) -> Claim:
        """As it is while a worker runs the first, the second waits, and perhaps another trains on the dataset."""
        with self.database.write() as session:
            session.execute(update(Job).values(state="succeeded", owner=None))
            session.execute(update(OutcomeRow).values(state="published"))
            for job in (held, waiting):
                session.execute(update(OutcomeRow).where(OutcomeRow.job_id == job).values(state="batched"))
                values = {"state": "queued", "available_at": db.now(session), "attempts": 0}
                session.execute(update(Job).where(Job.id == job).values(**values))
            lease = db.now(session) + timedelta(minutes=5)
            running = {held: "w"} | ({self.other: "beside"} if beside else {})
            for job, owner in running.items():
                values = {"state": "running", "owner": owner, "lease_until": lease}
                session.execute(update(Job).where(Job.id == job).values(**values))
            row = session.get_one(Job, held)
            same = {name: getattr(row, name) for name in Claim.__dataclass_fields__ if name not in ("kind", "owner")}
            return Claim(**same, kind=JobKind(row.kind), owner="w")


@pytest.mark.validation
@pytest.mark.parametrize("beside", [False, True])
def test_no_two_jobs_put_each_other_back(trained: Trained, beside: bool) -> None:
    """Comparisons and purges of one day did, for ever: whoever ran gave way to the one that waited. And a job that made
    room for a purge began again while the purge still waited for another."""
    pairs = Pairs(trained)
    gave: set[tuple[tuple[str, str], tuple[str, str]]] = set()
    for one, held in pairs.jobs.items():
        for two, waiting in pairs.jobs.items():
            if held == waiting:
                continue
            claimed = pairs.only(held, waiting, beside=beside)
            if not yields(pairs.database, claimed):
                continue
            gave.add((one, two))
            with pairs.database.write() as session:
                step_aside(session, fenced(session, claimed))
                session.flush()
                session.execute(update(Job).where(Job.id == held).values(available_at=db.now(session)))
            found = claim(pairs.database, "w", 60.0)
            assert found is None or found.id == waiting, f"{one} gave way to {two}, and began again"
    assert len(gave) > 10
    assert not {pair for pair in gave if pair[::-1] in gave}
    first = ("unlearning", "imminent")
    assert {two for one, two in gave if one == first} == set(), "what deletes at once gives way to nothing"
    kept = {("purge", "imminent"), ("purge", "urgent"), ("unlearning", "imminent"), ("unlearning", "urgent")}
    assert {two for one, two in gave if one == ("training", "none")} >= (kept if not beside else {first})
