"""A job that divides itself into parts: free workers take them like any other job, and the job's own worker takes them
too, and waits for the last ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy import select

from app import jobs
from app.core import crash_points
from app.core.tables import Job
from app.rules.states import JobKind, JobState
from worker.runtime.attempt import attempt
from worker.runtime.run import CancelledError, JobError, Run, StageProgress

SECONDS_BETWEEN_LOOKS = 0.2


def together(
    run: Run,
    progress: StageProgress,
    kind: JobKind,
    lanes: Mapping[int, str],
    work: Callable[[Run], None],
    noun: str,
    **params: Any,
) -> None:
    """Have a part done for each number of `lanes`, by whichever workers are free.

    work: what a part of `kind` does. noun: what a part is called, in a failure.

    Raises:
        CancelledError: the job was cancelled, and its parts with it.
        JobError: a part has failed, and says why.
        GaveWayError: another job needs this worker more.
    """
    with run.resources.database.write() as session:
        jobs.start_parts(session, run.claim, kind, lanes, **params)
        crash_points.point(f"{run.claim.kind}.parts.uncommitted")
    crash_points.point(f"{run.claim.kind}.parts.queued")
    while (left := _left(run, lanes, kind, noun)) > 0:
        progress.update(1 - left / len(lanes))
        run.give_way()
        if not _take_one(run, work):
            threading.Event().wait(SECONDS_BETWEEN_LOOKS)


def _left(run: Run, numbers: Collection[int], kind: JobKind, noun: str) -> float:
    """Parts that are not done, running ones by the share that is left of them."""
    with run.resources.database.read() as session:
        parts = {number: part for number, part in jobs.parts_of(session, run.claim.id).items() if number in numbers}
        # Asked after the parts: a cancelled part is then never seen without the wish that cancelled it.
        if session.scalars(select(Job.cancel_requested).where(Job.id == run.claim.id)).one():
            raise CancelledError(run.claim.id)
    for number, part in sorted(parts.items()):
        if part.state in (JobState.FAILED, JobState.DEAD, JobState.CANCELLED):
            reason = (part.problem or {}).get("detail", part.state)
            raise JobError(f"{kind}-failed", f"{noun} {number}: {reason}")
    return sum(1 - 0.99 * part.fraction for part in parts.values() if part.state != JobState.SUCCEEDED)


def _take_one(run: Run, work: Callable[[Run], None]) -> bool:
    """Do one of the parts that wait here; whether there was one."""
    resources = run.resources
    lease_seconds = resources.settings.lease_seconds
    claim = jobs.claim(resources.database, run.claim.owner, lease_seconds, part_of=run.claim.id)
    if claim is None:
        return False
    attempt(resources, claim, work)
    return True
