"""In which order jobs are claimed: legal deadlines first, then tenants in turn."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select, update

from app.core import db, keys
from app.core.db import Database
from app.core.tables import AuditEvent, DeletionRequest, Job, Tenant
from app.deletions import compliance
from app.jobs import claim, enqueue
from app.rules.states import JobKind
from tests.trained import Trained


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


def test_a_deadline_goes_before_every_hint_and_the_nearest_first(trained: Trained) -> None:
    account = trained.account
    waiting = train(account.database, keys.FIRST_TENANT, "model:long")
    made = trained.delete(trained.ids[:2])
    other = account.model(trained.dataset, train=False)["id"]
    [unlearn] = [job["id"] for job in account.get("/v1/jobs", kind="unlearn")["items"]]
    assert taken(account.database, waiting) == unlearn
    with account.database.write() as session:
        session.execute(update(Job).where(Job.id == unlearn).values(state="succeeded"))
        hurried = enqueue(
            session, tenant_id=keys.FIRST_TENANT, kind=JobKind.PURGE, lane=f"model:{other}", request_id=made["id"]
        ).id
    assert [taken(account.database, waiting), taken(account.database)] == [hurried, waiting]


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


def test_what_is_overdue_is_told_once(trained: Trained) -> None:
    database, made = trained.account.database, trained.delete(trained.ids[:2])["id"]
    assert compliance.notice_overdue(database) == 0
    with database.write() as session:
        late = db.now(session) - timedelta(seconds=1)
        session.execute(update(DeletionRequest).where(DeletionRequest.id == made).values(due_at=late))
    assert [compliance.notice_overdue(database), compliance.notice_overdue(database)] == [1, 0]
    with database.read() as session:
        assert session.scalars(select(AuditEvent.object_id).where(AuditEvent.kind == "request.overdue")).all() == [made]
