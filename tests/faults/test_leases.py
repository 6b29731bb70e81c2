"""Who may write: the fence, the lane's index, compare-and-set. Each test turns red when its guard is removed."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from app import jobs
from app.blobs.folder import Stored
from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.errors import SupersededError
from app.core.keys import FIRST_TENANT
from app.core.tables import Dataset, Job, JobArtifact, Model, Outbox, Version, Worker
from app.jobs import Claim, LeaseLostError
from app.jobs.claiming import claim_once
from app.models import versions
from app.releases import publishing
from app.rules.states import JobKind, JobState
from tests.faults.harness import Case, Prepared, case_of, ended, state_of
from tests.support import eventually

LANES = 3


def enqueue(database: Database, count: int, lanes: int = LANES) -> list[str]:
    with database.write() as session:
        return [
            jobs.enqueue(session, tenant_id=FIRST_TENANT, kind=JobKind.TRAIN, lane=f"lane:{n % lanes}").id
            for n in range(count)
        ]


def there(database: Database, name: str = "w", label: str = "cpu", kinds: Sequence[str] = ()) -> None:
    """A worker that has just given a sign of life."""
    with database.write() as session:
        session.add(Worker(name=name, device="cpu", label=label, kinds=list(kinds), seen_at=db.now(session)))


def finish(database: Database, claim: Claim) -> None:
    with database.write() as session:
        jobs.finish(session, jobs.fenced(session, claim), JobState.SUCCEEDED)


def at_once(count: int, work: Callable[[int], None]) -> None:
    """Run `work(0)` … `work(count - 1)` in threads that start together; the first failure is raised here."""
    gate, failures = threading.Barrier(count), []

    def run(number: int) -> None:
        try:
            gate.wait()
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# -- the fence -------------------------------------------------------------------------------------


def stale_and_fresh(database: Database, settings: Settings) -> tuple[Claim, Claim]:
    """Two claims of one job, the first of which lost its lease to the second."""
    enqueue(database, 1)
    stale = jobs.claim(database, "first", settings.lease_seconds)
    assert stale is not None
    assert jobs.release(database, "first", "it was paused") == 1
    fresh = jobs.claim(database, "second", settings.lease_seconds)
    assert fresh is not None
    assert (fresh.id, fresh.fence, fresh.attempts) == (stale.id, stale.fence + 1, 2)
    return stale, fresh


WRITES: dict[str, Callable[[Any, Claim], Any]] = {
    "advance": lambda session, claim: jobs.advance(session, claim, "attack", 0.5),
    "keep": lambda session, claim: jobs.keep(session, claim, "candidate", "sha256:" + 64 * "0", {}),
    "finish": lambda session, claim: jobs.finish(session, jobs.fenced(session, claim), JobState.FAILED),
    "settle": lambda session, claim: publishing.nothing_to_forget(session, claim),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_claim_whose_fence_moved_on_changes_nothing(write: str, database: Database, settings: Settings) -> None:
    stale, fresh = stale_and_fresh(database, settings)
    with pytest.raises(LeaseLostError), database.write() as session:
        WRITES[write](session, stale)
    with pytest.raises(LeaseLostError):
        jobs.beat(database, stale, settings.lease_seconds)
    with database.read() as session:
        job = session.get_one(Job, fresh.id)
        assert (job.state, job.stage, job.owner) == ("running", None, "second")
        assert session.query(JobArtifact).count() == 0
    finish(database, fresh)


def test_a_claim_of_a_job_that_has_ended_changes_nothing(database: Database, settings: Settings) -> None:
    _, fresh = stale_and_fresh(database, settings)
    finish(database, fresh)
    with pytest.raises(LeaseLostError), database.write() as session:
        jobs.advance(session, fresh, "attack", 0.5)


@pytest.mark.parametrize("point", ["unlearn.finetune.begin", "unlearn.publish.begin"])
def test_a_worker_that_slept_past_its_lease_publishes_nothing(point: str, case: Case) -> None:
    """SIGSTOP, another worker publishes, SIGCONT: in a stage, and between the last check and the transaction."""
    with ended(case.worker(crash_at=f"stop:{point}", worker_name="zombie")) as zombie:
        eventually(lambda: state_of(zombie.pid) == "T", "the worker to stop itself")
        case.expire()
        case.run_one()
        published = case.account()["versions"]
        assert [(number, state) for number, _, _, state, _ in published] == [(1, "superseded"), (2, "current")]
        os.kill(zombie.pid, signal.SIGCONT)
        eventually(lambda: "lease was lost" in case.log.read_text(), "the stale worker to be refused")
        os.kill(zombie.pid, signal.SIGTERM)
        assert zombie.wait(60) == 0
    case.drain()
    job = case.job()
    assert (job.state, job.attempts, job.fence) == ("succeeded", 2, 2)
    account = case.account()
    assert [row[-1] for row in account["versions"]] == [row[-1] for row in published]
    assert account["request"] == ("accepted", True, "purged", 2)
    assert case.strays() == []


def test_two_publishers_with_one_parent_make_one_version(case: Case) -> None:
    """Compare-and-set: the second finds another current version than the one it worked from."""

    def publish(parent: int) -> None:
        with case.database.write() as session:
            model = session.get_one(Model, case.origin.model)
            version = publishing.add(
                session,
                model,
                origin="unlearned",
                parent=parent,
                stored=Stored("sha256:" + 64 * "0", 1),
                trained_on=versions.members(session.query(Version).first().trained_on, 1797),
                metrics={},
                job_id=None,
            )
            publishing.make_current(session, model, version)

    publish(1)
    with pytest.raises(SupersededError):
        publish(1)
    assert [(v.number, v.state) for v in case.rows(Version)] == [(1, "superseded"), (2, "current")]


# -- lanes -----------------------------------------------------------------------------------------


def test_the_database_refuses_a_second_running_job_of_a_lane(database: Database) -> None:
    enqueue(database, 2, lanes=1)
    with pytest.raises(IntegrityError, match=r"lane"), database.write() as session:
        session.execute(text("UPDATE jobs SET state = 'running'"))


def test_jobs_of_one_lane_never_overlap_and_each_is_claimed_once(database: Database, settings: Settings) -> None:
    ids = enqueue(database, 60)
    lane_of = {job_id: n % LANES for n, job_id in enumerate(ids)}
    running: set[int] = set()
    claimed: Counter[str] = Counter()
    overlaps: list[str] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        while jobs.has_work(database) or running:
            claim = jobs.claim(database, f"w{number}", 60.0)
            if claim is None:
                continue
            with lock:
                overlaps.extend([claim.id] if lane_of[claim.id] in running else [])
                running.add(lane_of[claim.id])
                claimed[claim.id] += 1
            with lock:
                running.discard(lane_of[claim.id])
            finish(database, claim)

    at_once(8, work)
    assert overlaps == []
    assert claimed == Counter(ids)


def blocked(database: Database) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.engine.connect() as connection:
        return bool(connection.execute(text(query)).scalar_one())


@pytest.mark.services
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
@pytest.mark.parametrize("guarded", [True, False], ids=["index", "no-index"])
def test_what_holds_a_lane_on_postgres_is_its_index(guarded: bool, database: Database) -> None:
    """A job is retried while its lane's next is being claimed: neither sees the other, and only the index does."""
    retried, claimed = enqueue(database, 2, lanes=1)
    bury(database, retried)
    if not guarded:
        with database.write() as session:
            session.execute(text("DROP INDEX uq_jobs_running_lane"))
    second: list[Claim | None] = []
    thread = threading.Thread(target=lambda: second.append(jobs.claim(database, "second", 60.0)))
    with database.write() as session:
        first = claim_once(session, "first", 60.0)
        assert first is not None
        assert first.id == claimed
        with database.write() as other:
            jobs.retry(other, other.get_one(Job, retried))
        thread.start()
        eventually(lambda: second or blocked(database), "the other worker to claim or to wait")
    thread.join()
    assert (second[0] is None) == guarded


def bury(database: Database, job_id: str) -> None:
    with database.write() as session:
        session.execute(text("UPDATE jobs SET state = 'dead' WHERE id = :id"), {"id": job_id})


# -- order within a lane ---------------------------------------------------------------------------


def test_a_hint_does_not_overtake_within_a_lane(database: Database) -> None:
    """A model's jobs run in the order of their making: unlearning must find the version that training makes."""
    first, second = enqueue(database, 2, lanes=1)
    taken = jobs.claim(database, "w", 60.0, hint=second)
    assert taken is not None
    assert taken.id == first


# -- hints -----------------------------------------------------------------------------------------


def test_a_hint_twenty_times_over_is_one_claim(database: Database) -> None:
    (job,) = enqueue(database, 1)
    claims: list[Claim] = []

    def work(number: int) -> None:
        for _ in range(5):
            if claim := jobs.claim(database, f"w{number}", 60.0, hint=job):
                claims.append(claim)

    at_once(4, work)
    assert [(claim.id, claim.attempts) for claim in claims] == [(job, 1)]


def test_a_lost_hint_is_sent_again_and_a_lost_lease_ends_once(database: Database, settings: Settings) -> None:
    (job,) = enqueue(database, 1)
    there(database)
    with database.write() as session:
        session.query(Outbox).delete()
    assert jobs.sweep(database, rehint_seconds=0.0) == (0, 1)
    with database.read() as session:
        assert [row.key for row in session.query(Outbox)] == [job]
    claim = jobs.claim(database, "gone", 1e-3)
    assert claim is not None
    found = eventually(lambda: jobs.sweep(database, 60.0)[0], "the lease to run out")
    assert found == 1
    assert jobs.sweep(database, 60.0) == (0, 0)


# -- deadlocks -------------------------------------------------------------------------------------


@pytest.mark.services
def test_a_request_that_arrives_during_a_publish_does_not_deadlock(on_postgres: Prepared, tmp_path: Path) -> None:
    """Both lock dataset, then model; a publish that took the model first would hold what the request waits for."""
    with case_of(on_postgres, tmp_path / "data") as case:
        claim = jobs.claim(case.database, "w", 60.0)
        assert claim is not None
        failures: list[BaseException] = []

        def publish() -> None:
            try:
                with case.database.write() as session:
                    _publish(session, case, claim)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=publish)
        with case.database.write() as session:
            session.execute(text("SET LOCAL lock_timeout = '3s'"))
            session.execute(text("SELECT id FROM datasets FOR UPDATE"))  # as a new request does
            thread.start()
            eventually(lambda: blocked(case.database), "the publish to wait")
            jobs.enqueue(
                session,
                tenant_id=FIRST_TENANT,
                kind=JobKind.UNLEARN,
                lane=f"model:{case.origin.model}",
                dataset_id=case.origin.dataset,
                model_id=case.origin.model,
            )
        thread.join()
        assert failures == []
        assert case.job().state == "succeeded"


def _publish(session: Any, case: Case, claim: Claim) -> None:
    model = session.get_one(Model, case.origin.model)
    parent = versions.current(session, model)
    assert parent is not None
    work = versions.batch(session, claim.id, session.get_one(Dataset, case.origin.dataset), parent)
    report = {"judgement": {"verdict": "inconclusive"}}
    publishing.publish_unlearned(session, claim, work, parent, Stored("sha256:" + 64 * "1", 1), {}, report, {})


def test_only_what_can_run_is_hinted_again(database: Database) -> None:
    """A job behind one that takes hours would fill the broker with its hints."""
    enqueue(database, 3, lanes=2)
    there(database)
    assert jobs.claim(database, "w", 60.0) is not None
    assert jobs.sweep(database, rehint_seconds=0.0) == (0, 1)
