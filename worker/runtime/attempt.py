"""One attempt at a claimed job: under a heartbeat, to whichever end it comes."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from sqlalchemy.exc import SQLAlchemyError

from app import jobs
from app.blobs import folder
from app.blobs.folder import BlobCorruptError, StorageUnavailableError
from app.core import crash_points, logs
from app.core.db import Database
from app.core.errors import AppError, SupersededError
from app.core.tables import Job
from app.jobs import Claim, LeaseLostError, workers
from app.rules.states import JobState
from engine import seeding
from engine.errors import ArchitectureError, DeviceMemoryError, DivergedError, MethodError
from worker.runtime.run import CancelledError, Desk, Heartbeat, JobError, Run

log = logging.getLogger("lethe.worker")

STORAGE_PAUSE_SECONDS = 30.0
SUPERSEDED_PAUSE_SECONDS = 0.2


def attempt(desk: Desk, claim: Claim, work: Callable[[Run], None]) -> None:
    """Do the job's `work`, which ends it; what `work` raises ends it, too, or queues it again."""
    crash_points.point(f"{claim.kind}.claimed")
    with logs.bind(job=claim.id, kind=claim.kind.value, attempt=claim.attempts, fence=claim.fence):
        _work(desk, claim, work)


def _work(desk: Desk, claim: Claim, work: Callable[[Run], None]) -> None:
    log.info("job %s (%s): attempt %d", claim.id, claim.kind.value, claim.attempts)
    desk.blobs.clear_scratch(claim.id)
    with Heartbeat(desk, claim) as heartbeat:
        run = Run(desk, claim, heartbeat)
        try:
            with seeding.deterministic():
                work(run)
        except LeaseLostError:
            log.warning("job %s: the lease was lost; nothing was written", claim.id)
        except CancelledError:
            _end(desk.database, run, JobState.CANCELLED, "cancelled", "cancelled on request")
        except JobError as error:
            _end(desk.database, run, JobState.FAILED, error.kind, error.detail)
        except (MethodError, DivergedError) as error:
            _end(desk.database, run, JobState.FAILED, "method-failed", str(error))
        except ArchitectureError as error:
            _end(desk.database, run, JobState.FAILED, "architecture", str(error))
        except DeviceMemoryError as error:
            _end(desk.database, run, JobState.FAILED, "device-memory", str(error))
        except torch.OutOfMemoryError:
            detail = "the device's memory does not hold what this step needs: a smaller batch_size may fit"
            _end(desk.database, run, JobState.FAILED, "device-memory", detail)
        except AppError as error:
            _end(desk.database, run, JobState.FAILED, error.kind, error.detail)
        except StorageUnavailableError as error:
            log.warning("job %s waits for the storage: %s", claim.id, error)
            _again(desk.database, run, str(error), pause_seconds=STORAGE_PAUSE_SECONDS)
        except SupersededError as error:
            _again(desk.database, run, str(error), pause_seconds=SUPERSEDED_PAUSE_SECONDS)
        except BlobCorruptError as error:
            _end(desk.database, run, JobState.FAILED, "corrupt-bytes", f"stored bytes are damaged: {error}")
        except OSError as error:
            log.exception("job %s waits for its machine", claim.id)
            pause = STORAGE_PAUSE_SECONDS if folder.is_refusal(error) else 0.0
            _again(desk.database, run, f"its machine refused: {error.strerror}", pause_seconds=pause)
        except Exception as error:
            log.exception("job %s failed", claim.id)
            _again(desk.database, run, f"an unexpected {type(error).__name__}; it is in the worker's log")
        _measure(run)
    with desk.database.read() as session:
        job = session.get_one(Job, claim.id)
    log.info("job %s (%s): %s%s", job.id, job.kind, job.state, _because(job))


def _because(job: Job) -> str:
    return f": {job.problem['detail']}" if job.problem else ""


def _measure(run: Run) -> None:
    """For metrics only: a failure here is no failure of the job."""
    desk, memory = run.desk, 0
    if desk.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(desk.device)
    try:
        workers.measured(desk.database, desk.settings, run.claim.kind.value, run.stage_seconds, memory)
    except SQLAlchemyError as error:
        log.warning("stage seconds were not kept: %s", type(error).__name__)


def _end(database: Database, run: Run, state: JobState, kind: str, detail: str) -> None:
    try:
        with database.write() as session:
            job = jobs.fenced(session, run.claim)
            jobs.finish(session, job, state, problem=jobs.problem(kind, detail))
    except LeaseLostError:
        log.warning("job %s: the lease was lost before its end could be written", run.claim.id)


def _again(database: Database, run: Run, reason: str, pause_seconds: float = 0.0) -> None:
    """Give the attempt up; the job is queued again, or buried when it has had its attempts."""
    try:
        with database.write() as session:
            jobs.requeue(session, jobs.fenced(session, run.claim), reason, pause_seconds=pause_seconds)
    except LeaseLostError:
        log.warning("job %s: the lease was lost before it could be queued again", run.claim.id)
