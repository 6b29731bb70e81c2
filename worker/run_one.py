"""`run_one`: the one function that runs jobs, however a job was triggered."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from app import jobs
from app.rules.states import JobKind
from worker.jobs import audit, import_checkpoint, ingest, precompute, purge, references, train, unlearn
from worker.runtime.attempt import attempt
from worker.runtime.run import Resources, Run

KINDS: Mapping[JobKind, Callable[[Run], None]] = {
    JobKind.INGEST: ingest.ingest,
    JobKind.TRAIN: train.train,
    JobKind.IMPORT: import_checkpoint.import_checkpoint,
    JobKind.REFERENCES: references.build,
    JobKind.REFERENCE: references.train_one,
    JobKind.PRECOMPUTE: precompute.precompute,
    JobKind.UNLEARN: unlearn.unlearn,
    JobKind.AUDIT: audit.audit,
    JobKind.PURGE: purge.purge,
}


def run_one(resources: Resources, owner: str, hint: str | None = None) -> bool:
    """Claim the hinted job, else the oldest that this worker takes, and run it. Return whether there was one."""
    database, lease_seconds = resources.database, resources.settings.lease_seconds
    claim = jobs.claim(database, owner, lease_seconds, hint, takes=resources.takes)
    if claim is None:
        return False
    attempt(resources, claim, KINDS[claim.kind])
    return True
