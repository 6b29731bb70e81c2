"""Engines and transactions: the only place that commits.

SQLite needs care that its defaults do not give (measured: 1,400 of 1,600 read-then-write updates lost without
an error): the driver's implicit BEGIN is off, writers say BEGIN IMMEDIATE, every commit is synced, and waiting
for the lock may take 15 s. Below SQLite 3.51.3, WAL has a corruption bug with several writers, so the rollback
journal is used there.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from app.config import Settings

log = logging.getLogger("lethe.db")

BUSY_SECONDS = 30
WAL_SAFE_FROM = (3, 51, 3)


class Database:
    """One engine, and transactions on it.

    `read()` and `write()` open a transaction each; `write()` commits when its block ends and rolls back when it
    raises. Nobody else commits, and no transaction is held across GPU work.
    """

    def __init__(self, settings: Settings) -> None:
        url = settings.resolved_database_url
        self.is_sqlite = url.startswith("sqlite")
        if self.is_sqlite:
            settings.data_dir.mkdir(parents=True, exist_ok=True)
        self.engine = _sqlite_engine(url) if self.is_sqlite else _postgres_engine(url)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def write(self) -> Iterator[Session]:
        with self._sessions() as session:
            session.connection(execution_options={"lethe_write": True})
            yield session
            session.commit()

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self._sessions() as session:
            yield session

    def close(self) -> None:
        self.engine.dispose()


def now(session: Session) -> datetime:
    """The database's clock, UTC, without a zone: leases and due times never trust a worker's clock."""
    if session.get_bind().dialect.name == "sqlite":
        stamp = session.execute(text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')")).scalar_one()
        return datetime.fromisoformat(stamp)
    value: datetime = session.execute(text("SELECT clock_timestamp() AT TIME ZONE 'UTC'")).scalar_one()
    return value


def is_contention(error: OperationalError) -> bool:
    """Whether the database gave up on a lock, so that the same thing may well succeed in a moment."""
    state = getattr(error.orig, "sqlstate", None)
    return state in ("40P01", "55P03") or "database is locked" in str(error.orig)


def utcnow() -> datetime:
    """This process's clock, in the same shape: for display times that order nothing."""
    return datetime.now(UTC).replace(tzinfo=None)


def _sqlite_engine(url: str) -> Engine:
    # NullPool: a file handle is cheap, and none is left behind in a process that is stopped.
    engine = create_engine(
        url,
        poolclass=NullPool,
        hide_parameters=True,  # an error's text goes to the log, and sample ids are parameters
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # no implicit BEGIN
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("lethe_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def set_journal(database: Database) -> str:
    """Choose the journal mode once, at creation or start, and say which: switching under load raises `locked`."""
    wanted = "wal" if sqlite3.sqlite_version_info >= WAL_SAFE_FROM else "delete"
    with database.engine.connect() as connection:
        raw: Any = connection.connection.driver_connection
        mode = raw.execute("PRAGMA journal_mode").fetchone()[0]
        if mode != wanted:
            mode = raw.execute(f"PRAGMA journal_mode={wanted}").fetchone()[0]
    log.info("SQLite %s, journal mode %s", sqlite3.sqlite_version, mode)
    return str(mode)


def _postgres_engine(url: str) -> Engine:
    return create_engine(
        url,
        isolation_level="READ COMMITTED",
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=20,
        connect_args={
            "application_name": "lethe",
            "options": "-c idle_in_transaction_session_timeout=60s -c lock_timeout=30s -c statement_timeout=120s",
        },
    )
