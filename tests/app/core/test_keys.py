"""Keys: what is stored of them, and who is let in."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from app.core import db, keys
from app.core.config import Settings, write_private
from app.core.db import Database
from app.core.errors import Unauthorized
from app.core.tables import ApiKey
from app.operations import migrate


@pytest.fixture
def local(tmp_path: Path) -> Iterator[tuple[Settings, Database]]:
    settings = Settings(data_dir=tmp_path)
    database = Database(settings)
    migrate.migrate(database)
    yield settings, database
    database.close()


def test_the_first_start_makes_one_key_and_the_second_none(local: tuple[Settings, Database]) -> None:
    settings, database = local
    assert keys.bootstrap(database, settings)
    token = settings.key_file.read_text()
    assert not keys.bootstrap(database, settings)
    assert settings.key_file.read_text() == token
    assert settings.key_file.stat().st_mode & 0o777 == 0o600
    with database.read() as session:
        (row,) = session.scalars(select(ApiKey)).all()
        caller = keys.authenticate(session, token.strip())
    assert (caller.tenant_id, caller.key_id, caller.scopes) == (keys.FIRST_TENANT, row.id, frozenset(keys.SCOPES))
    secret = token.strip().split("_", 2)[2]
    assert len(secret) >= 43, "256 bits"
    assert secret not in repr(vars(row))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: "",
        lambda token: token[:-1],
        lambda token: token + "x",
        lambda token: token.replace("lethe_", "other_"),
        lambda token: token.replace("lethe_", ""),
        lambda token: token.upper(),
        lambda token: "lethe_%_" + token.split("_", 2)[2],
        lambda token: "lethe_" + "0" * 26 + "_" + token.split("_", 2)[2],
        lambda token: token.rsplit("_", 1)[0] + "_\xff",
        lambda token: "lethe_\x00_\x00",
    ],
)
def test_nobody_else_is_let_in(local: tuple[Settings, Database], spoil: object) -> None:
    settings, database = local
    keys.bootstrap(database, settings)
    token = settings.key_file.read_text().strip()
    with database.read() as session, pytest.raises(Unauthorized) as refused:
        keys.authenticate(session, spoil(token))  # type: ignore[operator]
    assert str(refused.value) == "The API key is missing or not valid.", "it does not say which"


def test_a_key_ends(local: tuple[Settings, Database]) -> None:
    settings, database = local
    keys.bootstrap(database, settings)
    token = settings.key_file.read_text().strip()
    with database.write() as session:
        row = session.scalars(select(ApiKey)).one()
        row.expires_at = db.now(session) + timedelta(minutes=1)
    with database.write() as session:
        keys.authenticate(session, token)
        session.scalars(select(ApiKey)).one().expires_at = db.now(session)
    with database.read() as session, pytest.raises(Unauthorized):
        keys.authenticate(session, token)


def test_a_private_file_is_never_readable_by_others_and_the_first_writer_wins(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "secret"
    write_private(path, "one", exclusive=True)
    write_private(path, "two", exclusive=True)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("one\n", 0o600)
    write_private(path, "three")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("three\n", 0o600)
    assert list(path.parent.iterdir()) == [path], "no partial file is left"


def test_the_secret_is_made_once_and_the_environment_comes_first(tmp_path: Path) -> None:
    first = Settings(data_dir=tmp_path).secret_bytes()
    assert len(first) == 64
    assert Settings(data_dir=tmp_path).secret_bytes() == first
    assert Settings(data_dir=tmp_path, secret="given").secret_bytes() == b"given"
