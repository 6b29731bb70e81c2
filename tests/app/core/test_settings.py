"""Settings as platforms set them, and where the database then is."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from app.core.config import Settings
from app.core.db import Database
from app.jobs import workers
from app.operations import migrate
from tests.conftest import POSTGRES
from tests.support import scratch_database


def test_a_service_link_of_kubernetes_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_PORT", "tcp://10.96.0.7:8321")
    assert Settings().port == 8321
    monkeypatch.setenv("LETHE_PORT", "9000")
    assert Settings().port == 9000


@pytest.mark.parametrize("name", ["a?b", "100%", "a%20b", "a#b", "a b", "ä"])
def test_a_data_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    database = Database(Settings(data_dir=tmp_path / name))
    migrate.migrate(database)
    database.close()
    assert [path.name for path in (tmp_path / name).iterdir() if path.suffix == ".db"] == ["lethe.db"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.services
def test_the_options_of_a_database_address_are_kept_beside_ours() -> None:
    """As seen: they were thrown away, and the tables were made in another schema."""
    with scratch_database(POSTGRES) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA ours")
        database = Database(Settings(database_url=f"{url}?options=-c%20search_path%3Dours"))
        migrate.migrate(database)
        with database.read() as session:
            schemas = session.scalars(text("SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = 'jobs'")).all()
            assert schemas == ["ours"]
            assert session.scalars(text("SHOW statement_timeout")).one() == "2min"
        database.close()


def test_two_containers_have_workers_of_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the process is number 1, and many have one host name: then one released the other's lease."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    first = workers.own_name(Settings())
    assert first == workers.own_name(Settings()), "of one process it stays"
    monkeypatch.setattr(workers, "_TOKEN", "another")
    assert workers.own_name(Settings()) != first


def test_files_of_containers_and_systemd_hold_settings_as_variables_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    containers, systemd = tmp_path / "run", tmp_path / "credentials"
    for folder, name, value in (
        (containers, "lethe_secret", "from a container's file\n"),
        (systemd, "lethe_signing_key", "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n"),
        (systemd, "lethe_broker_url", "redis://:word@localhost/1"),
        (systemd, "lethe_kinds", "train,purge"),
    ):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(value)
    monkeypatch.setattr("app.core.config.SECRETS_DIR", containers)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(systemd))
    monkeypatch.setenv("LETHE_BROKER_URL", "")
    settings = Settings()
    assert settings.secret_bytes() == b"from a container's file"
    assert settings.signing_key.get_secret_value().count("\n") == 2
    assert settings.kinds == ["train", "purge"]
    assert settings.broker_url == "", "a variable comes first, even an empty one"
