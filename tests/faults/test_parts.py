"""A job that divides itself into parts: killed anywhere, shared by workers, cancelled, failed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import jobs
from app.core import crash_points
from app.core.config import Settings
from app.core.db import Database
from app.core.keys import FIRST_TENANT
from app.core.tables import Job, ReferenceRow
from app.rules.states import JobKind, JobState
from tests.faults.harness import Case, Prepared, account_of, case_of
from tests.helpers import is_problem
from tests.sessions import Once

COUNT = 4
PARENT = [
    "references.claimed",
    "references.references.begin",
    "references.parts.uncommitted",
    "references.parts.queued",
]
PART = [
    "reference.claimed",
    "reference.reference.begin",
    "reference.resume.stored",
    "reference.resume.kept",
    "reference.written",
    "reference.signal.stored",
    "reference.uncommitted",
]
AFTER_PART = ["reference.reference.end"]
END = ["references.references.end", "references.uncommitted"]
POINTS = PARENT + PART + AFTER_PART + END


def drained(prepared: Prepared, folder: Path, database_url: str) -> Prepared:
    """A copy of the prepared service whose deletion is done: out of the way of what is tried here."""
    shutil.copytree(prepared.folder, folder)
    settings = Settings(data_dir=folder, database_url=database_url, resume_seconds=0)
    case = Case(prepared, settings, Database(settings))
    case.drain()
    case.close()
    return prepared._replace(folder=str(folder), database_url=database_url)


@pytest.fixture(scope="module")
def done_on_sqlite(on_sqlite: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return drained(on_sqlite, tmp_path_factory.mktemp("done") / "data", "")


@pytest.fixture(scope="module")
def done_on_postgres(on_postgres: Prepared, tmp_path_factory: pytest.TempPathFactory, once: Once) -> Prepared:
    url = once.database(on_postgres.database_url.rpartition("/")[2])
    return drained(on_postgres, tmp_path_factory.mktemp("done") / "data", url)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def done(request: pytest.FixtureRequest) -> Prepared:
    found: Prepared = request.getfixturevalue(f"done_on_{request.param}")
    return found


def start(case: Case, seed: int = 7, count: int = COUNT) -> str:
    """A job for another pool than the prepared one."""
    with account_of(case.settings) as account:
        return str(account.post(f"/v1/models/{case.origin.model}:references", {"count": count, "seed": seed})["id"])


def parts(case: Case, job: str) -> list[Job]:
    return [row for row in case.rows(Job) if row.parent_id == job]


def signals(case: Case, seed: int = 7) -> dict[int, str]:
    """Digest of each signal of the pool that `start` builds."""
    rows = [row for row in case.rows(ReferenceRow) if row.pool == case.job(made_by(case, seed)).result["pool"]]
    return {row.number: row.digest for row in rows}


def made_by(case: Case, seed: int) -> str:
    return next(row.id for row in case.rows(Job) if row.kind == "references" and row.seed == seed and row.result)


@pytest.fixture(scope="module")
def straight(done_on_sqlite: Prepared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The pool built by one worker without a fault, and the points that it passed."""
    passed: list[str] = []
    with pytest.MonkeyPatch.context() as patch, case_of(done_on_sqlite, tmp_path_factory.mktemp("s") / "data") as case:
        job = start(case)
        patch.setattr(crash_points, "point", passed.append)
        case.drain()
        assert case.job(job).state == "succeeded"
        assert [part.state for part in parts(case, job)] == ["succeeded"] * COUNT
        return {"signals": signals(case), "passed": passed, "strays": case.strays()}


def test_the_list_holds_every_point_and_one_worker_is_enough(straight: dict[str, Any]) -> None:
    assert set(straight["passed"]) - {"claim.uncommitted"} == set(POINTS)
    assert len(straight["signals"]) == COUNT
    assert len(set(straight["signals"].values())) == COUNT
    assert straight["strays"] == []


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.slow
def test_a_kill_at_every_point_changes_nothing(
    point: str, done_on_sqlite: Prepared, tmp_path: Path, straight: dict[str, Any]
) -> None:
    with case_of(done_on_sqlite, tmp_path / "data") as case:
        job = start(case)
        case.killed_at(point)
        before = {part.id: part.state for part in parts(case, job)}
        case.expire()
        case.drain()
        assert case.job(job).state == "succeeded"
        after = parts(case, job)
        assert {part.params["number"] for part in after} == set(range(COUNT))
        assert len(after) == COUNT, "no part was queued twice"
        assert {part.state for part in after} == {"succeeded"}
        for part in after:
            was_running = before.get(part.id) == "running"
            assert part.attempts == 1 + was_running, (part.params, before)
        assert signals(case) == straight["signals"]
        assert case.strays() == []


@pytest.mark.services
@pytest.mark.parametrize("point", ["references.parts.queued", "reference.uncommitted", "references.uncommitted"])
@pytest.mark.slow
def test_a_kill_on_postgres(point: str, done_on_postgres: Prepared, tmp_path: Path, straight: dict[str, Any]) -> None:
    with case_of(done_on_postgres, tmp_path / "data") as case:
        job = start(case)
        case.killed_at(point)
        case.expire()
        case.drain()
        assert (case.job(job).state, len(parts(case, job))) == ("succeeded", COUNT)
        assert case.strays() == []


def shared_out(case: Case, job: str, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the job's own worker, and call `act` in its place once the parts are queued."""
    left = [act]

    def hook(name: str) -> None:
        if name == "references.parts.queued" and left:
            left.pop()()

    monkeypatch.setattr(crash_points, "point", hook)
    case.run_one("own")


def test_the_pool_is_the_same_whoever_trained_what(
    done_on_sqlite: Prepared, tmp_path: Path, straight: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with case_of(done_on_sqlite, tmp_path / "data") as case:
        job = start(case)

        def help_out() -> None:
            assert case.run_one("other")
            assert case.run_one("third")

        shared_out(case, job, help_out, monkeypatch)
        assert case.job(job).state == "succeeded"
        assert signals(case) == straight["signals"]
        digest = hashlib.sha256(repr(sorted(straight["signals"].items())).encode()).hexdigest()
        assert digest == hashlib.sha256(repr(sorted(signals(case).items())).encode()).hexdigest()


def test_a_part_is_taken_from_its_own_job_whatever_the_worker_takes(on_sqlite: Prepared, tmp_path: Path) -> None:
    """A worker for `references` alone must not wait for ever for parts that nobody else takes."""
    with case_of(on_sqlite, tmp_path / "data", kinds=[JobKind.REFERENCES]) as case:
        job = start(case)
        assert case.run_one()
        assert case.job(job).state == "succeeded"
        assert not case.run_one(), "nothing else is its affair"
        assert case.job().state == "queued"


# -- ends ------------------------------------------------------------------------------------------


def test_cancelling_the_job_cancels_its_parts(done: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with case_of(done, tmp_path / "data") as case, account_of(case.settings) as account:
        job = start(case)
        running: list[str] = []

        def cancel() -> None:
            taken = jobs.claim(case.database, "elsewhere", 60.0)
            assert taken is not None
            assert taken.parent_id == job
            running.append(taken.id)
            account.post(f"/v1/jobs/{job}:cancel")

        shared_out(case, job, cancel, monkeypatch)
        assert case.job(job).state == "cancelled"
        (other,) = running
        for part in parts(case, job):
            if part.id == other:
                assert (part.state, part.cancel_requested) == ("running", True)
            else:
                assert part.state == "cancelled"
        jobs.release(case.database, "elsewhere", "it obeyed")
        assert case.job(other).state == "cancelled"
        assert case.strays() == []


def test_a_queued_job_that_is_cancelled_leaves_no_part(done_on_sqlite: Prepared, tmp_path: Path) -> None:
    """Its worker was killed, so it waits, and so do its parts."""
    with case_of(done_on_sqlite, tmp_path / "data") as case, account_of(case.settings) as account:
        job = start(case)
        case.killed_at("references.parts.queued")
        case.expire()
        account.post(f"/v1/jobs/{job}:cancel")
        assert {part.state for part in parts(case, job)} == {"cancelled"}
        assert not case.run_one()
        is_problem(account.http.post(f"/v1/jobs/{job}:retry"), 409, "illegal-move")


def bury(case: Case, number: int) -> Callable[[], None]:
    def act() -> None:
        with case.database.write() as session:
            part = (
                session.query(Job).filter(Job.kind == "reference", Job.state == "queued").order_by(Job.id).all()[number]
            )
            part.state, part.attempts = JobState.RUNNING, 3
            jobs.requeue(session, part, "its worker died")

    return act


def test_a_dead_part_fails_its_job_with_the_reason_and_a_retry_goes_on(
    done_on_sqlite: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: dict[str, Any]
) -> None:
    with case_of(done_on_sqlite, tmp_path / "data") as case, account_of(case.settings) as account:
        job = start(case)
        shared_out(case, job, bury(case, 2), monkeypatch)
        ended = case.job(job)
        assert ended.state == "failed"
        assert "reference model 2" in ended.problem["detail"]
        assert "its worker died" in ended.problem["detail"]
        states = {part.params["number"]: part.state for part in parts(case, job)}
        assert states.pop(2) == "dead"
        assert set(states.values()) == {"cancelled"}
        account.post(f"/v1/jobs/{job}:retry")
        case.drain()
        assert case.job(job).state == "succeeded"
        assert signals(case) == straight["signals"]


@pytest.mark.parametrize("obeys", [True, False])
def test_a_retry_waits_for_a_sibling_that_is_still_being_stopped(
    done_on_sqlite: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    straight: dict[str, Any],
    obeys: bool,
) -> None:
    """It ends as cancelled, or is done before it hears of it: its number is seen to by a new part either way."""
    with case_of(done_on_sqlite, tmp_path / "data") as case, account_of(case.settings) as account:
        job = start(case)
        running: list[jobs.Claim] = []

        def one_runs_and_one_dies() -> None:
            taken = jobs.claim(case.database, "elsewhere", 60.0)
            assert taken is not None
            running.append(taken)
            bury(case, 1)()

        shared_out(case, job, one_runs_and_one_dies, monkeypatch)
        (other,) = running
        assert (case.job(job).state, case.job(other.id).state) == ("failed", "running")
        assert case.job(other.id).cancel_requested
        account.post(f"/v1/jobs/{job}:retry")

        def ends_late() -> None:
            with case.database.write() as session:
                part = jobs.fenced(session, other)
                if obeys:
                    jobs.finish(session, part, JobState.CANCELLED, problem=jobs.problem("cancelled", "it obeyed"))
                else:
                    jobs.finish(session, part, JobState.SUCCEEDED)

        shared_out(case, job, ends_late, monkeypatch)
        assert case.job(job).state == "succeeded"
        assert signals(case) == straight["signals"]
        same = [part for part in parts(case, job) if part.params["number"] == other.params["number"]]
        assert [part.state for part in same] == ["cancelled" if obeys else "succeeded", "succeeded"]


def test_a_part_is_its_jobs_own_affair(done: Prepared, tmp_path: Path) -> None:
    with case_of(done, tmp_path / "data") as case, account_of(case.settings) as account:
        job = start(case)
        case.killed_at("references.parts.queued")
        shown = account.get("/v1/jobs", kind="reference")["items"]
        assert shown == [], "parts are not listed among the jobs"
        listed = account.get("/v1/jobs", parent=job)["items"]
        assert [part["parent"] for part in listed] == [job] * COUNT
        assert account.get(f"/v1/jobs/{job}")["parent"] is None
        one = listed[0]["id"]
        is_problem(account.http.post(f"/v1/jobs/{one}:cancel"), 409, "part-of-another")
        is_problem(account.http.post(f"/v1/jobs/{one}:retry"), 409, "part-of-another")


def test_two_jobs_for_one_pool_train_no_model_at_once(
    done_on_sqlite: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the first is held by a dead worker when the second begins: their lane keeps the two apart."""
    with case_of(done_on_sqlite, tmp_path / "data") as case:
        first = start(case)
        case.killed_at("reference.signal.stored")
        (held,) = [part for part in parts(case, first) if part.state == "running"]
        with case.database.write() as session:
            jobs.finish(session, session.get_one(Job, first), JobState.FAILED, problem=jobs.problem("x", "x"))
        second = start(case)
        seen: list[int] = []

        def hook(name: str) -> None:
            if name == "references.parts.queued":
                while claim := jobs.claim(case.database, "other", 60.0):
                    seen.append(claim.params["number"])
                jobs.release(case.database, "other", "given back", counted=False)
                jobs.release(case.database, "first", "it was killed")

        monkeypatch.setattr(crash_points, "point", hook)
        case.run_one()
        assert sorted(seen) == [number for number in range(COUNT) if number != held.params["number"]]
        assert (case.job(second).state, case.job(held.id).state) == ("succeeded", "cancelled")
        assert sorted(signals(case)) == list(range(COUNT))
        assert case.strays() == []


def test_the_share_done_is_that_of_the_parts(
    done_on_sqlite: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with case_of(done_on_sqlite, tmp_path / "data") as case, account_of(case.settings) as account:
        job = start(case)
        seen: list[float] = []

        def hook(name: str) -> None:
            if name == "reference.claimed":
                seen.append(account.get(f"/v1/jobs/{job}")["fraction"])

        monkeypatch.setattr("worker.runtime.run.SECONDS_BETWEEN_REPORTS", 0.0)
        monkeypatch.setattr(crash_points, "point", hook)
        case.drain()
        assert seen == [pytest.approx(n / COUNT) for n in range(COUNT)]
        assert account.get(f"/v1/jobs/{job}")["fraction"] == 1.0


def test_nothing_waits_behind_the_lane_of_a_part(done_on_sqlite: Prepared, tmp_path: Path) -> None:
    with case_of(done_on_sqlite, tmp_path / "data") as case:
        start(case)
        case.killed_at("references.parts.queued")
        with case.database.write() as session:
            jobs.enqueue(session, tenant_id=FIRST_TENANT, kind=JobKind.TRAIN, lane="another")
        claims = [jobs.claim(case.database, f"w{n}", 60.0) for n in range(COUNT + 1)]
        assert all(claims)
        assert len({claim.id for claim in claims if claim}) == COUNT + 1
