"""Behind a pooler each transaction may have another connection of the server: nothing of ours may outlive one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.core import keys
from app.core.config import Settings
from app.core.db import LIMITS, Database
from app.deletions import rewriting
from app.main import create_app
from app.operations import migrate
from app.recovery import backup
from tests.conftest import POSTGRES
from tests.pgbouncer import needs_pgbouncer, pooled
from tests.support import Account, scratch_database

pytestmark = [pytest.mark.services, needs_pgbouncer]


@pytest.fixture(scope="module")
def address(migrated: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with scratch_database(POSTGRES, migrated) as url, pooled(url, tmp_path_factory.mktemp("pool")) as found:
        yield found


@pytest.fixture
def database(address: str, tmp_path: Path) -> Iterator[Database]:
    found = Database(Settings(data_dir=tmp_path, database_url=address))
    yield found
    found.close()


def test_limits_hold_within_each_transaction_and_not_beyond(database: Database) -> None:
    """As seen: the start-up parameter was refused; where the pooler ignored it, all time limits were gone."""
    show = text("SELECT name, setting || coalesce(unit, '') FROM pg_settings WHERE name = ANY(:names)")
    wanted = {"idle_in_transaction_session_timeout": "60000ms", "lock_timeout": "30000ms",
              "statement_timeout": "120000ms", "jit": "off"}  # fmt: skip
    assert wanted.keys() == LIMITS.keys()

    def look(_: int) -> dict[str, str]:
        with database.write() as session:
            return dict(session.execute(show, {"names": [*LIMITS]}).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(found == wanted for found in pool.map(look, range(40)))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as outside:
        assert outside.execute(text("SHOW statement_timeout")).scalar_one() == "0"


def test_no_statement_is_prepared(database: Database) -> None:
    """As seen: 17 of 400 calls ended in 500, because the connection did not have what another had prepared."""

    def many(number: int) -> int:
        count = 0
        for _ in range(20):
            with database.read() as session:
                count += session.execute(text("SELECT :n + 1"), {"n": number}).scalar_one() == number + 1
                count += session.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar_one()
        return count

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(many, range(16))) == [20] * 16


def test_the_service_runs_behind_a_pooler(address: str, tmp_path: Path) -> None:
    """The schema, a dataset that is taken in, a deletion, and the rewrite of the database's files."""
    settings = Settings(data_dir=tmp_path / "data", database_url=address)
    database = Database(settings)
    migrate.migrate(database)
    keys.bootstrap(database, settings)
    with TestClient(create_app(settings), raise_server_exceptions=False) as http:
        http.headers["Authorization"] = f"Bearer {settings.key_file.read_text().strip()}"
        account = Account(settings, database, http)
        made = account.post("/v1/datasets", {"name": "digits", "source": {"name": "digits"}})
        account.work()
        dataset = account.get(f"/v1/datasets/{made['id']}")
        assert dataset["state"] == "ready"
        gate = threading.Barrier(8)

        def call(number: int) -> list[int]:
            gate.wait(30)
            paths = (f"/v1/datasets/{made['id']}", "/v1/datasets", "/v1/jobs", "/readyz", "/v1/models")
            return [http.get(path).status_code for path in paths for _ in range(8)]

        with ThreadPoolExecutor(8) as pool:
            replies = [status for found in pool.map(call, range(8)) for status in found]
        assert replies == [200] * 320
        account.close()
    assert "VACUUM FULL" in rewriting.rewrite(database)
    database.close()


def test_a_rewrite_that_waits_behind_a_pooler_gives_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "LOCK_SECONDS", 0.2)
    with database.write() as session:
        session.execute(text("LOCK TABLE samples IN ACCESS SHARE MODE"))
        with pytest.raises(rewriting.NotRewrittenError, match="others were using"):
            rewriting.rewrite(database)


def test_a_search_path_holds_behind_a_pooler(address: str, tmp_path: Path) -> None:
    with psycopg.connect(address, autocommit=True, prepare_threshold=None) as connection:
        connection.execute("""CREATE SCHEMA "our 100%'s" """)
    found = Database(
        Settings(data_dir=tmp_path, database_url=f"{address}?options=-c%20search_path%3D%22our%5C%20100%25's%22")
    )
    migrate.migrate(found)

    def look(_: int) -> str:
        with found.read() as session:
            return str(session.execute(text("SELECT current_schema()")).scalar_one())

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(look, range(40))) == {"our 100%'s"}
    found.close()


def test_a_backup_asks_for_the_server_itself(address: str, tmp_path: Path) -> None:
    """What pg_dump sets for its session would be left with the pooler's connections."""
    settings = Settings(data_dir=tmp_path / "data", database_url=address)
    with pytest.raises(backup.BackupError, match="names a pooler"):
        backup.take(settings, tmp_path / "there")
