"""Canaries: forgotten along with real samples, never erased, and measured at any time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update

from app.core import crash_points
from app.core.positions import members
from app.core.tables import AuditEvent, AuditRow, Dataset, Job, Model, Sample, Version
from app.datasets import canaries
from app.deletions import batches, shams
from app.models import versions
from tests.helpers import is_problem
from tests.support import QUICK_POLICY
from tests.trained import Trained
from tests.worker.test_audits import audit
from worker.run_one import run_one


@pytest.fixture
def planted(trained: Trained) -> Trained:
    """Every third sample of the train split and every second held-out one is a canary; 20 go with each job."""
    with trained.account.database.write() as session:
        for held, step in ((False, 3), (True, 2)):
            query = select(Sample.position).where(Sample.holdout == held).order_by(Sample.position)
            chosen = session.scalars(query).all()[::step]
            session.execute(update(Sample).where(Sample.position.in_(chosen)).values(subject=canaries.SUBJECT))
    set_policy(trained, canaries=20)
    return trained


NOBODY = np.array([], dtype=np.int64)
WILD = {"name": "amun", "params": {"epochs": 2, "learning_rate": 5.0, "batch_size": 64}}


def set_policy(trained: Trained, **parts: Any) -> None:
    answer = trained.account.http.put(f"{trained.where}/policy", json={**QUICK_POLICY, **parts})
    assert answer.status_code == 200, answer.text


def plain(planted: Trained) -> list[str]:
    """Ids of the train split that are no canaries."""
    return [name for number, name in enumerate(planted.ids) if number % 3]


def trained_on(planted: Trained, number: int) -> set[int]:
    with planted.account.database.read() as session:
        row = session.scalars(select(Version).where(Version.model_id == planted.model, Version.number == number)).one()
        return set(members(row.trained_on, len(row.trained_on) * 8).tolist())


def of(planted: Trained, where: Any) -> set[int]:
    with planted.account.database.read() as session:
        return set(session.scalars(select(Sample.position).where(where)))


@pytest.mark.validation
def test_each_job_forgets_some_along_and_erases_none(planted: Trained) -> None:
    every = of(planted, Sample.subject == canaries.SUBJECT)
    before = trained_on(planted, 1)
    for number, name in ((2, plain(planted)[0]), (3, plain(planted)[1])):
        request = planted.forget([name])
        assert request["status"] == "fulfilled"
        after = trained_on(planted, number)
        gone = before - after
        assert len(gone) == 21
        assert len(gone & every) == 20
        before = after
    assert of(planted, Sample.subject == canaries.SUBJECT) == every
    dataset = planted.account.get(f"/v1/datasets/{planted.dataset}")
    assert dataset["erased_samples"] == 2
    jobs = planted.account.get("/v1/jobs", kind="unlearn")["items"]
    assert [job["result"]["canaries"] for job in jobs] == [20, 20]
    report = planted.account.get(f"{planted.where}/versions/3/audit")["report"]
    assert (report["forget_samples"], report["canaries"], report["of"]) == (1, 20, "forget-set")
    assert report["retain_samples"] == len(after - every)  # like with like: no canary is in a figure of a request
    assert report["test_samples"] == report["candidate"]["ft_auc"]["negatives"] == 899 - 450
    assert report["adversarial"]["total"] == 1
    page = planted.account.http.get(f"{planted.where}/versions/3/audit", headers={"Accept": "text/html"}).text
    assert "forgot 20 canary samples along" in page


def test_all_that_were_forgotten_so_far_are_measured_against_those_held_out(planted: Trained) -> None:
    for name in plain(planted)[:2]:
        planted.forget([name])
    every = of(planted, Sample.subject == canaries.SUBJECT)
    held_out = every & of(planted, Sample.holdout)
    report = audit(planted, canaries=True)
    assert (report["of"], report["version"], report["canaries"]) == ("canaries", 3, 0)
    assert (report["forget_samples"], report["test_samples"]) == (40, len(held_out))
    assert report["candidate"]["ft_auc"]["positives"] == 40
    assert report["candidate"]["ft_auc"]["negatives"] == len(held_out) == 450
    assert report["candidate"]["rt_auc"] == report["control"]["ft_auc"]
    known = len(every & trained_on(planted, 3))
    assert report["control"]["ft_auc"]["positives"] == known == len(every - held_out) - 40
    assert (report["parent"], report["parent_checkpoint"], report["gate"]) == (None, None, None)
    assert audit(planted, canaries=True, version=2)["forget_samples"] == 20
    page = planted.account.http.get(f"{planted.where}/versions/3/audit", headers={"Accept": "text/html"}).text
    assert "canaries that this version still knows" not in page  # it shows what the version was published with
    with planted.account.database.read() as session:
        newest = session.scalars(select(AuditRow.id).where(AuditRow.version == 3).order_by(AuditRow.id.desc())).first()
    where = f"{planted.where}/versions/3/audits/{newest}"
    page = planted.account.http.get(where, headers={"Accept": "text/html"}).text
    assert "40 forgotten canary samples" in page
    assert "the canaries that this version still knows" in page


@pytest.mark.validation
def test_canaries_too_few_for_any_margin_are_not_measured(planted: Trained) -> None:
    set_policy(planted, canaries=2)
    planted.forget(plain(planted)[:1])
    refused = planted.account.http.post(f"{planted.where}:audit", json={"canaries": True})
    is_problem(refused, 409, "too-few-canaries")
    assert "2 forgotten canaries beside 450" in refused.json()["detail"]


def test_without_held_out_canaries_the_whole_holdout_is_their_control(planted: Trained) -> None:
    with planted.account.database.write() as session:
        session.execute(update(Sample).where(Sample.holdout).values(subject=None))
    planted.forget(plain(planted)[:1])
    assert audit(planted, canaries=True)["test_samples"] == len(of(planted, Sample.holdout))


def test_a_deletion_of_canaries_erases_them_like_any_sample(planted: Trained) -> None:
    planted.forget(plain(planted)[:1])
    asked = {"dataset": planted.dataset, "subjects": [canaries.SUBJECT]}
    made = planted.account.post("/v1/deletion-requests", asked, 202)
    planted.account.work()
    assert planted.request(made)["status"] == "fulfilled"
    assert of(planted, Sample.subject == canaries.SUBJECT) == set()
    is_problem(planted.account.http.post(f"{planted.where}:audit", json={"canaries": True}), 409, "no-canaries")


def test_a_draw_is_frozen_random_and_leaves_out_what_is_requested(planted: Trained) -> None:
    with planted.account.database.write() as session:
        dataset, model = session.get_one(Dataset, planted.dataset), session.get_one(Model, planted.model)
        parent = session.scalars(select(Version)).one()
        every = canaries.of_version(session, dataset, parent).known
        first = canaries.draw(session, dataset, model, parent, NOBODY, 20)
        assert canaries.draw(session, dataset, model, parent, NOBODY, 20).tolist() == first.tolist()
        assert set(first) < set(every)
        assert first.tolist() != every[:20].tolist()
        assert canaries.draw(session, dataset, model, parent, NOBODY, 10_000).tolist() == every.tolist()
        assert not len(canaries.draw(session, dataset, model, parent, NOBODY, 0))
    spare = np.setdiff1d(every, first)
    taken = np.array([*spare[:49], first[0]])
    names = dict(zip(every, planted.ids[::3], strict=True))
    planted.delete([names[position] for position in taken])  # asked for, not yet carried out
    with planted.account.database.read() as session:
        dataset, model = session.get_one(Dataset, planted.dataset), session.get_one(Model, planted.model)
        parent = session.scalars(select(Version)).one()
        left = canaries.draw(session, dataset, model, parent, NOBODY, 10_000)
        assert left.tolist() == np.setdiff1d(every, taken).tolist()
        again = canaries.draw(session, dataset, model, parent, NOBODY, 20)
        assert set(first[1:]) < set(again), "but for the one that was requested it is the same draw"


@pytest.mark.validation
def test_an_escalation_keeps_the_draw(planted: Trained) -> None:
    """The policy's method loses too much accuracy by its rate; the exact retrain after it forgets the same."""
    set_policy(planted, canaries=20, method=WILD, utility_floor=0.0)
    request = planted.forget(plain(planted)[:1])
    assert request["status"] == "fulfilled"
    first, last = reversed(planted.account.get("/v1/jobs", kind="unlearn")["items"])
    assert (first["state"], last["state"]) == ("rejected", "succeeded")
    assert first["result"]["canaries"] == last["result"]["canaries"] == 20
    assert len(trained_on(planted, 1) - trained_on(planted, 2)) == 21
    with planted.account.database.read() as session:
        parent = session.scalars(select(Version).where(Version.number == 1)).one()
        dataset, model = session.get_one(Dataset, planted.dataset), session.get_one(Model, planted.model)
        drawn = set(canaries.draw(session, dataset, model, parent, NOBODY, 20).tolist())
    assert drawn < trained_on(planted, 1) - trained_on(planted, 2)


def test_no_class_is_emptied_by_what_nobody_asked_for(planted: Trained) -> None:
    """Every sample of class 3 but two is a canary, and one of the two is deleted; of class 4 every one is."""
    train, classes = of(planted, ~Sample.holdout), (of(planted, Sample.label == 3), of(planted, Sample.label == 4))
    three, four = (sorted(train & each) for each in classes)
    with planted.account.database.write() as session:
        chosen = Sample.position.in_([*three[2:], *four])
        session.execute(update(Sample).where(chosen).values(subject=canaries.SUBJECT))
        session.execute(update(Sample).where(Sample.position.in_(three[:2])).values(subject=None))
    set_policy(planted, canaries=100_000)
    names = dict(zip(sorted(train), planted.ids, strict=True))
    assert planted.forget([names[three[0]]])["status"] == "fulfilled"
    left = trained_on(planted, 2)
    assert left & set(three) == {three[1]}
    assert len(left & set(four)) == 1
    version = planted.account.get(f"{planted.where}/versions/2")
    assert version["state"] == "current"


def test_exact_retrains_made_while_a_request_waits_leave_out_what_its_job_will(planted: Trained) -> None:
    """Five of them give a person's samples their null, with canaries as without."""
    set_policy(planted, canaries=20, when={"mode": "batch", "max_requests": 2})
    names = plain(planted)[:30]
    with planted.account.database.write() as session:
        session.execute(update(Sample).where(Sample.sample_id.in_(names)).values(subject="somebody"))
    asked = {"dataset": planted.dataset, "subjects": ["somebody"]}
    made = planted.account.post("/v1/deletion-requests", asked, 202)
    for seed in range(5):
        body = {"seed": seed, "exclude_request": made["id"], "compare_only": True}
        planted.account.post(f"{planted.where}:train", body, 202)
    planted.account.work()
    set_policy(planted, canaries=20)
    with planted.account.database.write() as session:
        batches.close_now(session, session.get_one(Model, planted.model))
    planted.account.work()
    number = planted.account.get(planted.where)["current_version"]
    report = planted.account.get(f"{planted.where}/versions/{number}/audit")
    judged = report["report"]["judgement"]
    assert (judged["null_source"], judged["null_models"]) == ("retrained", 5)
    assert report["retrained"]["version"] < number
    listed = planted.account.post(f"{planted.where}:audit", {"canaries": True}, 202)
    planted.account.work()
    made_by = planted.account.get(f"/v1/jobs/{listed['id']}")["result"]
    beside = planted.account.get(f"{planted.where}/versions/{number}/audits/{made_by['audit']}")
    assert beside["report"]["of"] == "canaries"
    assert beside["retrained"] is None  # which was measured on the person's samples


@pytest.mark.validation
def test_a_holdout_of_canaries_alone_still_holds_the_utility_floor(planted: Trained) -> None:
    with planted.account.database.write() as session:
        session.execute(update(Sample).where(Sample.holdout).values(subject=canaries.SUBJECT))
    set_policy(planted, canaries=20, method=WILD, utility_floor=0.0)
    planted.forget(plain(planted)[:1])
    first = planted.account.get("/v1/jobs", kind="unlearn")["items"][-1]
    assert first["state"] == "rejected"
    report = planted.account.get(f"/v1/jobs/{first['id']}/audit")["report"]
    assert report["test_samples"] == 899
    assert report["judgement"]["utility_kept"] is False


@pytest.mark.validation
def test_probes_run_on_canaries_only_where_they_are_named(planted: Trained) -> None:
    relearn = {"name": "relearn", "params": {"most_steps": 2}}
    set_policy(planted, canaries=20, probes=[relearn])
    planted.forget(plain(planted)[:1])
    assert audit(planted, canaries=True)["probes"] == []
    assert [each["name"] for each in audit(planted, canaries=True, probes=[relearn])["probes"]] == ["relearn"]


def test_a_model_says_that_there_are_none_to_forget(planted: Trained) -> None:
    assert planted.account.get(planted.where)["notes"] == []
    with planted.account.database.write() as session:
        session.execute(update(Sample).values(subject=None))
    assert "the dataset has none" in planted.account.get(planted.where)["notes"][0]
    set_policy(planted)
    assert planted.account.get(planted.where)["notes"] == []


def test_who_asks_for_a_canary_that_was_forgotten_along_is_told_so(planted: Trained) -> None:
    """It was requested while the job that forgot it was under way."""
    planted.delete(plain(planted)[:1])
    with planted.account.database.read() as session:
        dataset, model = session.get_one(Dataset, planted.dataset), session.get_one(Model, planted.model)
        drawn = canaries.draw(session, dataset, model, session.scalars(select(Version)).one(), NOBODY, 20)
        batch = versions.batch(session, jobs_of(planted)[0], dataset, session.scalars(select(Version)).one(), 20)
        assert batch.canaries.tolist() == drawn.tolist()
    resources = planted.account.resources
    with catching(drawn[:1], planted):
        run_one(resources, "tester")
    planted.account.work()
    late = planted.account.get("/v1/deletion-requests")["items"][0]
    assert late["status"] == "fulfilled"
    assert (
        late["outcomes"][0]["reason"] == "the current version has been made to forget these samples before, as canaries"
    )


def jobs_of(planted: Trained) -> list[str]:
    return [job["id"] for job in planted.account.get("/v1/jobs", kind="unlearn")["items"]]


@contextmanager
def catching(positions: Any, planted: Trained) -> Iterator[None]:
    """A request for these comes in when the job has fine-tuned."""
    with planted.account.database.read() as session:
        chosen = Sample.position.in_(positions.tolist())
        names = list(session.scalars(select(Sample.sample_id).where(chosen)))

    def ask(name: str) -> None:
        if name == "unlearn.audit.begin":
            planted.delete(names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crash_points, "point", ask)
        yield


@pytest.mark.validation
def test_what_cannot_be_measured_is_refused_with_words(planted: Trained) -> None:
    is_problem(planted.account.http.post(f"{planted.where}:audit", json={"canaries": True}), 409, "no-canaries")
    for other in ({"sample_ids": planted.ids[:1]}, {"grouped": True}):
        answer = planted.account.http.post(f"{planted.where}:audit", json={"canaries": True, **other})
        is_problem(answer, 422, "schema")
    transfer = {**QUICK_POLICY, "canaries": 5, "attack": {"name": "transfer"}}
    refused = is_problem(planted.account.http.put(f"{planted.where}/policy", json=transfer), 422, "schema")
    assert "knows no example of canaries" in refused["errors"][0]["detail"]


def test_canaries_that_a_request_names_are_no_coins_toss(planted: Trained) -> None:
    """Who names them may have seen what the model says of them; their erasure is their own affair."""
    set_policy(planted, canaries=20, when={"mode": "batch", "max_requests": 9, "max_age_seconds": 86400})
    database = planted.account.database
    with database.read() as session:
        rows = session.execute(select(Sample.sample_id, Sample.position, Sample.holdout).order_by(Sample.position))
        mine = [row for row in rows if row.position in of(planted, Sample.subject == canaries.SUBJECT)]
    named = [row for row in mine if not row.holdout][:5] + [row for row in mine if row.holdout][:3]
    planted.delete([row.sample_id for row in named])
    with database.read() as session:
        model = session.get_one(Model, planted.model)
        version = versions.current(session, model)
        assert version is not None
        found = canaries.of_version(session, session.get_one(Dataset, planted.dataset), version)
    groups = [*found.forgotten.tolist(), *found.known.tolist(), *found.held_out.tolist()]
    assert len(groups) == len(mine) - len(named)
    assert not set(groups) & {row.position for row in named}


# -- shams -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", ["sqlite"], indirect=True)
def test_a_sham_is_audited_from_time_to_time_and_must_fail(planted: Trained) -> None:
    database = planted.account.database
    assert shams.start_due(database) == 1
    assert shams.start_due(database) == 0, "once in a while"
    planted.account.work()
    (job,) = planted.account.get("/v1/jobs", kind="audit")["items"]
    report = planted.account.get(f"/v1/jobs/{job['id']}/audit")["report"]
    assert (report["sham"], report["of"], report["next_steps"]) == (True, "canaries", [])
    known = len(of(planted, Sample.subject == canaries.SUBJECT) & trained_on(planted, 1))
    assert report["forget_samples"] == known // 2
    assert report["candidate"]["accuracy_forget"] == pytest.approx(report["control"]["accuracy_forget"], abs=0.15)
    answer = planted.account.http.get(f"{planted.where}/versions/1/audit")
    assert answer.status_code == 404, "it says nothing of the version"
    missed = report["judgement"]["verdict"] != "fail"
    with database.read() as session:
        found = session.scalars(select(AuditEvent.kind).where(AuditEvent.kind == shams.MISSED)).all()
    assert bool(found) == missed
    metrics = planted.account.http.get("/metrics").text
    assert f"lethe_audit_shams_missed_total {float(missed)}" in metrics
    page = planted.account.http.get(f"/v1/jobs/{job['id']}/audit", headers={"Accept": "text/html"}).text
    assert "nothing was unlearned" in page
    assert ("It did not" in page) == missed
    _age(planted, 31)
    assert shams.start_due(database) == 1
    set_policy(planted, canaries=20, sham_seconds=0)
    _age(planted, 99)
    assert shams.start_due(database) == 0


def _age(planted: Trained, days: int) -> None:
    with planted.account.database.write() as session:
        for job in session.scalars(select(Job)):
            job.created_at -= timedelta(days=days)


@pytest.mark.parametrize("trained", ["sqlite"], indirect=True)
@pytest.mark.parametrize("end", ["failed", "dead", "cancelled"])
def test_a_sham_that_was_not_measured_is_tried_again(planted: Trained, end: str) -> None:
    database = planted.account.database
    assert shams.start_due(database) == 1
    with database.write() as session:
        session.execute(update(Job).where(Job.kind == "audit").values(state=end))
    assert shams.start_due(database) == 0, "not at once"
    _age(planted, 1)
    assert shams.start_due(database) == 1


@pytest.mark.parametrize("trained", ["sqlite"], indirect=True)
def test_a_sham_that_the_audit_does_not_fail_is_an_alert(planted: Trained) -> None:
    policy = {"canaries": 20, "audit": {"name": "rmia", "params": {"margin": 0.49}}}
    set_policy(planted, **policy)
    assert shams.start_due(planted.account.database) == 1
    planted.account.work()
    with planted.account.database.read() as session:
        (event,) = session.scalars(select(AuditEvent).where(AuditEvent.kind == shams.MISSED)).all()
        assert event.data["verdict"] == "inconclusive"
    assert planted.account.get(f"/v1/jobs/{event.object_id}/audit")["report"]["sham"], "it can be looked up"
