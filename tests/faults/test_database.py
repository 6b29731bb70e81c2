"""SQLite under several writers, through the service's own transactions."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.core.config import Settings
from app.core.db import Database
from tests import zygote
from tests.faults.harness import ended
from tests.support import eventually

PROCESSES, ROUNDS = 4, 200


def counter(folder: Path) -> Database:
    database = Database(Settings(data_dir=folder))
    with database.write() as session:
        session.execute(text("CREATE TABLE counter (n INTEGER NOT NULL)"))
        session.execute(text("INSERT INTO counter VALUES (0)"))
    return database


def look(session: Any) -> int:
    value: int = session.execute(text("SELECT n FROM counter")).scalar_one()
    return value


def put(session: Any, value: int) -> None:
    session.execute(text("UPDATE counter SET n = :n"), {"n": value})


def add(folder: Path, rounds: int) -> None:
    """Read, add one, write: each in a transaction of its own. A `locked` error ends the process with code 1."""
    database = Database(Settings(data_dir=folder))
    for _ in range(rounds):
        with database.write() as session:
            put(session, look(session) + 1)


def test_no_update_is_lost_and_none_is_refused(tmp_path: Path) -> None:
    database = counter(tmp_path)
    processes = [zygote.call(add, tmp_path, ROUNDS) for _ in range(PROCESSES)]
    for process in processes:
        with ended(process):
            assert process.wait(120) == 0
    with database.read() as session:
        assert look(session) == PROCESSES * ROUNDS


def interleave(database: Database) -> tuple[int, list[type[BaseException]]]:
    """Two read-modify-writes, the second begun after the first has read; the count and what the second raised."""
    failures: list[type[BaseException]] = []
    both_have_read, second_began = threading.Event(), threading.Event()

    def second() -> None:
        try:
            second_began.set()
            with database.write() as session:
                value = look(session)
                both_have_read.set()
                put(session, value + 1)
        except BaseException as error:
            failures.append(type(error))

    thread = threading.Thread(target=second)
    try:
        with database.write() as session:
            value = look(session)
            thread.start()
            second_began.wait()
            both_have_read.wait(0.3)  # with the lock taken at the beginning, this never happens
            put(session, value + 1)
    except OperationalError as error:
        failures.append(type(error))
    thread.join()
    with database.read() as session:
        return look(session), failures


def test_a_writer_waits_for_the_one_before_it(tmp_path: Path) -> None:
    assert interleave(counter(tmp_path)) == (2, [])


def test_without_begin_immediate_an_update_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: plain BEGIN lets both read the same number, and one of them can then only fail."""
    monkeypatch.setattr("app.core.db.BUSY_SECONDS", 1)
    database = counter(tmp_path)
    monkeypatch.setattr(Database, "write", plain_write)
    count, failures = interleave(database)
    assert count < 2
    assert failures


def plain_write(self: Database) -> Any:
    return self._sessions.begin()


def test_a_reader_sees_no_half_of_a_transaction(tmp_path: Path) -> None:
    database = counter(tmp_path)
    with pytest.raises(RuntimeError), database.write() as session:
        put(session, 7)
        raise RuntimeError
    with database.read() as session:
        assert look(session) == 0
    assert eventually(lambda: interleave(database)[0] == 2, "the lock to be free")
