"""The two ways in which a worker learns of jobs: Celery on Redis, or the database itself."""

from __future__ import annotations

import logging
import os
import signal
import time
from types import FrameType
from typing import Any

from app import jobs
from app.core.config import Settings
from app.core.db import Database
from app.jobs import routing, workers

log = logging.getLogger("lethe.worker")


class Stopping(BaseException):
    """SIGTERM or SIGINT came: stop now and hand the lease back."""


def watch(settings: Settings) -> None:
    """Embedded: run what there is, then wait for a change of the database, until a signal stops it."""
    from worker.run_one import run_one
    from worker.runtime.run import Resources

    owner = workers.own_name(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    resources = Resources.open(settings)
    workers.start(settings)
    log.info("worker %s on %s watches the database", owner, resources.device)
    changes = ChangeWatch(resources.database)
    try:
        while not _signals:
            try:
                if run_one(resources, owner):
                    continue
            except Exception as error:  # the database may be away for a while
                log.warning("looking for a job failed and will be tried again: %s", type(error).__name__)
            changes.wait(settings.poll_seconds)
    except Stopping:
        pass
    finally:
        jobs.release(resources.database, owner, "its worker was stopped", counted=False)
        workers.stop()


_signals: list[int] = []  # that came: Python drops an exception that leaves a finaliser or a callback


def _stop(number: int, _frame: FrameType | None) -> None:
    _signals.append(number)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)  # once is enough: the lease must be handed back undisturbed
    raise Stopping


class ChangeWatch:
    """Waits for a change of the database, at most for a second: a queued job may also become due by time alone."""

    def __init__(self, database: Database) -> None:
        self._connection: Any = None
        if database.is_sqlite:
            self._connection = database.engine.connect()
            self._connection.rollback()
        self._seen = self._version()

    def _version(self) -> int:
        if self._connection is None:
            return 0
        raw = self._connection.connection.driver_connection
        version: int = raw.execute("PRAGMA data_version").fetchone()[0]
        return version

    def wait(self, poll_seconds: float) -> None:
        waited = 0.0
        while waited < 1.0:
            time.sleep(poll_seconds)
            waited += poll_seconds
            version = self._version()
            if version != self._seen or self._connection is None:
                self._seen = version
                return


def consume(settings: Settings) -> None:
    """Production: a Celery worker with one spawned pool child. The lease of a child that died is released at once."""
    name = workers.own_name(settings)
    os.environ["LETHE_WORKER_NAME"] = name  # the pool child claims in this name
    os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")  # stop the child now: the database redelivers, not a drain
    from worker.celery import app

    queues = ",".join(routing.own(settings).queues())
    options = ["--loglevel=WARNING", "--without-gossip", "--without-mingle", "-n", f"{name}@%h", "-Q", queues]
    try:
        app.worker_main(["--quiet", "worker", *options])  # no banner between the lines of the log
    finally:
        jobs.release(Database(settings), name, "its worker was stopped", counted=False)
