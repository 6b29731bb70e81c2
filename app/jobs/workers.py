"""Signs of life of a worker: a row that is renewed while it lives. `app.jobs.routing` reads them."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import threading
import time
from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.blobs.open import Blobs, open_blobs
from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.ids import is_id
from app.core.tables import Job, StageTime, Worker
from app.jobs import devices, routing
from app.rules.states import JobState

log = logging.getLogger("lethe.presence")

SECONDS = 10.0
FORGET_AFTER = timedelta(days=1)
SETTLED_SECONDS = 60.0  # a folder that was touched since may be of an attempt that begins at this moment

_TOKEN = secrets.token_hex(4)
_stopped = threading.Event()
_thread: threading.Thread | None = None


def own_name(settings: Settings) -> str:
    """Who holds this process's leases: no other process has the name, in containers neither, which are all `host:1`."""
    return settings.worker_name or f"{socket.gethostname()}:{os.getpid()}:{_TOKEN}"


def start(settings: Settings) -> None:
    """Say every few seconds, from a thread, that this process is alive."""
    global _thread
    _stopped.clear()
    _thread = threading.Thread(target=_run, args=(settings,), name="presence", daemon=True)
    _thread.start()


def stop() -> None:
    """Delete the sign of life: this worker is leaving."""
    _stopped.set()
    if _thread is not None:
        _thread.join(SECONDS)


def _run(settings: Settings) -> None:
    database, name, blobs = Database(settings), own_name(settings), None
    while True:
        try:
            _say(database, name, settings)
            blobs = blobs or open_blobs(settings)
            sweep_files(database, settings, blobs)
        except Exception:
            log.exception("could not say that this worker is alive; trying again")
        if _stopped.wait(SECONDS):
            break
    with database.write() as session:
        session.execute(delete(Worker).where(Worker.name == name))
    database.close()


def sweep_files(database: Database, settings: Settings, blobs: Blobs) -> int:
    """Remove what killed attempts left half done on this machine and did not come back for: what they unpacked, and
    files on their way to the storage. They hold samples that may be erased elsewhere. Of how many jobs."""
    limit = time.time() - SETTLED_SECONDS
    there = [each for each in settings.sources_dir.glob("job_*") if is_id("job", each.name)]
    unpacked = {each.name: each for each in there if each.lstat().st_mtime < limit}
    written = {name for name in blobs.scratch_owners(SETTLED_SECONDS) if is_id("job", name)}
    old = unpacked.keys() | written
    if not old:
        return 0
    with database.read() as session:
        running = set(session.scalars(select(Job.id).where(Job.id.in_(old), Job.state == JobState.RUNNING)))
    for name in old - running:
        if name in unpacked:
            shutil.rmtree(unpacked[name], ignore_errors=True)
        blobs.clear_scratch(name)
    return len(old - running)


def busy(session: Session, name: str) -> bool:
    """Whether the worker of that name has a job."""
    held = select(Job.id).where(Job.state == JobState.RUNNING, Job.owner == name).limit(1)
    return session.scalars(held).first() is not None


def measured(database: Database, settings: Settings, kind: str, stages: dict[str, float], memory: int) -> None:
    """Add a job's stage seconds to the metrics, and the device memory that this worker has peaked at (bytes)."""
    with database.write() as session:
        for stage, seconds in stages.items():
            row = session.get(StageTime, (kind, stage), with_for_update=True)
            total, runs = (row.seconds, row.runs) if row else (0.0, 0)
            session.merge(StageTime(kind=kind, stage=stage, seconds=total + seconds, runs=runs + 1))
        own = update(Worker).where(Worker.name == own_name(settings)).values(device_memory=memory)
        session.execute(own.execution_options(synchronize_session=False))


def _say(database: Database, name: str, settings: Settings) -> None:
    takes = routing.own(settings)
    offers = sorted(takes.offers or ())
    with database.write() as session:
        now = db.now(session)
        row = session.get(Worker, name) or Worker(name=name)
        row.device, row.label, row.kinds = devices.own(settings), takes.label or "", sorted(takes.kinds)
        row.offers, row.seen_at = offers, now
        session.add(row)
        session.execute(delete(Worker).where(Worker.seen_at < now - FORGET_AFTER))
