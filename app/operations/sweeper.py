"""The sweeper: sends what the outbox holds, repairs what died, removes what is due. Any number may run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from sqlalchemy import delete

from app import jobs
from app.blobs import usage
from app.blobs.open import Blobs, open_blobs
from app.cases import file
from app.cases import retention as cases_retention
from app.core import db
from app.core.causes import cause
from app.core.config import LEASE_BEATS, PlainError, Settings
from app.core.db import Changes, Database
from app.core.tables import Idempotency
from app.deletions import batches, carried, compliance, retention, shams, tallies
from app.deletions.rewriting import Rewriter
from app.events import deliveries
from app.evidence import model_signing, negative, sealing, witness
from app.evidence.witness import Witness
from app.formats import sandbox
from app.jobs import broker, outbox
from app.jobs.broker import BrokerError
from app.jobs.outbox import SendHint
from app.models import pools
from app.operations import sweepers
from app.recovery import erasure_ledger
from app.releases import signatures

log = logging.getLogger("lethe.sweep")

HOUSEKEEPING_SECONDS = 600.0
DAY_SECONDS = 24 * 3600.0
DELIVERY_SECONDS = 0.5
QUIET_SECONDS = 5.0  # what is due by time alone waits this long where nothing else changes the database
LIVELY_SECONDS = 2.0  # after a change more may come
QUIET_PAUSE = 0.5  # between two rounds where none comes
STOP_SECONDS = 5.0
BESIDE_SECONDS = 0.25  # between two looks at what is due in a thread beside the rounds
REPLIES_KEPT = timedelta(days=30)  # a client that has no reply for this long does not send the same call again


def hint_sender(settings: Settings) -> SendHint:
    """Sends hints through Celery if there is a broker. Without one, embedded workers watch the database."""
    if not settings.broker_url:
        return outbox.discard
    from celery import Celery  # sending a task by its name needs none of the worker's code

    client = Celery("lethe", broker=settings.broker_url, set_as_current=False)
    client.conf.update(
        task_ignore_result=True,
        broker_transport_options={"socket_connect_timeout": 2, "socket_timeout": 5, "max_retries": 0},
    )

    def send(job_id: str, queue: str) -> None:
        try:
            client.send_task("lethe.run", args=[job_id], queue=queue, retry=False)
        except Exception as error:
            found = broker.fault(settings.broker_url)
            raise BrokerError(found.words if found else f"a hint was not sent ({type(error).__name__})") from error

    return send


Duties = list[tuple[float, Callable[[], object]]]
"""What is done, each after its period in seconds."""


def run(settings: Settings, stop: threading.Event) -> None:
    """Work in rounds until `stop` is set. A round that fails is logged and tried again.

    What waits for others (receivers of webhooks, the broker, the storage, witnesses) has a thread for each of them: one
    that is slow or mute delays nothing else.
    """
    database, blobs = Database(settings), open_blobs(settings)
    lease_check = settings.lease_seconds / LEASE_BEATS
    rewriter = Rewriter(database, settings)
    duties: Duties = [
        (sweepers.SECONDS, lambda: sweepers.say(database, settings)),
        (min(lease_check, 5.0), lambda: jobs.sweep(database, settings.rehint_seconds)),
        (0.5, lambda: batches.close_due(database)),
        (60.0, lambda: compliance.notice_overdue(database)),
        (60.0, lambda: compliance.notice_waits(database)),
        (60.0, lambda: retention.retire_due_pools(database)),
        (HOUSEKEEPING_SECONDS, lambda: rewriter.owe_cases(cases_retention.erase_due(database))),
        (10.0, lambda: tallies.add_up(database)),
        (10.0, lambda: pools.rebuild_stale(database)),
        (600.0, lambda: shams.start_due(database)),
        (60.0, lambda: rewriter.owe(carried.expire(database))),
        (60.0, lambda: sandbox.sweep(settings.looking_dir)),
        (DAY_SECONDS, lambda: forget_replies(database)),  # it reads the whole table
    ]
    if (kept := settings.erasures_file) is not None:
        ledger = erasure_ledger.Keeper(database, settings, kept)
        duties.append((10.0, lambda: _keep(ledger)))
    key = sealing.open_key(database, settings)
    duties += [
        (1.0, rewriter.round),  # before certificates: they then say that it is done
        (1.0, lambda: sealing.seal_due(database, key, settings.log_name)),
        (1.0, lambda: negative.seal_due(database, key, settings.log_name)),
        (1.0, lambda: sealing.sequence_waiting(database, key, settings.log_name)),
        (1.0, lambda: file.make_due(database, key)),
    ]
    model_key = model_signing.load(settings.model_signing_key.get_secret_value(), settings.data_dir)
    others: dict[str, Callable[[Database], Duties]] = {
        "webhooks": partial(_webhooks, settings),
        "hints": partial(_hints, settings),
        "storage": partial(_storage, settings, blobs),
        "signatures": lambda own: [(1.0, lambda: signatures.sign_due(own, blobs, model_key))],
    }
    for number, text in enumerate(settings.witnesses):
        others[f"witness-{number}"] = partial(_witness, Witness.parse(text))
    log.info("sweeping; heads and certificates are signed with key %s", key.id)
    timer = Timer(database)  # one for all: each look costs
    threads = [
        threading.Thread(target=_beside, args=(settings, timer, stop, made), name=name, daemon=True)
        for name, made in others.items()
    ]
    for thread in threads:
        thread.start()
    _rounds(settings.poll_seconds, timer, stop, duties, timer.look)
    until = time.monotonic() + STOP_SECONDS
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    _try(lambda: sweepers.leave(database, settings))
    timer.close()
    database.close()


def _rounds(
    pause: float,
    timer: Timer,
    stop: threading.Event,
    duties: Duties,
    look: Callable[[], object] = lambda: None,
) -> None:
    while not stop.is_set():
        look()
        for period, duty in duties:
            if timer.is_time(duty, period):
                _try(duty)
        stop.wait(pause if timer.is_lively() else max(pause, QUIET_PAUSE))


def _beside(settings: Settings, timer: Timer, stop: threading.Event, made: Callable[[Database], Duties]) -> None:
    """Do what `made` says with a database of its own, in a thread."""
    database = Database(settings)
    _rounds(max(settings.poll_seconds, BESIDE_SECONDS), timer, stop, made(database))
    database.close()


def _webhooks(settings: Settings, database: Database) -> Duties:
    courier = deliveries.Courier(database, allow_private=settings.private_receivers)
    return [(DELIVERY_SECONDS, courier.round)]


def _hints(settings: Settings, database: Database) -> Duties:
    send = hint_sender(settings)
    return [(settings.poll_seconds, lambda: outbox.is_empty(database) or outbox.relay_hints(database, send))]


def _storage(settings: Settings, blobs: Blobs, database: Database) -> Duties:
    remove = partial(usage.remove, database, blobs)
    return [
        (settings.poll_seconds, lambda: outbox.is_empty(database) or outbox.relay_blobs(database, remove)),
        (1.0, lambda: retention.purge_due_versions(database, blobs)),
        (5.0, lambda: usage.remove_leftovers(database, blobs)),
        (HOUSEKEEPING_SECONDS, lambda: usage.remove_orphans(database, blobs, DAY_SECONDS)),
    ]


def _witness(asked: Witness, database: Database) -> Duties:
    import httpx

    http = httpx.Client(trust_env=False, follow_redirects=False)
    return [(10.0, lambda: witness.cosign(database, [asked], http))]


class Timer:
    """When a duty is to be done again: after its period, and not before `QUIET_SECONDS` while nothing changes."""

    def __init__(self, database: Database) -> None:
        self._changes, self._changed = Changes(database), time.monotonic()
        self._done: dict[Callable[[], object], float] = {}
        self.close = self._changes.close

    def look(self) -> None:
        """Look for changes of the database."""
        if self._changes.seen():
            self._changed = time.monotonic()

    def is_lively(self) -> bool:
        """Whether the database has changed lately, or may have."""
        return time.monotonic() - self._changed < LIVELY_SECONDS

    def is_time(self, duty: Callable[[], object], period: float) -> bool:
        """Whether `duty` is to be done now; then it counts as done."""
        now = time.monotonic()
        done = self._done.get(duty)
        if done is not None and now - done < (period if self._changed >= done else max(period, QUIET_SECONDS)):
            return False
        self._done[duty] = now
        return True


def _keep(ledger: erasure_ledger.Keeper) -> None:
    try:
        ledger.keep()
    except OSError as error:
        raise PlainError(f"the file of LETHE_ERASURES_FILE cannot be written: {error.strerror}") from None


def forget_replies(database: Database) -> None:
    """Remove replies that were kept under their Idempotency-Key long enough."""
    with database.write() as session:
        session.execute(delete(Idempotency).where(Idempotency.created_at < db.now(session) - REPLIES_KEPT))


def _try(duty: Callable[[], object]) -> None:
    try:
        duty()
    except Exception as error:
        log.warning("a round of the sweeper failed and will be tried again: %s", cause(error))
        log.debug("the failure", exc_info=error)
