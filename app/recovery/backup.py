"""A backup of a service that runs: the database at one moment, and every blob that it points at.

What is taken is a data folder: a service on SQLite runs from it as it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.blobs import usage
from app.blobs.folder import BlobMissingError, Folder
from app.blobs.open import Blobs, open_blobs
from app.core import db
from app.core.config import Settings
from app.core.db import Database

TRIES = 3
FILES = ("secret", "signing-key.pem", "api-key")  # where the environment does not give them


class BackupError(Exception):
    """No backup was taken; the text says why."""


@dataclass(frozen=True)
class Taken:
    """What is in a backup; `at` is the database's clock."""

    at: str
    database: str
    schema: str
    blobs: int
    bytes: int


def take(settings: Settings, target: Path) -> Taken:
    """Take a backup into a folder that is not there yet.

    A blob may be removed between the database's moment and its own copy; then it is all done again.

    Raises:
        BackupError: the folder is there, `pg_dump` is missing or fails, or bytes are missing.
    """
    if target.exists():
        raise BackupError(f"{target} is there already")
    settings.secret_bytes()  # made at its first use, which may come later: what is restored must have the same
    database, blobs = Database(settings), open_blobs(settings)
    partial = target.with_name(f".{target.name}.part")
    try:
        for _ in range(TRIES):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True, mode=0o700)
            with _moment(database, settings, partial) as (facts, digests):
                found = Folder(partial / "blobs")
            size, missing = _copy(blobs, found, digests)
            if not missing:
                break
        else:
            raise BackupError(f"{missing} blobs that the database points at are missing")
        for name in FILES:
            if (settings.data_dir / name).exists():
                shutil.copy2(settings.data_dir / name, partial / name)
        taken = Taken(**facts, blobs=len(digests), bytes=size)
        (partial / "backup.json").write_text(json.dumps(asdict(taken), indent=2) + "\n")
        (partial / "blobs" / "incoming").rmdir()
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        database.close()
    return taken


Moment = tuple[dict[str, Any], set[str]]


@contextmanager
def _moment(database: Database, settings: Settings, folder: Path) -> Iterator[Moment]:
    """The database at one moment, in `folder`; facts about it, and the digests it points at."""
    if database.is_sqlite:
        with database.engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            raw.execute("VACUUM INTO ?", (str(folder / "lethe.db"),))
        copy = Database(settings.model_copy(update={"data_dir": folder, "database_url": ""}))
        try:
            yield _look(copy)
        finally:
            copy.close()
        return
    with database.engine.connect().execution_options(isolation_level="REPEATABLE READ") as held:
        held.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        snapshot = held.execute(text("SELECT pg_export_snapshot()")).scalar_one()
        _dump(database, folder / "lethe.dump", snapshot)
        with Session(held) as session:
            yield _facts(session, "postgresql"), usage.held(session)


def _look(copy: Database) -> Moment:
    with copy.read() as session:
        return _facts(session, "sqlite"), usage.held(session)


def _facts(session: Session, kind: str) -> dict[str, Any]:
    revision = session.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    return {"at": f"{db.now(session):%Y-%m-%dT%H:%M:%SZ}", "database": kind, "schema": revision}


def _dump(database: Database, path: Path, snapshot: str) -> None:
    """`pg_dump` of the same moment. The password goes by the environment: arguments are seen in process lists."""
    url = database.engine.url
    address = url.set(drivername="postgresql", password=None).render_as_string()
    command = ["pg_dump", "--format=custom", f"--snapshot={snapshot}", f"--file={path}", f"--dbname={address}"]
    # A pooler refuses the option: it would give what pg_dump sets for its session to the next one that is served.
    environment = os.environ | {"PGOPTIONS": "-c statement_timeout=0"}
    if url.password:
        environment["PGPASSWORD"] = str(url.password)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603
    except FileNotFoundError:
        raise BackupError("pg_dump is not on the PATH: install PostgreSQL's client programs") from None
    if "unsupported startup parameter" in done.stderr:
        raise BackupError("LETHE_DATABASE_URL names a pooler: give `lethe backup` the address of the server itself")
    if done.returncode:
        raise BackupError(f"pg_dump failed: {done.stderr.strip()}")


def _copy(blobs: Blobs, into: Folder, digests: Iterable[str]) -> tuple[int, int]:
    """Copy blobs, each checked against its digest; their bytes, and how many are missing."""
    size = missing = 0
    for digest in sorted(digests):
        try:
            with into.writer() as writer:
                for piece in blobs.read(digest, 0, blobs.size(digest)):
                    writer.write(piece)
                if writer.digest != digest:
                    raise BackupError(f"the stored bytes of {digest} are damaged")
                size += writer.commit().size
        except BlobMissingError:
            missing += 1
    return size, missing
