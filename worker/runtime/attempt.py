"""One attempt at a claimed job, under a heartbeat: it ends the job, or queues it again."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from opentelemetry.trace import SpanKind
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app import jobs
from app.blobs import folder, usage
from app.blobs.folder import BlobCorruptError, StorageRefusedError, StorageUnavailableError
from app.core import crash_points, logs, tracing
from app.core.db import Database
from app.core.errors import AppError, SupersededError
from app.core.tables import Job
from app.formats.manifest import SourceError
from app.formats.sandbox import SandboxError
from app.jobs import Claim, LeaseLostError, workers
from app.rules.states import JobKind, JobState
from engine import memory, seeding
from engine.errors import EngineError
from worker.runtime.run import CancelledError, GaveWayError, Heartbeat, JobError, Resources, Run

log = logging.getLogger("lethe.worker")

STORAGE_PAUSE_SECONDS = 30.0
AT_ONCE, AN_HOUR = timedelta(0), timedelta(hours=1)  # a storage that is away for a moment needs nobody
SUPERSEDED_PAUSE_SECONDS = 0.2


def attempt(resources: Resources, claim: Claim, work: Callable[[Run], None]) -> None:
    """Do the job's `work`, which ends it; what `work` raises ends it, too, or queues it again."""
    crash_points.point(f"{claim.kind}.claimed")
    about = {"job": claim.id, "kind": claim.kind.value, "attempt": claim.attempts, "fence": claim.fence}
    name = f"job {claim.kind.value}"
    with (
        tracing.continued(name, claim.traceparent, SpanKind.CONSUMER, **about) as span,
        logs.bind(**about, **tracing.fields(span)),
    ):
        _work(resources, claim, work)


def _work(resources: Resources, claim: Claim, work: Callable[[Run], None]) -> None:
    log.info("job %s (%s): attempt %d", claim.id, claim.kind.value, claim.attempts)
    with Heartbeat(resources.database, claim, resources.settings) as heartbeat:
        run = Run(resources, claim, heartbeat)
        try:
            resources.blobs.clear_scratch(claim.id)
            usage.remove_unrecorded(resources.database, resources.blobs, claim.id)
            with seeding.deterministic(), memory.shortage_named():
                work(run)
        except LeaseLostError:
            log.warning("job %s: the lease was lost; nothing was written", claim.id)
        except CancelledError:
            _end(resources.database, claim, JobState.CANCELLED, "cancelled", "cancelled on request")
        except GaveWayError:
            _again(resources.database, claim, jobs.step_aside)
        except (EngineError, JobError, AppError) as error:
            members = error.members if isinstance(error, JobError) else {}
            _end(resources.database, claim, JobState.FAILED, error.kind, str(error), **members)
        except BlobCorruptError as error:
            _end(resources.database, claim, JobState.FAILED, "corrupt-bytes", f"stored bytes are damaged: {error}")
        except Exception as error:
            reason, pause = _why_again(claim, error)
            how = {"pause_seconds": pause, **_after(claim, error)}
            _again(resources.database, claim, partial(jobs.requeue, reason=reason, **how))
        _measure(run)
    with resources.database.read() as session:
        job = session.get_one(Job, claim.id)
    log.info("job %s (%s): %s%s", job.id, job.kind, job.state, _because(job))


def _why_again(claim: Claim, error: Exception) -> tuple[str, float]:
    """Why a job is queued again, and for how many seconds it should wait."""
    if isinstance(error, SupersededError):
        return str(error), SUPERSEDED_PAUSE_SECONDS
    if isinstance(error, StorageUnavailableError):
        log.warning("job %s waits for the storage: %s", claim.id, error)
        return str(error), STORAGE_PAUSE_SECONDS
    if isinstance(error, SourceError):  # stored pictures: a child that looked at them needed more than it may
        log.warning("job %s could not read its pictures: %s", claim.id, error)
        return str(error), 0.0
    if isinstance(error, SandboxError):
        log.warning("job %s waits for its machine: %s", claim.id, error)
        return str(error), 0.0
    if isinstance(error, OSError) and error.errno is not None:  # the system gives a number; libraries may not
        log.exception("job %s waits for its machine", claim.id)
        reason = f"its machine refused: {error.strerror or errno.errorcode.get(error.errno, str(error.errno))}"
        return reason, STORAGE_PAUSE_SECONDS if folder.is_refusal(error) else 0.0
    log.exception("job %s failed", claim.id)
    return f"an unexpected {type(error).__name__}; it is in the worker's log", 0.0


def _after(claim: Claim, error: Exception) -> dict[str, Any]:
    """What else there is to say of a job that is tried again: see `jobs.requeue`."""
    if isinstance(error, StorageRefusedError):
        return {"waits": jobs.problem("storage-refused", str(error)), "patience": AT_ONCE}
    if isinstance(error, StorageUnavailableError):
        return {"waits": jobs.problem("storage-unavailable", str(error)), "patience": AN_HOUR}
    return {"thrown_away": isinstance(error, SupersededError) and claim.kind == JobKind.TRAIN}


def _because(job: Job) -> str:
    return f": {job.problem['detail']}" if job.problem else ""


def _measure(run: Run) -> None:
    """For metrics only: a failure here is no failure of the job."""
    resources, memory_bytes = run.resources, 0
    if resources.device.type == "cuda":
        memory_bytes = torch.cuda.max_memory_allocated(resources.device)
    kind = run.claim.kind.value
    try:
        workers.measured(resources.database, resources.settings, kind, run.stage_seconds, memory_bytes)
    except SQLAlchemyError as error:
        log.warning("stage seconds were not kept: %s", type(error).__name__)


def _end(database: Database, claim: Claim, state: JobState, kind: str, detail: str, **members: Any) -> None:
    try:
        with database.write() as session:
            job = jobs.fenced(session, claim)
            jobs.finish(session, job, state, problem=jobs.problem(kind, detail, **members))
    except LeaseLostError:
        log.warning("job %s: the lease was lost before its end could be written", claim.id)


def _again(database: Database, claim: Claim, queue: Callable[[Session, Job], None]) -> None:
    """Give the attempt up and `queue` the job again."""
    try:
        with database.write() as session:
            queue(session, jobs.fenced(session, claim))
    except LeaseLostError:
        log.warning("job %s: the lease was lost before it could be queued again", claim.id)
