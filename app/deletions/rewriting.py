"""Rewrites the database's files after purges, so that no earlier form of an erased row is left in them.

An id that is overwritten or deleted is gone from every query, and not from the files. PostgreSQL keeps the earlier form
of the row in table and indexes. A plain VACUUM frees its place and leaves the bytes there until something else is
written on them; the planner's statistics have ids, too. SQLite zeroes what it deletes (`secure_delete`), but not what a
page kept when its cells were moved, nor the write-ahead log.

So the tables are written anew (VACUUM FULL; SQLite: VACUUM, and the log emptied), once for all requests that wait for
it. While that runs, nobody else reads them: it takes a small share of the time, and tables above `rewrite_bytes` wait
for a quiet hour. Each request has the receipt `database`, pending until then. What copies outside these files keep,
such as backups, is named with its date where the operator has stated it.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, exists, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, aliased

from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.ids import new_id
from app.core.tables import Receipt

log = logging.getLogger("lethe.sweep")

SUBJECT = "database"
NAMES = "class-names"  # of a receipt whose request took names of classes also out of replies that are kept
WITHIN = timedelta(days=2)  # the quiet hour comes once a day
WAITING = "the database's files may keep earlier forms of erased rows until its tables are rewritten"
IDS = "samples"
OTHERS = (
    "datasets", "job_artifacts", "adversarial_sets", "reference_models", "outbox",  # digests, names of classes
    "objects_to_delete",  # addresses that may say whose picture it was
    "models",  # names of classes, in what a network's outputs mean
)  # fmt: skip
# What names people in requests, and goes at the end of its retention: rows of their own, free words of a request, and
# replies that were kept for a client that asks again. The planner keeps no statistics of these columns.
CASES = ("case_details", "case_reasons", "case_papers", "notices", "case_files", "proposals", "downloads")
WORDS = ("deletion_requests", "idempotency")
STATISTICS = "pg_statistic"  # the planner's: they quote ids
LOCK_SECONDS = 1.0  # who comes after us waits as long as we do
REST = 50  # times as long as a rewriting took, before the next: it takes two hundredths of the time at the most
RETRY_SECONDS = 5.0
COUNT = re.compile(r"\d+")


class NotRewrittenError(Exception):
    """The files were not rewritten; the text says why, for the receipt."""


def owe(session: Session, request_id: str, now: datetime) -> None:
    """The receipt of a request whose rows have just been erased."""
    waiting = Receipt(id=new_id("rcp"), request_id=request_id, subject=SUBJECT, detail=WAITING, due_at=now + WITHIN)
    session.add(waiting)


class Rewriter:
    """The sweeper's duty. Any number of processes may do it."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._owing = True  # what was erased before this process began, perhaps by an earlier version
        self._cases_owing = True
        self._rest_until = 0.0

    def owe(self, erased: int) -> int:
        """Rows were erased that no request has a receipt for."""
        self._owing |= erased > 0
        return erased

    def owe_cases(self, erased: int) -> int:
        """What names people in requests was erased."""
        self._cases_owing |= erased > 0
        return erased

    def round(self) -> int:
        """Rewrite if anything waits for it, and it is time; how many requests it served."""
        if time.monotonic() < self._rest_until:
            return 0
        with self._database.read() as session:
            waiting = list(session.scalars(select(Receipt.id).where(*_PENDING)))
            named = aliased(Receipt)
            replies = exists().where(named.request_id == Receipt.request_id, named.subject == NAMES)
            self._cases_owing |= bool(session.scalars(select(Receipt.id).where(*_PENDING, replies).limit(1)).first())
        cases = self._cases_owing and self._is_time(IDS, *OTHERS, *CASES, *WORDS)
        if not cases and (not (waiting or self._owing) or not self._is_time(IDS, *OTHERS)):
            return 0
        began = time.monotonic()
        try:
            done = rewrite(self._database, cases=cases)
        except NotRewrittenError as error:
            log.warning("the database was not rewritten after erasures: %s", error)
            self._rest_until = time.monotonic() + RETRY_SECONDS
            _say(self._database, waiting, f"{WAITING}: {error}")
            return 0
        took = time.monotonic() - began
        self._owing, self._cases_owing = False, self._cases_owing and not cases
        self._rest_until = time.monotonic() + REST * took
        if waiting:
            log.info("the database was rewritten in %.2f s after the erasures of %d requests", took, len(waiting))
        tick(self._database, self._settings, waiting, done)
        return len(waiting)

    def _is_time(self, *tables: str) -> bool:
        with self._database.read() as session:
            small = size(session, tables) <= self._settings.rewrite_bytes
            return small or db.now(session).hour == self._settings.rewrite_hour


_PENDING = (Receipt.subject == SUBJECT, Receipt.done_at.is_(None))


def size(session: Session, tables: Sequence[str] = (IDS, *OTHERS)) -> int:
    """Bytes to rewrite: of the tables with their indexes, or of SQLite's file."""
    if session.get_bind().dialect.name == "sqlite":
        pages, page = (session.execute(text(f"PRAGMA {name}")).scalar_one() for name in ("page_count", "page_size"))
        return int(pages) * int(page)
    sizes = text("SELECT sum(pg_total_relation_size(to_regclass(name))) FROM unnest(CAST(:names AS text[])) AS name")
    return int(session.execute(sizes, {"names": list(tables)}).scalar_one() or 0)


def rewrite(database: Database, *, cases: bool = False) -> str:
    """Rewrite the files, and check it; what was done, in words. cases: with the tables that name people in requests.

    Raises:
        NotRewrittenError: the database did not allow it, or something held it up: try again.
    """
    try:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if database.is_sqlite:
                return _rewrite_file(connection.connection.driver_connection)
            _vacuum(database, connection, "ANALYZE samples (sample_id, subject)")
            _vacuum(database, connection, f"VACUUM (FULL, VERBOSE) {IDS}", strict=True)
            for table in OTHERS:  # of these too nobody reads any more what went with the ids; newer changes may stay
                _vacuum(database, connection, f"VACUUM (FULL, VERBOSE) {table}")
            if cases:  # once the strict ones are done, nobody reads any more what the others had before
                for table in CASES:
                    _vacuum(database, connection, f"VACUUM (FULL, VERBOSE) {table}", strict=True)
                for table in WORDS:
                    _vacuum(database, connection, f"VACUUM (FULL, VERBOSE) {table}")
            _vacuum(database, connection, f"VACUUM (FULL, VERBOSE) {STATISTICS}", strict=True)
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if state in ("55P03", "57014") or "locked" in str(error.orig):
            raise NotRewrittenError("others were using the tables, so it is tried again") from None
        raise NotRewrittenError(f"the database refused ({state or type(error.orig).__name__})") from None
    tables = (IDS, *OTHERS, *((*CASES, *WORDS) if cases else ()))
    return f"rewritten with VACUUM FULL: {', '.join(tables)} and the planner's statistics"


def _rewrite_file(raw: Any) -> str:
    usual = raw.execute("PRAGMA busy_timeout").fetchone()[0]
    raw.execute(f"PRAGMA busy_timeout={LOCK_SECONDS * 1000:.0f}")
    try:
        raw.execute("VACUUM")
        mode = raw.execute("PRAGMA journal_mode").fetchone()[0]
        busy = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.OperationalError as error:
        raise NotRewrittenError(f"others were using the file, so it is tried again ({error})") from None
    finally:
        raw.execute(f"PRAGMA busy_timeout={usual}")
    if busy:
        raise NotRewrittenError("others were reading the write-ahead log, so it is tried again")
    return "rewritten with VACUUM" + ("; the write-ahead log was emptied" if mode == "wal" else "")


_STOP_WAITING = text(
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
    "WHERE query = :statement AND state = 'active' AND wait_event_type = 'Lock' AND datname = current_database()"
)


@contextmanager
def _impatient(database: Database, statement: str) -> Iterator[None]:
    """Cancel the statement if it still waits for a lock after LOCK_SECONDS: all others would wait behind it.

    `lock_timeout` cannot say so. A VACUUM runs outside of transactions, and behind a pooler what was set outside of one
    is another connection's.
    """

    def look() -> None:
        try:
            with database.read() as session:
                session.execute(_STOP_WAITING, {"statement": statement})
        except DBAPIError as error:
            log.warning("a rewrite that waits for a lock could not be stopped: %s", type(error.orig).__name__)

    timer = threading.Timer(LOCK_SECONDS, look)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # it may be looking: its connection goes back before anybody closes the database


def _vacuum(database: Database, connection: Connection, statement: str, *, strict: bool = False) -> None:
    """Run a VACUUM, which says in notices what it left. strict: it may leave no earlier form of any row.

    Raises:
        NotRewrittenError: it was not allowed, or an older transaction may still read what was erased.
    """
    raw: Any = connection.connection.driver_connection
    notices: list[tuple[str, str, str]] = []

    def note(said: Any) -> None:  # it is readable only now
        notices.append((said.severity_nonlocalized, said.message_primary, said.message_detail or ""))

    raw.add_notice_handler(note)
    try:
        with _impatient(database, statement):
            connection.execute(text(statement))
    finally:
        raw.remove_notice_handler(note)
    for severity, message, detail in notices:
        if severity == "WARNING":  # it skips what the role does not own
            raise NotRewrittenError(f"not allowed: {message}")
        left = COUNT.search(detail)  # "0 dead row versions cannot be removed yet", in the server's language
        if strict and left is not None and int(left[0]):
            table = statement.rpartition(" ")[2]
            raise NotRewrittenError(f"an older transaction may still read what was erased from {table}: tried again")


def _say(database: Database, receipts: list[str], detail: str) -> None:
    with database.write() as session:
        change = update(Receipt).where(Receipt.id.in_(receipts), Receipt.done_at.is_(None), Receipt.detail != detail)
        session.execute(change.values(detail=detail).execution_options(synchronize_session=False))


def tick(database: Database, settings: Settings, receipts: list[str], done: str) -> None:
    """Date the receipts, and name what copies elsewhere keep, with the operator's dates."""
    with database.write() as session:
        now = db.now(session)
        copies = _copies(settings, sqlite=database.is_sqlite)
        unstated = [name for name, (days, _) in copies.items() if days is None]
        if unstated:
            done += f"; how long {' and '.join(unstated)} are kept is not stated"
        owed = select(Receipt).where(Receipt.id.in_(receipts), Receipt.done_at.is_(None))
        for receipt in session.scalars(owed.with_for_update()).all():
            receipt.done_at, receipt.detail = now, done
            for name, (days, setting) in copies.items():
                if days is None:
                    continue
                detail = f"{name} from before {now:%Y-%m-%d %H:%M} UTC may hold the samples; this service does not see "
                detail += f"them, and its operator states with {setting} that they are kept until this date"
                subject, until = name.replace(" ", "-"), now + timedelta(days=days)
                copy = Receipt(
                    id=new_id("rcp"), request_id=receipt.request_id, subject=subject, detail=detail, due_at=until
                )
                session.add(copy)


def _copies(settings: Settings, *, sqlite: bool) -> dict[str, tuple[float | None, str]]:
    """Copies outside the database's files: days they are kept, and the setting that states it."""
    found: dict[str, tuple[float | None, str]] = {"backups": (settings.backups_kept_days, "LETHE_BACKUPS_KEPT_DAYS")}
    if not sqlite:
        found = {"write-ahead logs": (settings.wal_kept_days, "LETHE_WAL_KEPT_DAYS"), **found}
    return found
