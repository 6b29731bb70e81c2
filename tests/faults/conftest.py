"""One small service, prepared once a session and copied for each test that breaks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import POSTGRES
from tests.faults.harness import Case, Prepared, case_of, prepare
from tests.support import scratch_database


@pytest.fixture(scope="session")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("prepared") / "data", "")


@pytest.fixture(scope="session")
def on_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    with scratch_database(POSTGRES) as url:
        yield prepare(tmp_path_factory.mktemp("prepared") / "data", url)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def prepared(request: pytest.FixtureRequest) -> Prepared:
    found: Prepared = request.getfixturevalue(f"on_{request.param}")
    return found


@pytest.fixture
def case(prepared: Prepared, tmp_path: Path) -> Iterator[Case]:
    with case_of(prepared, tmp_path / "data") as found:
        yield found
