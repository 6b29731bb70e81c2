"""Logging of every process: one line an event, to standard error, as JSON or as text. Never a sample id.

What a line is about (request, tenant, job, attempt …) is bound once, by whoever knows it, and stands in every line
that is logged meanwhile. Of an exception a line tells the kind and the places in the code, not the text: a
`KeyError` or a database's message may repeat a value that was sent.
"""

from __future__ import annotations

import errno
import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FRAMES = 12  # of one exception, the innermost
CAUSES = 4

_about: ContextVar[dict[str, Any] | None] = ContextVar("about", default=None)

ROOT = Path(__file__).parents[2]


# -- what lines are about --------------------------------------------------------------------------


@contextmanager
def bind(**fields: Any) -> Iterator[dict[str, Any]]:
    """Add fields to every line of the block; the dictionary of all that are bound."""
    bound = {**(_about.get() or {}), **fields}
    token = _about.set(bound)
    try:
        yield bound
    finally:
        _about.reset(token)


def note(**fields: Any) -> None:
    """Add what has been learned to the innermost `bind`, also from a thread that works for it."""
    if (bound := _about.get()) is not None:
        bound.update(fields)


def about(field: str) -> Any:
    """A bound field; None where there is none."""
    return (_about.get() or {}).get(field)


# -- lines -----------------------------------------------------------------------------------------


def configure(part: str, form: str = "") -> None:
    """Log in `form`, json or text; by itself text on a terminal and json elsewhere. `part` stands in every line."""
    form = form or ("text" if sys.stderr.isatty() else "json")
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(part, form))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in (
        "httpx",
        "httpx2",
        "alembic",
        "uvicorn.access",
        "botocore",
        "fontTools",
        "celery.worker.strategy",
        "celery.app.trace",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _ended
    threading.excepthook = lambda ended: _ended(ended.exc_type, ended.exc_value, ended.exc_traceback)


def _ended(kind: type[BaseException], error: BaseException | None, _: Any) -> None:
    if not issubclass(kind, (KeyboardInterrupt, SystemExit)):
        logging.getLogger("lethe").critical("ended by an unexpected %s", kind.__name__, exc_info=error)


class Lines(logging.Formatter):
    """A record as one line, with what is bound and without any exception's text."""

    def __init__(self, part: str, form: str) -> None:
        super().__init__()
        self._part, self._json = part, form == "json"

    def format(self, record: logging.LogRecord) -> str:
        fields = {**(_about.get() or {}), **_exception(record)}
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        message = _message(record)
        if self._json:
            head = {"at": at, "level": record.levelname.lower(), "part": self._part, "logger": record.name}
            return json.dumps({**head, "message": message, **fields}, default=str)
        shown = " ".join(f"{name}={value}" for name, value in fields.items() if name != "trace")
        line = f"{at} {record.levelname} {self._part} {record.name}: {message}"
        trace = "".join(f"\n    {place}" for place in fields.get("trace", ()))
        return f"{line} [{shown}]{trace}" if shown else line


def _message(record: logging.LogRecord) -> str:
    """The message; Celery's own of a task that failed would repeat the exception and its traceback."""
    if isinstance(record.args, Mapping) and "traceback" in record.args:
        return record.getMessage() if not record.exc_info else f"a task ended by {_kind(record)}"
    return record.getMessage()


def _kind(record: logging.LogRecord) -> str:
    return type(_error(record)).__name__


def _error(record: logging.LogRecord) -> BaseException | None:
    found = record.exc_info
    return found[1] if isinstance(found, tuple) else None


def _place(filename: str) -> str:
    """A file of ours as it is called in the checkout, another by its last folders: a path may name people."""
    path = Path(filename)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else "/".join(path.parts[-3:])


def _exception(record: logging.LogRecord) -> dict[str, Any]:
    """`exception`: kinds, the last one first; `trace`: the places in the code, outermost first."""
    kinds: list[str] = []
    trace: list[str] = []
    error = _error(record)
    while error is not None and len(kinds) < CAUSES:
        kinds.append(_named(error))
        frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
        trace += [f"{_place(f.filename)}:{f.lineno} {f.name}" for f in frames]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return {"exception": " < ".join(kinds), "trace": trace} if kinds else {}


def _named(error: BaseException) -> str:
    """The kind of an exception, with the code that a database or the system gave it."""
    driver = getattr(error, "orig", error)
    code = getattr(driver, "sqlstate", None) or getattr(driver, "sqlite_errorname", None)
    if isinstance(error, OSError):
        code = errno.errorcode.get(error.errno or 0)
    return f"{type(error).__name__}({code})" if code else type(error).__name__
