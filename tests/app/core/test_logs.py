"""Log lines: one each, about what is bound, and never with the text of an exception."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from app.core import logs
from app.core.logs import Lines

SECRET = "sample-0815-of-somebody"


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    found: list[logging.LogRecord] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    handler, logger = Kept(), logging.getLogger("lethe.test")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield found
    logger.removeHandler(handler)


log = logging.getLogger("lethe.test")


def shown(record: logging.LogRecord, form: str = "json") -> Any:
    line = Lines("api", form).format(record)
    return json.loads(line) if form == "json" else line


def deep(values: dict[str, str]) -> str:
    try:
        return values[SECRET]
    except KeyError as error:
        raise ValueError(f"nothing known of {SECRET}") from error


def fail() -> None:
    subject = SECRET  # a local that a traceback must not print
    deep({"other": subject})


def test_a_line_is_one_json_object_with_what_is_bound(lines: list[logging.LogRecord]) -> None:
    with logs.bind(request="req_1", method="GET"), logs.bind(tenant="ten_1"):
        log.info("two\nlines of %s", "text")
        found = shown(lines[0])
        assert "\n" not in Lines("api", "json").format(lines[0])
    assert found["message"] == "two\nlines of text"
    assert (found["request"], found["method"], found["tenant"], found["part"]) == ("req_1", "GET", "ten_1", "api")
    assert (found["level"], found["logger"]) == ("info", "lethe.test")
    assert found["at"].endswith("Z")
    log.info("outside")
    assert "request" not in shown(lines[1])


def test_a_thread_that_works_for_a_request_adds_to_its_lines(lines: list[logging.LogRecord]) -> None:
    with logs.bind(request="req_1"):
        thread = threading.Thread(target=copy_context().run, args=(lambda: logs.note(tenant="ten_9"),))
        thread.start()
        thread.join()
        log.info("done")
        assert shown(lines[0])["tenant"] == "ten_9"
    logs.note(tenant="nobody")
    assert logs.about("tenant") is None


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_exception_is_told_by_its_kinds_and_places_and_not_by_its_text(
    lines: list[logging.LogRecord], form: str
) -> None:
    try:
        fail()
    except ValueError:
        log.exception("it failed")
    line = Lines("worker", form).format(lines[0])
    assert SECRET not in line
    assert "ValueError < KeyError" in line
    assert "tests/app/core/test_logs.py" in line
    assert " deep" in line
    assert " fail" in line


def test_a_databases_error_shows_its_code_and_no_row(lines: list[logging.LogRecord]) -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE t (id TEXT UNIQUE)"))
        for _ in range(2):
            try:
                connection.execute(text("INSERT INTO t VALUES (:id)"), {"id": SECRET})
            except Exception:
                log.exception("refused")
    line = Lines("api", "json").format(lines[0])
    assert SECRET not in line
    assert json.loads(line)["exception"].startswith("IntegrityError(SQLITE_CONSTRAINT_UNIQUE)")
    assert issubclass(sqlite3.IntegrityError, Exception)


def test_celerys_line_of_a_failed_task_has_no_text_of_the_exception(lines: list[logging.LogRecord]) -> None:
    try:
        fail()
    except ValueError as error:
        context = {"name": "lethe.run", "id": "1", "description": "raised unexpected", "exc": repr(error)}
        log.error("Task %(name)s[%(id)s] %(description)s: %(exc)s\n%(traceback)s", context | {"traceback": SECRET},
                  exc_info=error)  # fmt: skip
    line = Lines("worker", "text").format(lines[0])
    assert SECRET not in line
    assert "ValueError" in line


def test_text_names_the_fields_behind_the_message(lines: list[logging.LogRecord]) -> None:
    with logs.bind(job="job_1", stage="attack"):
        log.warning("slow")
        line = shown(lines[0], "text")
    assert line.endswith("WARNING api lethe.test: slow [job=job_1 stage=attack]")
