"""Fixtures: databases (SQLite always, PostgreSQL where one was named), clients in process, services as processes.

Temporary folders are in memory where there is room, and go at the end; `--basetemp` names another place and keeps them.
What is dear to make, such as a trained model, is made once for all processes of `pytest -n`.

Tests that need servers are marked `services`. Without LETHE_TEST_DATABASE_URL and LETHE_TEST_REDIS_URL they are left
out and counted in the last lines; with LETHE_TEST_SERVICES=required that is a failure instead.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache

from app.core import keys
from app.core.config import Settings, get_settings
from app.core.db import Database
from app.main import create_app
from app.operations import migrate
from engine import host
from tests import sessions
from tests.sessions import Once
from tests.support import Account, scratch_database
from tests.trained import Template, Trained, make, open_account


def own_redis(url: str, process: str) -> str:
    """The Redis database of one of the processes of `pytest -n`: they count down from the one that was named."""
    if not url:
        return ""
    parts = urlsplit(url)
    named = int(parts.path.strip("/") or 0)
    return parts._replace(path=f"/{(named - int(process.removeprefix('gw'))) % 16}").geturl()


host.keep_large_blocks()  # as a worker does
gc.set_threshold(5000)  # every test makes an app, whose routes are a full collection's worth of objects
os.environ["OMP_NUM_THREADS"] = "1"  # whatever ran before in this process, what is computed is computed alike

POSTGRES = os.environ.get("LETHE_TEST_DATABASE_URL", "")
REDIS = own_redis(os.environ.get("LETHE_TEST_REDIS_URL", ""), os.environ.get("PYTEST_XDIST_WORKER", "gw0"))
CHROMIUM = "/usr/bin/chromium"  # Debian's
REQUIRED = os.environ.get("LETHE_TEST_SERVICES") == "required"
left_out: dict[str, int] = {}  # how many tests, by what would run them
loaded = 0  # modules that the garbage collector leaves alone


def share_compiled_statements() -> None:
    """Each test has an engine of its own, which would compile every statement again; a service has one."""
    compiled: LRUCache[Any, Any] = LRUCache(5000)
    Engine._compiled_cache = property(lambda _: compiled, lambda *_: None)
    for dialect in (SQLiteDialect_pysqlite, PGDialect_psycopg):  # they are part of the keys
        dialect.__eq__ = lambda one, other: type(one) is type(other)
        dialect.__hash__ = lambda one: hash(type(one))


share_compiled_statements()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_configure(config: pytest.Config) -> None:
    if REQUIRED and not (POSTGRES and REDIS):
        raise pytest.UsageError("LETHE_TEST_SERVICES=required needs LETHE_TEST_DATABASE_URL and LETHE_TEST_REDIS_URL")
    if REQUIRED and not Path(CHROMIUM).exists():
        raise pytest.UsageError(f"LETHE_TEST_SERVICES=required needs {CHROMIUM}")
    for name in [name for name in os.environ if name.startswith("LETHE_") and not name.startswith("LETHE_TEST_")]:
        del os.environ[name]
    if not hasattr(config, "workerinput"):  # not one of the processes of `pytest -n`
        sessions.open_folder(config, POSTGRES)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run, or takes long; the last line says so. What takes long comes first, so that no process
    of `pytest -n` has it left at the end.
    """
    global left_out
    items[:] = [item for item in items if not (item.get_closest_marker("validation") and on_postgres(item))]
    libraries = all(find_spec(name) is not None for name in ("timm", "transformers"))
    wanted = {
        "browser": Path(CHROMIUM).exists(),
        "services": bool(POSTGRES and REDIS),
        "slow": bool(config.getoption("slow")),
        "libraries": libraries,
    }
    for mark in [mark for mark, here in wanted.items() if not here]:
        kept = [item for item in items if not item.get_closest_marker(mark)]
        left_out[mark] = len(items) - len(kept)
        items[:] = kept
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)  # by files: within one, tests may build on those before
    if hasattr(config, "workeroutput"):  # one of the processes of `pytest -n`
        config.workeroutput["left_out"] = left_out


def pytest_collection_finish() -> None:
    freeze_what_was_loaded()


def freeze_what_was_loaded() -> None:
    """Modules stay, and every full collection would walk over them for half a second."""
    global loaded
    if len(sys.modules) > loaded + 50:
        gc.collect()
        gc.freeze()
        loaded = len(sys.modules)


def on_postgres(item: pytest.Item) -> bool:
    return hasattr(item, "callspec") and "postgres" in item.callspec.params.values()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Every process leaves out the same tests; what it hands over says how many."""
    global left_out
    left_out = getattr(node, "workeroutput", {}).get("left_out", {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    how = {
        "browser": f"need {CHROMIUM}; apt-get install chromium brings it",
        "services": "need PostgreSQL and Redis; set LETHE_TEST_DATABASE_URL and LETHE_TEST_REDIS_URL to run them",
        "libraries": "need timm and transformers; make libraries installs them",
        "slow": "take long; --slow runs them (make test ARGS=--slow)",
    }
    for mark, count in left_out.items():
        if count:
            terminalreporter.write_line(f"left out: {count} tests that {how[mark]}", yellow=True)


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> Iterator[None]:
    yield
    freeze_what_was_loaded()


@pytest.fixture(autouse=True)
def _fresh_settings() -> Iterator[None]:
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def once(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Once:
    tmp_path_factory.getbasetemp()  # which empties the folder at its first call
    return Once(sessions.shared_folder(pytestconfig), POSTGRES)


@pytest.fixture(scope="session")
def migrated(once: Once) -> str:
    """The name of a PostgreSQL database to copy: it has the schema, which takes ten times as long to make."""
    return once.made("migrated", lambda _: _migrated(Settings(database_url=once.database()))).rpartition("/")[2]


@pytest.fixture(scope="session")
def migrated_file(once: Once) -> Path:
    """The same of SQLite."""
    once.made("migrated-file", lambda folder: _migrated(Settings(data_dir=folder)))
    return once.folder / "migrated-file" / "lethe.db"


def _migrated(settings: Settings) -> str:
    found = Database(settings)
    migrate.migrate(found)
    found.close()
    return settings.database_url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of each kind, empty but for what `database` would make; empty text for SQLite, in the data folder."""
    if request.param == "sqlite":
        yield ""
        return
    template = request.getfixturevalue("migrated") if "database" in request.fixturenames else "template1"
    with scratch_database(POSTGRES, template) as url:
        yield url


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(data_dir=tmp_path / "data", database_url=database_url)


@pytest.fixture
def database(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A migrated database with the first tenant in it."""
    found = Database(settings)
    if found.is_sqlite:
        shutil.copy(request.getfixturevalue("migrated_file"), settings.data_dir)
    keys.bootstrap(found, settings)
    yield found
    found.close()


@pytest.fixture
def client(settings: Settings, database: Database) -> Iterator[TestClient]:
    """The API in this process, called with the first key; nothing runs its jobs."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as found:
        found.headers["Authorization"] = f"Bearer {settings.key_file.read_text().strip()}"
        yield found


@pytest.fixture
def account(settings: Settings, database: Database, client: TestClient) -> Iterator[Account]:
    """The same, with a worker at hand that is called job by job."""
    found = Account(settings, database, client)
    yield found
    found.close()


@pytest.fixture(scope="session")
def template(once: Once) -> Callable[[str], Template]:
    """The prepared account on a kind of database, made at its first use."""

    def get(kind: str) -> Template:
        def made(folder: Path) -> Template:
            return make(folder / "data", once.database() if kind == "postgres" else "")

        return Template(*once.made(kind, made))

    return get


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, template: Callable[[str], Template]) -> Iterator[Trained]:
    """A copy on SQLite for the tests of one module that change nothing, or nothing that the others look at."""
    folder = tmp_path_factory.mktemp("shared") / "data"  # first: pytest empties its folder when it is first asked for
    source = template("sqlite")
    shutil.copytree(source.folder, folder)
    with open_account(Settings(data_dir=folder)) as account:
        yield Trained(account, source.dataset, source.model, source.ids)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def trained(request: pytest.FixtureRequest, tmp_path: Path, template: Callable[[str], Template]) -> Iterator[Trained]:
    source = template(request.param)
    folder = tmp_path / "data"
    shutil.copytree(source.folder, folder)
    with ExitStack() as stack:
        template_name = source.url.rpartition("/")[2]
        url = stack.enter_context(scratch_database(POSTGRES, template_name)) if source.url else ""
        account = stack.enter_context(open_account(Settings(data_dir=folder, database_url=url)))
        yield Trained(account, source.dataset, source.model, source.ids)
