"""One small service, prepared once a session and copied for each test that breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Case, Prepared, case_of, prepare
from tests.sessions import Once
from tests.trained import Template


@pytest.fixture(scope="session")
def on_sqlite(once: Once, template: Callable[[str], Template]) -> Prepared:
    return Prepared(*once.made("prepared-sqlite", lambda folder: prepare(template("sqlite"), folder / "data", "")))


@pytest.fixture(scope="session")
def on_postgres(once: Once, template: Callable[[str], Template]) -> Prepared:
    def made(folder: Path) -> Prepared:
        source = template("postgres")
        return prepare(source, folder / "data", once.database(source.url.rpartition("/")[2]))

    return Prepared(*once.made("prepared-postgres", made))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def prepared(request: pytest.FixtureRequest) -> Prepared:
    found: Prepared = request.getfixturevalue(f"on_{request.param}")
    return found


@pytest.fixture
def case(prepared: Prepared, tmp_path: Path) -> Iterator[Case]:
    with case_of(prepared, tmp_path / "data") as found:
        yield found
