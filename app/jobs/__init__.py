"""The life of a job in the database: queue, claim, run, end. Both API and worker call this module.

The database is the truth. A running job is a row with an owner, a lease on the database's clock and a fencing
token; every write of a worker goes through `fenced`, so a worker that lost its lease can change nothing.
"""

from app.core.errors import SupersededError
from app.events.recording import NewEvent, record, record_many
from app.jobs.claiming import Claim, claim, gives_way, has_work, purges_waiting
from app.jobs.ending import (
    THROWN_AWAY,
    cancel,
    drop_unfinished,
    finish,
    problem,
    release,
    requeue,
    retry,
    step_aside,
    sweep,
)
from app.jobs.parts import parts_of, start_parts
from app.jobs.queueing import emit, enqueue, enqueue_unlearning
from app.jobs.running import LeaseLostError, advance, announce, artifacts, beat, fenced, keep

__all__ = [
    "THROWN_AWAY",
    "Claim",
    "LeaseLostError",
    "NewEvent",
    "SupersededError",
    "advance",
    "announce",
    "artifacts",
    "beat",
    "cancel",
    "claim",
    "drop_unfinished",
    "emit",
    "enqueue",
    "enqueue_unlearning",
    "fenced",
    "finish",
    "gives_way",
    "has_work",
    "keep",
    "parts_of",
    "problem",
    "purges_waiting",
    "record",
    "record_many",
    "release",
    "requeue",
    "retry",
    "start_parts",
    "step_aside",
    "sweep",
]
