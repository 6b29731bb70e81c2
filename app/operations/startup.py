"""What a part does before it works: it compares schema and settings, and says in one sentence what hinders it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from app.core.causes import URL, cause
from app.core.config import Settings, StartError, private_folder
from app.core.db import Database
from app.operations import agreement, migrate


@contextmanager
def plain() -> Iterator[None]:
    """Turn what hinders a start into a StartError."""
    try:
        yield
    except (DBAPIError, OSError) as error:
        raise StartError(cause(error)) from None
    except (ArgumentError, NoSuchModuleError):
        raise StartError(f"{URL} is no address of a PostgreSQL database") from None


def check(settings: Settings) -> None:
    """Refuse to start on a database that is not this program's, or that was used with other settings.

    Raises:
        StartError: with the reason.
    """
    with plain(), opened(settings) as database:
        migrate.check(database)
        agreement.check(database, settings)
        writable(settings.data_dir)


@contextmanager
def opened(settings: Settings) -> Iterator[Database]:
    database = Database(settings)
    try:
        yield database
    finally:
        database.close()


def writable(folder: Path) -> None:
    """Every part keeps something there, be it for a while.

    Raises:
        StartError: it cannot.
    """
    probe = folder / f".{os.getpid()}.probe"
    try:
        private_folder(folder)
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        reason = f"the data folder {folder.absolute()} cannot be written: {error.strerror}"
        raise StartError(f"{reason}; set LETHE_DATA_DIR to one that can") from None
