"""The two ways in which a worker learns of jobs: Celery on Redis, or the database itself."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from sqlalchemy.exc import SQLAlchemyError

from app import jobs
from app.core.causes import cause
from app.core.config import Settings
from app.core.db import Changes, Database
from app.formats import sandbox
from app.jobs import broker, routing, workers

log = logging.getLogger("lethe.worker")

SWEEP_SECONDS = 60.0
BROKER_SECONDS = 5.0  # between two looks at the broker


class Stopping(BaseException):
    """SIGTERM or SIGINT came: stop now and hand the lease back."""


def run(settings: Settings) -> bool:
    """Work until a signal comes; True: the broker failed or is back, and this program is to be started anew.

    A worker whose broker takes no hints watches the database: hints may be lost, and jobs are rows.
    """
    threading.Thread(target=_sweep, args=(settings,), name="folders", daemon=True).start()
    if not settings.broker_url:
        return watch(settings)
    if (fault := broker.fault(settings.broker_url)) is None:
        return consume(settings)
    log.warning("%s", fault.words)
    return watch(settings, BrokerWatch(settings))


def _sweep(settings: Settings) -> None:
    """What killed processes of this machine looked at must not stay."""
    while True:
        sandbox.sweep(settings.looking_dir)
        time.sleep(SWEEP_SECONDS)


class BrokerWatch:
    """Looks at the broker now and then."""

    def __init__(self, settings: Settings) -> None:
        self._url, self._looked = settings.broker_url, time.monotonic()

    def is_back(self) -> bool:
        if time.monotonic() - self._looked < BROKER_SECONDS:
            return False
        found = broker.fault(self._url)
        self._looked = time.monotonic()
        return found is None


def watch(settings: Settings, missing: BrokerWatch | None = None) -> bool:
    """Embedded: run what there is, then wait for a change of the database, until a signal stops it, or until the
    broker that is missing is back: then True.
    """
    from worker.run_one import run_one
    from worker.runtime.run import Resources

    owner = workers.own_name(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    sandbox.keep_in(settings.looking_dir)
    resources = Resources.open(settings)
    workers.start(settings)
    log.info("worker %s on %s watches the database", owner, resources.device)
    changes = Changes(resources.database)
    back = False
    try:
        while not (_signals or back):
            try:
                if run_one(resources, owner) and missing is None:
                    continue
            except Exception as error:  # the database may be away for a while
                log.warning("looking for a job failed and will be tried again: %s", cause(error))
            _wait(changes, settings.poll_seconds)
            if missing is not None and (back := missing.is_back()):
                log.info("the broker takes hints again")
    except Stopping:
        pass
    finally:
        jobs.release(resources.database, owner, "its worker was stopped", counted=False)
        workers.stop()
    return back


_signals: list[int] = []  # that came: Python drops an exception that leaves a finaliser or a callback


def _stop(number: int, _frame: FrameType | None) -> None:
    _signals.append(number)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)  # once is enough: the lease must be handed back undisturbed
    raise Stopping


def _wait(changes: Changes, poll_seconds: float) -> None:
    """Wait for a change of the database, at most for two seconds: a queued job may become due by time alone."""
    waited = 0.0
    while waited < 2.0:
        time.sleep(poll_seconds)
        waited += poll_seconds
        if changes.seen():
            return


def consume(settings: Settings) -> bool:
    """Production: a Celery worker with one spawned pool child. The lease of a child that died is released at once.

    True: it ended because the broker failed while it had no job.
    """
    name = workers.own_name(settings)
    os.environ["LETHE_WORKER_NAME"] = name  # the pool child claims in this name
    os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")  # stop the child now: the database redelivers, not a drain
    from worker import celery

    queues = ",".join(routing.own(settings).queues())
    options = ["--loglevel=WARNING", "--without-gossip", "--without-mingle", "-n", f"{name}@%h", "-Q", queues]
    lost = threading.Event()
    arguments = (settings, name, lost, celery.leave)
    threading.Thread(target=_mind_broker, args=arguments, name="broker", daemon=True).start()
    try:
        celery.app.worker_main(["--quiet", "worker", *options])  # no banner between the lines of the log
    except SystemExit:
        if not lost.is_set():
            raise
    finally:
        jobs.release(Database(settings), name, "its worker was stopped", counted=False)
    return lost.is_set()


def _mind_broker(settings: Settings, name: str, lost: threading.Event, leave: Callable[[], None]) -> None:
    """End a Celery worker without a job whose broker has failed twice in a row: Celery would only wait for it."""
    database, failures = Database(settings), 0
    while not lost.wait(BROKER_SECONDS):
        fault = broker.fault(settings.broker_url)
        failures = failures + 1 if fault else 0
        if fault is None or failures < 2:
            continue
        try:
            with database.read() as session:
                idle = not workers.busy(session, name)
        except SQLAlchemyError:
            continue
        if idle:
            lost.set()
            leave()
