"""Schema changes go through Alembic only; this is how a process applies or checks them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

import migrations
from app.core.config import StartError
from app.core.db import Database, set_journal


class SchemaError(StartError):
    """The database's schema and this program do not fit; says which is newer."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def migrate(database: Database) -> None:
    """Bring the database to this program's schema. Several processes may call it at once: one works, the rest wait.

    Raises:
        SchemaError: the database was made by a newer Lethe, or is not in UTF-8.
    """
    if database.is_sqlite:
        set_journal(database)
    with database.engine.connect().execution_options(lethe_write=True) as connection, connection.begin():
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(7305421)"))
        if _is_current(connection):
            return
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def check(database: Database) -> None:
    """Refuse to work on a database whose schema is not this program's.

    Raises:
        SchemaError: older (run `lethe migrate`) or newer (upgrade Lethe), or the database is not in UTF-8.
    """
    with database.engine.connect() as connection:
        if not _is_current(connection):
            raise SchemaError("the database's schema is older than this program: run `lethe migrate`")


def _is_current(connection: Connection) -> bool:
    if connection.dialect.name == "postgresql":
        encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
        if encoding != "UTF8":  # a sample id or a name of any script would be an error at the moment it is stored
            raise SchemaError(f"the database has the encoding {encoding}: make one with UTF8")
    revision = MigrationContext.configure(connection).get_current_revision()
    known = _revisions()
    if revision is not None and revision not in known:
        raise SchemaError(f"the database has schema {revision}, which is newer than this program: upgrade Lethe")
    return revision == known[0]


@cache
def _revisions() -> list[str]:
    """All that this program has, the newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]
