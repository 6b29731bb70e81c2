"""`run_one`: the one function that runs jobs, whatever rang the bell."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from app import jobs
from app.lifecycle import JobKind
from worker import audit_jobs, chores, pipeline, pools
from worker.attempt import attempt
from worker.run import Desk, Run

KINDS: Mapping[JobKind, Callable[[Run], None]] = {
    JobKind.INGEST: chores.ingest,
    JobKind.TRAIN: chores.train,
    JobKind.IMPORT: chores.import_checkpoint,
    JobKind.REFERENCES: pools.build,
    JobKind.REFERENCE: pools.train_one,
    JobKind.PRECOMPUTE: chores.precompute,
    JobKind.UNLEARN: pipeline.unlearn,
    JobKind.AUDIT: audit_jobs.audit,
    JobKind.PURGE: chores.purge,
}


def run_one(desk: Desk, owner: str, hint: str | None = None) -> bool:
    """Claim the hinted job, else the oldest that this worker takes, and take it to its end. False: there was none."""
    claim = jobs.claim(desk.database, owner, desk.settings.lease_seconds, hint, takes=desk.takes)
    if claim is None:
        return False
    attempt(desk, claim, KINDS[claim.kind])
    return True
