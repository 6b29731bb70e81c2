"""What a purge waits for: what still works with its samples, and what was asked for while they were there."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from app import jobs
from app.core.tables import Dataset, Job, OutcomeRow
from app.jobs import Claim
from app.jobs.routing import Takes
from app.rules.states import JobKind, JobState
from tests.trained import Trained

PURGES = Takes(frozenset({JobKind.PURGE}))


def queue(trained: Trained, kind: JobKind, *, lane: str = "a", **fields: Any) -> str:
    with trained.account.database.write() as session:
        tenant = session.get_one(Dataset, trained.dataset).tenant_id
        return jobs.enqueue(session, tenant_id=tenant, kind=kind, lane=lane, dataset_id=trained.dataset, **fields).id


def queue_purge(trained: Trained, request: str | None = None) -> str:
    return queue(trained, JobKind.PURGE, lane=f"dataset:{trained.dataset}", request_id=request)


def take(trained: Trained, owner: str = "w", **how: Any) -> Claim | None:
    return jobs.claim(trained.account.database, owner, 60.0, **how)


def purge_may_run(trained: Trained) -> bool:
    """Looked at, and given back."""
    found = take(trained, "looker", takes=PURGES)
    jobs.release(trained.account.database, "looker", "it only looked", counted=False)
    return found is not None


def end(trained: Trained, claim: Claim | None, state: JobState = JobState.SUCCEEDED) -> None:
    assert claim is not None
    with trained.account.database.write() as session:
        jobs.finish(session, jobs.fenced(session, claim), state)


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (JobKind.AUDIT, {}),
        (JobKind.PRECOMPUTE, {}),
        (JobKind.REFERENCES, {"count": 4}),
        (JobKind.TRAIN, {"exclude_request": None, "compare_only": False}),
        (JobKind.TRAIN, {"exclude_request": "req_" + "1" * 26, "compare_only": True}),
    ],
)
@pytest.mark.validation
def test_what_can_do_without_the_samples_holds_no_purge_up(
    trained: Trained, kind: JobKind, params: dict[str, Any]
) -> None:
    """It may be queued for a device that no worker serves, for ever."""
    queue(trained, kind, params=params, device="cuda")
    queue_purge(trained)
    assert purge_may_run(trained)


@pytest.mark.parametrize(
    ("kind", "params"),
    [(JobKind.UNLEARN, {}), (JobKind.TRAIN, {"exclude_request": "its own", "compare_only": True})],
)
@pytest.mark.validation
def test_what_needs_the_samples_and_was_asked_for_before_comes_first(
    trained: Trained, kind: JobKind, params: dict[str, Any]
) -> None:
    request = trained.delete(trained.ids[:3])["id"]
    trained.account.post(f"/v1/deletion-requests/{request}:cancel", {"reason": "its purge is made by hand"})
    job = queue(trained, kind, params=params | ({"exclude_request": request} if params else {}))
    if kind == JobKind.UNLEARN:
        serves(trained, job, request)
    queue_purge(trained, request)
    assert not purge_may_run(trained)
    claim = take(trained)
    assert not purge_may_run(trained), "it runs"
    end(trained, claim)
    assert purge_may_run(trained)


def serves(trained: Trained, job: str, request: str) -> None:
    with trained.account.database.write() as session:
        session.merge(OutcomeRow(request_id=request, model_id=trained.model, state="batched", job_id=job))


@pytest.mark.validation
def test_the_unlearning_of_another_request_holds_no_purge_up(trained: Trained) -> None:
    """As seen: an unlearning that no worker took kept all other requests of the dataset from being fulfilled."""
    trained.delete(trained.ids[:3])
    with trained.account.database.read() as session:
        assert session.scalars(select(Job.id).where(Job.kind == JobKind.UNLEARN, Job.state == "queued")).all()
    other = trained.delete(trained.ids[3:6])["id"]
    trained.account.post(f"/v1/deletion-requests/{other}:cancel", {"reason": "its purge is made by hand"})
    queue_purge(trained, other)
    assert purge_may_run(trained)


@pytest.mark.validation
def test_what_was_asked_for_later_does_not(trained: Trained) -> None:
    queue_purge(trained)
    queue(trained, JobKind.UNLEARN)
    assert purge_may_run(trained)
    assert take(trained, takes=Takes(frozenset({JobKind.UNLEARN})))
    assert purge_may_run(trained), "else a stream of jobs would keep it waiting"


@pytest.mark.parametrize("kind", [JobKind.AUDIT, JobKind.PRECOMPUTE, JobKind.TRAIN])
@pytest.mark.validation
def test_whatever_ran_before_it_is_waited_for(trained: Trained, kind: JobKind) -> None:
    queue(trained, kind)
    claim = take(trained)
    queue_purge(trained)
    assert not purge_may_run(trained)
    end(trained, claim)
    assert purge_may_run(trained)


@pytest.mark.parametrize("ending", ["ended", "requeued"])
def test_a_part_counts_from_when_its_job_was_queued(trained: Trained, ending: str) -> None:
    """The parts are queued after the purge, and one goes on after its job has ended or has lost its worker."""
    database = trained.account.database
    parent = queue(trained, JobKind.REFERENCES, params={"count": 4})
    held = take(trained, "own")
    assert held is not None
    queue_purge(trained)
    with database.write() as session:
        jobs.start_parts(session, held, JobKind.REFERENCE, {0: "r0", 1: "r1"}, pool="p", count=4)
    part = take(trained, "other", part_of=parent)
    assert not purge_may_run(trained)
    if ending == "ended":
        end(trained, held, JobState.FAILED)
    else:
        jobs.release(database, "own", "it is gone")
    assert not purge_may_run(trained), "a worker still trains on the samples"
    end(trained, part)
    assert purge_may_run(trained), "the part that is only queued loads what is left"


@pytest.mark.validation
def test_a_queued_part_does_not_stop_its_own_purge_and_the_purge_not_the_part(trained: Trained) -> None:
    """One worker that takes everything comes to the end of both."""
    parent = queue(trained, JobKind.REFERENCES, params={"count": 4})
    held = take(trained, "own")
    assert held is not None
    purge = queue_purge(trained)
    with trained.account.database.write() as session:
        jobs.start_parts(session, held, JobKind.REFERENCE, {0: "r0", 1: "r1"}, pool="p", count=4)
    for _ in range(2):
        end(trained, take(trained, "own", part_of=parent))
    assert not purge_may_run(trained), "its job runs"
    end(trained, held)
    claim = take(trained, "own", takes=PURGES)
    assert claim is not None
    with trained.account.database.read() as session:
        assert session.get_one(Job, purge).state == "running"
