"""What several tests need: scratch databases, an account with a small trained model, service process trees."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from sqlalchemy import and_, select

from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.tables import Job
from lethe import Client
from tests import zygote
from tests.zygote import Forked

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

PATIENCE = 90.0
Document = dict[str, Any]

# Small enough for seconds on one core, large enough to train: 200 digits are asked for nothing but the machinery.
QUICK_RECIPE = {"name": "sgd", "params": {"epochs": 3, "batch_size": 64}}
QUICK_POLICY = {
    "method": {"name": "amun", "params": {"epochs": 2, "learning_rate": 0.05, "batch_size": 64}},
    "attack": {"name": "pgd_l2", "params": {"steps": 10}},
    "null_seconds": 0,  # a batch without a null gets five retrains where it is affordable, as it is here
    "utility_floor": 1.0,  # what so few epochs make swings: no candidate is passed over for it
}
QUICK_MODEL = {"architecture": {"name": "small_cnn", "params": {"width": 8}}, "recipe": QUICK_RECIPE}


def eventually(ready: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first truthy value of `ready()`, looked for until patience ends."""
    deadline = time.monotonic() + patience
    while not (found := ready()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:.0f} s for {what}")
        time.sleep(0.02)
    return found


@contextmanager
def scratch_database(url: str, template: str = "template1", encoding: str = "") -> Iterator[str]:
    """A new PostgreSQL database beside the one that `url` names, dropped at the end: empty, or a copy of another."""
    made = create_database(url, template, encoding)
    try:
        yield made
    finally:
        drop_database(url, made)


def create_database(url: str, template: str = "template1", encoding: str = "") -> str:
    name = f"lethe_test_{secrets.token_hex(6)}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    if encoding:
        create += sql.SQL(" ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C'").format(encoding)
    with psycopg.connect(url, autocommit=True) as admin:
        if admin.execute("SHOW fsync").fetchone() == ("off",):  # a third of the time, where it waits for no disk
            create += sql.SQL(" STRATEGY file_copy")
        admin.execute(create)
    return url.rpartition("/")[0] + f"/{name}"


def drop_database(url: str, made: str) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(made.rpartition("/")[2])))


@dataclass
class Account:
    """The API in this process and a worker that runs jobs when it is told to."""

    settings: Settings
    database: Database
    http: TestClient
    _resources: Any = field(default=None, repr=False)

    @property
    def resources(self) -> Any:
        from worker.runtime.run import Resources

        if self._resources is None:
            self._resources = Resources.open(self.settings)
        return self._resources

    def close(self) -> None:
        if self._resources is not None:
            self._resources.close()

    def work(self, owner: str = "tester") -> int:
        """Run jobs until there is none; how many ran."""
        from worker.run_one import run_one

        count = 0
        while True:
            with self.database.read() as session:
                asked = db.now(session)
            if run_one(self.resources, owner):
                count += 1
            elif not self._due_since(asked):
                return count

    def _due_since(self, asked: datetime) -> bool:
        """Whether a job becomes due between then and soon: one that began again because its ground had changed."""
        with self.database.read() as session:
            soon = and_(Job.available_at > asked, Job.available_at <= db.now(session) + timedelta(seconds=1))
            return session.scalars(select(Job.id).where(Job.state == "queued", soon)).first() is not None

    def post(self, path: str, body: Document | None = None, status: int | None = None, **headers: str) -> Document:
        response = self.http.post(path, json=body or {}, headers=headers)
        expected = (status,) if status else (200, 201, 202)
        assert response.status_code in expected, response.text
        return response.json()

    def get(self, path: str, status: int = 200, **params: Any) -> Document:
        response = self.http.get(path, params=params)
        assert response.status_code == status, response.text
        return response.json()

    def digits(self) -> Document:
        """The digits, taken in."""
        made = self.post("/v1/datasets", {"name": "digits", "source": {"name": "digits"}})
        self.work()
        return self.get(f"/v1/datasets/{made['id']}")

    def model(self, dataset: str, *, train: bool = True, policy: Document | None = None) -> Document:
        """A small model on the dataset, with version 1 trained for a few epochs."""
        body = {"name": "m", "dataset": dataset, **QUICK_MODEL, "policy": QUICK_POLICY | (policy or {})}
        made = self.post("/v1/models", body)
        if train:
            self.post(f"/v1/models/{made['id']}:train", {"seed": 1})
            self.work()
        return self.get(f"/v1/models/{made['id']}")

    def training_ids(self, dataset: str) -> list[str]:
        page = self.get(f"/v1/datasets/{dataset}/samples", split="train", page_size=1000)
        return [item["id"] for item in page["items"]]

    def delete(self, dataset: str, ids: list[str], status: int = 202, **fields: Any) -> Document:
        return self.post("/v1/deletion-requests", {"dataset": dataset, "sample_ids": ids, **fields}, status)


# -- services as processes -------------------------------------------------------------------------


def environment(folder: Path, **settings: str) -> dict[str, str]:
    settings = {"devices": "cpu"} | settings  # one worker
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LETHE_")}
    return clean | {"LETHE_DATA_DIR": str(folder)} | {f"LETHE_{k.upper()}": v for k, v in settings.items()}


Process = subprocess.Popen[bytes] | Forked


def start(*arguments: str, log: Path, env: dict[str, str], afresh: bool = False) -> Process:
    """`python -m app …` in a process group of its own, its output appended to `log`.

    afresh: not forked, for what needs its own packages, or a tree of processes as it is.
    """
    with log.open("ab") as file:
        if not afresh:
            return zygote.start(arguments, env, file.fileno())
        return subprocess.Popen(
            [sys.executable, "-m", "app", *arguments], env=env, stdout=file, stderr=file, process_group=0
        )


def stop(process: Process, patience: float = 20.0) -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def embedded(folder: Path, *, afresh: bool = False, **settings: str) -> Iterator[Client]:
    """`lethe serve` on a free port."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = folder.parent / f"{folder.name}.log"
    process = start("serve", log=log, env=environment(folder, port="0", **settings), afresh=afresh)
    url = folder / "url"
    try:
        eventually(lambda: url.exists() or process.poll() is not None, "the service to start")
        assert process.poll() is None, log.read_text()
        with Client(url.read_text().strip(), (folder / "api-key").read_text().strip()) as client:
            yield client
    except BaseException:
        print(log.read_text()[-6000:])
        raise
    finally:
        stop(process)


@contextmanager
def production(folder: Path, database_url: str, redis_url: str, workers: int = 1, **settings: str) -> Iterator[Client]:
    """The commands of docker-compose.yml: migrate once, then api, worker and sweep as separate processes."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    port = free_port()
    values = {"database_url": database_url, "broker_url": redis_url, "port": str(port)} | settings
    env = environment(folder, **values)
    log = folder.parent / f"{folder.name}.log"
    assert start("migrate", log=log, env=env).wait(60) == 0
    parts = [start(name, log=log, env=env) for name in ("api", "sweep", *["worker"] * workers)]
    try:
        with Client(f"http://127.0.0.1:{port}", (folder / "api-key").read_text().strip()) as client:
            eventually(lambda: answers(client), "the API to answer")
            yield client
    except BaseException:
        print(log.read_text()[-6000:])
        raise
    finally:
        for part in reversed(parts):
            part.terminate()
        for part in reversed(parts):
            stop(part)


def answers(client: Client) -> bool:
    try:
        return bool(client.get("/readyz"))
    except Exception:
        return False


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
