"""Schema changes go through Alembic only; this is how a process applies or checks them."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import migrations
from app.db import Database, set_journal


class SchemaError(Exception):
    """The database's schema and this program do not fit; says which is newer."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def migrate(database: Database) -> None:
    """Bring the database to this program's schema. Several processes may call it at once: one works, the rest wait.

    Raises:
        SchemaError: the database was made by a newer Lethe.
    """
    if database.is_sqlite:
        set_journal(database)
    config = _config()
    with database.engine.connect().execution_options(lethe_write=True) as connection, connection.begin():
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(7305421)"))
        _refuse_newer(_revision(MigrationContext.configure(connection)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def check(database: Database) -> None:
    """Refuse to work on a database whose schema is not this program's.

    Raises:
        SchemaError: older (run `lethe migrate`) or newer (upgrade Lethe).
    """
    with database.engine.connect() as connection:
        revision = _revision(MigrationContext.configure(connection))
    _refuse_newer(revision)
    if revision != ScriptDirectory.from_config(_config()).get_current_head():
        raise SchemaError("the database's schema is older than this program: run `lethe migrate`")


def _revision(context: MigrationContext) -> str | None:
    return context.get_current_revision()


def _refuse_newer(revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise SchemaError(f"the database has schema {revision}, which is newer than this program: upgrade Lethe")
