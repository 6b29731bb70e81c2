"""Engines and transactions: the only place that commits.

SQLite needs care that its defaults do not give (measured: 1,400 of 1,600 read-then-write updates lost without
an error): the driver's implicit BEGIN is off, writers say BEGIN IMMEDIATE, every commit is synced, and waiting
for the lock may take 15 s. Below SQLite 3.51.3, WAL has a corruption bug with several writers, so the rollback
journal is used there.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic_core import to_json
from sqlalchemy import URL, Dialect, Engine, Insert, Table, TextClause, bindparam, create_engine, event, insert, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from app.core.config import Settings, private_file, private_folder, server_options

log = logging.getLogger("lethe.db")
Key = TypeVar("Key")

BUSY_SECONDS = 30
WAL_SAFE_FROM = (3, 51, 3)
SQLITE_AWAY = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN}
POSTGRES_AWAY = {"08", "53", "57", "58"}  # classes: connection, resources, operator's intervention, system


# Set within each transaction: of a pooler that lends a server's connection for one transaction, the next may come from
# another, and one that was asked for settings at the start refuses. `jit` costs more than any of these statements.
LIMITS = {
    "idle_in_transaction_session_timeout": "60s",
    "lock_timeout": "30s",
    "statement_timeout": "120s",
    "jit": "off",
}


SERVICE = "service"  # the actor of what no API key asked for


def acting(session: Session) -> str:
    """On whose behalf the transaction is: the id of an API key, or `service`."""
    return str(session.info.get("actor", SERVICE))


class Database:
    """One engine, and transactions on it.

    `read()` and `write()` open a transaction each; `write()` commits when its block ends and rolls back when it
    raises. Nobody else commits, and no transaction is held across GPU work.
    """

    def __init__(self, settings: Settings) -> None:
        url = settings.resolved_database_url
        self.is_sqlite = url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            private_folder(settings.data_dir)
            private_file(Path(url.database or ""))  # its journals get the same mode from SQLite
        self.engine = _sqlite_engine(url) if self.is_sqlite else _postgres_engine(url)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def write(self, actor: str = SERVICE) -> Iterator[Session]:
        """actor: on whose behalf, the id of an API key; events name it (`acting`)."""
        with self._sessions() as session:
            session.info["actor"] = actor
            session.connection(execution_options={"lethe_write": True})
            yield session
            session.commit()

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self._sessions() as session:
            yield session

    def close(self) -> None:
        self.engine.dispose()


_SQLITE_NOW = text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')")
_POSTGRES_NOW = text("SELECT clock_timestamp() AT TIME ZONE 'UTC'")


def now(session: Session) -> datetime:
    """The database's clock, UTC, without a zone: leases and due times never trust a worker's clock."""
    if session.get_bind().dialect.name == "sqlite":
        return datetime.fromisoformat(session.execute(_SQLITE_NOW).scalar_one())
    value: datetime = session.execute(_POSTGRES_NOW).scalar_one()
    return value


def one_by_one(
    keys: Iterable[Key],
    act: Callable[[Key], int],
    failure: str,
    *,
    most: int | None = None,
    ends: Callable[[Exception], bool] = lambda _: False,
) -> int:
    """Act on each until `most` are done; what `act` counted, in all. One that fails is logged, as `failure`, and keeps
    none of the others from it.

    Raises:
        OperationalError, InterfaceError: the database cannot be used now; the next would fare no better.
        Exception: one after which `ends` says the same.
    """
    done = 0
    for key in keys:
        if most is not None and done >= most:
            break
        try:
            done += act(key)
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:
            if ends(error):
                raise
            log.error("%s: %s", failure, key, exc_info=error)
    return done


def insert_many(session: Session, table: type[DeclarativeBase], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, all of the same columns, past the unit of work: its care costs ten times as much.

    PostgreSQL is sent them as one JSON text: to bind their values one by one would cost most of the time.
    """
    if not rows:
        return
    bind = session.get_bind()
    if bind.dialect.name == "sqlite" or len(rows) == 1:
        session.execute(_insert(table), rows)
        return
    binary = [name for name, value in rows[0].items() if isinstance(value, bytes)]
    if binary:
        rows = [{**row, **{name: f"\\x{row[name].hex()}" for name in binary}} for row in rows]
    statement = _insert_from_json(table, tuple(rows[0]), bind.dialect)
    session.execute(statement, {"rows": to_json(rows).decode()})


@lru_cache(maxsize=64)
def _insert(table: type[DeclarativeBase]) -> Insert:
    return insert(cast(Table, table.__table__))


@lru_cache(maxsize=64)
def _insert_from_json(table: type[DeclarativeBase], names: tuple[str, ...], dialect: Dialect) -> TextClause:
    columns = cast(Table, table.__table__).columns
    defaults = {
        column.name: cast(Any, column.default).arg
        for column in columns
        if column.name not in names and column.default is not None and column.default.is_scalar
    }
    typed = ", ".join(f"{name} {columns[name].type.compile(dialect)}" for name in names)
    into = ", ".join([*names, *defaults])
    values = ", ".join([*names, *(f":{name}" for name in defaults)])
    statement = text(
        f"INSERT INTO {columns[names[0]].table.name} ({into}) "  # noqa: S608
        f"SELECT {values} FROM json_to_recordset(CAST(:rows AS json)) AS given ({typed})"
    )
    return statement.bindparams(*(bindparam(name, value, columns[name].type) for name, value in defaults.items()))


def is_contention(error: OperationalError) -> bool:
    """Whether the database gave up on a lock, so that the same thing may well succeed in a moment."""
    state = getattr(error.orig, "sqlstate", None)
    return state in ("40P01", "55P03") or "database is locked" in str(error.orig)


def is_away(error: OperationalError) -> bool:
    """Whether the database does not answer or takes nothing in: gone, shutting down, full, read-only."""
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in SQLITE_AWAY
    state = getattr(error.orig, "sqlstate", None)  # none: the connection could not be made, or broke off
    return state is None or state[:2] in POSTGRES_AWAY


def _sqlite_engine(url: URL) -> Engine:
    # Kept open: connecting reads the schema anew, which costs more than a small transaction. Idle, a connection holds
    # no lock, so a process that is stopped delays nobody.
    engine = create_engine(
        url,
        pool_size=10,
        max_overflow=30,
        hide_parameters=True,  # an error's text goes to the log, and sample ids are parameters
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False, "cached_statements": 512},
    )
    # SQLite must not be used across a fork: the child begins with an empty pool and never touches its parent's handles.
    forgotten = weakref.WeakMethod(engine.dispose)
    os.register_at_fork(after_in_child=lambda: (dispose := forgotten()) and dispose(close=False))

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # no implicit BEGIN
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")  # of an erased id no byte stays in a free page
        connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("lethe_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


class Changes:
    """Sees cheaply that another connection has changed the database: on SQLite. On PostgreSQL it may always have."""

    def __init__(self, database: Database) -> None:
        self._connection: Connection | None = None
        if database.is_sqlite:
            self._connection = database.engine.connect()
            self._connection.rollback()
        self._version = self._read()

    def _read(self) -> int:
        if self._connection is None:
            return 0
        raw: Any = self._connection.connection.driver_connection
        version: int = raw.execute("PRAGMA data_version").fetchone()[0]
        return version

    def seen(self) -> bool:
        """Whether it may have changed since the last call."""
        before, self._version = self._version, self._read()
        return self._connection is None or before != self._version

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


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


def _postgres_engine(url: URL) -> Engine:
    wanted = LIMITS | server_options(url)  # what the address asks for, such as a search_path, comes before ours
    begin = f"BEGIN ISOLATION LEVEL READ COMMITTED; {_set_local(wanted)}"
    engine = create_engine(
        url.difference_update_query(["options"]),
        isolation_level="AUTOCOMMIT",  # of the driver: BEGIN is ours, and brings the settings in the same message
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=20,
        connect_args={
            "application_name": "lethe",
            "client_encoding": "utf8",  # else a SQL_ASCII database answers in bytes, before `schema` can refuse it
            "prepare_threshold": None,  # a pooler may give the next transaction a connection that has them not
        },
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        match connection.get_execution_options().get("isolation_level"):
            case None:
                connection.exec_driver_sql(begin)
            case "AUTOCOMMIT":  # nothing begins
                pass
            case _:  # the driver has sent BEGIN
                connection.exec_driver_sql(_set_local(wanted))

    return engine


def _set_local(wanted: Mapping[str, str]) -> str:
    """Settings of PostgreSQL until the transaction ends. As a function they take lists, as in a search_path."""
    pairs = (f"set_config('{name}', '{value.replace(chr(39), chr(39) * 2)}', true)" for name, value in wanted.items())
    return f"SELECT {', '.join(pairs)}".replace("%", "%%")  # the driver looks for places of parameters
