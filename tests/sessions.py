"""The folder of one run of the tests, and what its processes make once for all of them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import create_database, drop_database

MEMORY = Path("/dev/shm")
ROOM = 4 * 2**30  # bytes that must be free there: a run takes a quarter of it at most
PREFIX = "lethe-tests-"


def open_folder(config: pytest.Config, server: str) -> None:
    """Choose a base folder for temporary files unless one was named, and remove at the end what was made."""
    if not config.option.basetemp:
        place = MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM else Path(tempfile.gettempdir())
        for left in MEMORY.glob(f"{PREFIX}*"):  # by a run that was killed
            if not Path(f"/proc/{left.name.removeprefix(PREFIX)}").exists():
                shutil.rmtree(left, ignore_errors=True)
        run = place / f"{PREFIX}{os.getpid()}"
        run.mkdir()
        config.option.basetemp = run / "base"
        config.add_cleanup(lambda: shutil.rmtree(run, ignore_errors=True))
    config.add_cleanup(lambda: drop_databases(shared_folder(config), server))


def shared_folder(config: pytest.Config) -> Path:
    """What all processes of a run see. Those of `pytest -n` have their base folder in that of the first."""
    base = Path(config.option.basetemp)
    return (base.parent if hasattr(config, "workerinput") else base) / "shared"


def drop_databases(folder: Path, server: str) -> None:
    made = folder / "databases"
    for url in made.read_text().split() if made.exists() else ():
        drop_database(server, url)


@dataclass
class Once:
    """Makes a thing in the first process that asks; the others wait and read what it said."""

    folder: Path
    server: str

    def made(self, name: str, make: Callable[[Path], Any]) -> Any:
        """What `make` said of the folder that it filled, as JSON has it."""
        said = self.folder / f"{name}.json"
        with self._lock(name):
            if not said.exists():
                shutil.rmtree(self.folder / name, ignore_errors=True)  # of a process that failed at it
                (self.folder / name).mkdir()
                text = json.dumps(make(self.folder / name))
                said.write_text(text)
        return json.loads(said.read_text())

    def database(self, template: str = "template1") -> str:
        """A new PostgreSQL database that lasts until the end of the run."""
        url = create_database(self.server, template)
        with self._lock("databases"), (self.folder / "databases").open("a") as file:
            file.write(f"{url}\n")
        return url

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
