"""Several workers on one machine, however they hear of jobs: nothing runs twice, nothing is lost when one dies."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import select

from app.core.config import Settings
from app.core.db import Database
from app.core.tables import Job
from app.rules.states import TERMINAL_JOBS
from tests.conftest import REDIS
from tests.faults.harness import Prepared, account_of, case_of, children, say
from tests.support import QUICK_POLICY, environment, eventually, start, stop

WORKERS = 3
REFERENCES = 6
PATIENCE = 150.0


@dataclass
class Watch:
    """What the database showed while jobs ran: who ran which, how many at once, lanes that were taken twice."""

    database: Database
    ran: dict[str, set[str]] = field(default_factory=dict)
    at_once: int = 0
    twice: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        while not self._over.wait(0.02):
            with self.database.read() as session:
                rows = session.execute(select(Job.id, Job.lane, Job.owner).where(Job.state == "running")).all()
            lanes = [lane for _, lane, _ in rows]
            self.twice += {lane for lane in lanes if lanes.count(lane) > 1}
            self.at_once = max(self.at_once, len({owner for _, _, owner in rows}))
            for job, _, owner in rows:
                self.ran.setdefault(job, set()).add(owner)

    @contextmanager
    def looking(self) -> Iterator[Watch]:
        thread = threading.Thread(target=self.look)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()


def ended(database: Database) -> bool:
    with database.read() as session:
        return all(state in TERMINAL_JOBS for state in session.scalars(select(Job.state)))


def jobs_of(database: Database) -> list[Job]:
    with database.read() as session:
        return list(session.scalars(select(Job).order_by(Job.id)))


def order(account: Any, origin: Prepared, device: str | None = None) -> str:
    """Train another model; its job."""
    body = {
        "name": "another",
        "dataset": origin.dataset,
        "architecture": {"name": "small_cnn", "params": {"width": 8}},
        "recipe": {"name": "sgd", "params": {"epochs": 6, "batch_size": 64}},
        "policy": QUICK_POLICY,
        "device": device,
    }
    model = account.post("/v1/models", body)["id"]
    return str(account.post(f"/v1/models/{model}:train", {"seed": 1})["id"])


def orders(account: Any, origin: Prepared, *devices: str | None) -> tuple[str, list[str]]:
    """A pool of references, and a training for each of the devices; None: for any."""
    pool = account.post(f"/v1/models/{origin.model}:references", {"count": REFERENCES, "seed": 5})["id"]
    return str(pool), [order(account, origin, device) for device in devices]


def check(database: Database, watch: Watch, pool: str, sharing: int) -> None:
    rows = jobs_of(database)
    assert {row.state for row in rows} == {"succeeded"}, [(row.kind, row.state, row.problem) for row in rows]
    parts = [row for row in rows if row.parent_id == pool]
    assert len(parts) == REFERENCES
    shared = {owner for part in parts for owner in watch.ran.get(part.id, set())}
    say(f"{REFERENCES} references over {len(shared)} workers; at most {watch.at_once} workers busy at once")
    assert len(shared) >= sharing
    assert watch.at_once >= 3
    assert watch.twice == []


# -- embedded --------------------------------------------------------------------------------------


@pytest.fixture
def folder(on_sqlite: Prepared, tmp_path: Path) -> Path:
    return Path(shutil.copytree(on_sqlite.folder, tmp_path / "data"))


@contextmanager
def serving(folder: Path) -> Iterator[Any]:
    """`lethe serve --workers 4`; the process."""
    log = folder.parent / "serve.log"
    process = start("serve", "--workers", str(WORKERS), log=log, env=environment(folder, port="0", resume_seconds="0"))
    try:
        yield process
    except BaseException:
        print(log.read_text()[-6000:])
        raise
    finally:
        stop(process)


@pytest.mark.slow
def test_embedded_workers(folder: Path, on_sqlite: Prepared) -> None:
    settings = Settings(data_dir=folder)
    with serving(folder), account_of(settings) as account:
        watch = Watch(account.database)
        eventually(lambda: account.get("/readyz")["workers"] == WORKERS, "all to say that they live")
        with watch.looking():
            pool, _ = orders(account, on_sqlite, None, None)
            eventually(lambda: ended(account.database), "all jobs to end", PATIENCE)
        check(account.database, watch, pool, 2)
        assert all(row.attempts == 1 for row in jobs_of(account.database))


# -- production ------------------------------------------------------------------------------------


@contextmanager
def crew(prepared: Prepared, folder: Path, *workers: dict[str, str]) -> Iterator[tuple[Any, list[Any], Any]]:
    """A sweeper and Celery workers on a copy of the service: its API, the worker processes, its case."""
    with redis.Redis.from_url(REDIS) as broker:
        broker.flushdb()
    with ExitStack() as stack:
        case = stack.enter_context(case_of(prepared, folder))
        log = folder.parent / "parts.log"
        common = {"database_url": case.settings.database_url, "broker_url": REDIS, "resume_seconds": "0"}
        common |= {"rehint_seconds": "1", "lease_seconds": "4"}
        started = []
        for part, own in [("sweep", {}), *(("worker", each) for each in workers)]:
            process = start(part, log=log, env=environment(case.settings.data_dir, **common | own))
            stack.callback(stop, process)
            stack.callback(lambda pid=process.pid: [os.kill(child, signal.SIGKILL) for child in children(pid)])
            started.append(process)
        account = stack.enter_context(account_of(case.settings.model_copy(update={"broker_url": REDIS})))
        eventually(lambda: account.get("/readyz")["workers"] == len(workers), "the workers to start")
        try:
            yield account, started[1:], case
        except BaseException:
            print(log.read_text()[-6000:])
            raise


@pytest.mark.slow
@pytest.mark.services
def test_celery_workers_of_two_devices_of_which_one_is_killed(on_postgres: Prepared, tmp_path: Path) -> None:
    """Two on one device, one on another: routing only, all are this machine's CPU."""
    labels = {"w1": "a", "w2": "a", "w3": "b"}
    each = [{"device": "cpu", "worker_name": name, "device_label": label} for name, label in labels.items()]
    with crew(on_postgres, tmp_path / "data", *each) as (account, processes, case):
        watch = Watch(case.database)
        with watch.looking():
            pool, trainings = orders(account, on_postgres, "b", "b", "a", "a", None)
            eventually(lambda: watch.at_once >= 3, "them to be busy")
            victim = processes[0]
            for pid in [victim.pid, *children(victim.pid)]:
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: ended(case.database), "all jobs to end", PATIENCE)
        check(case.database, watch, pool, 1)  # of the two that are left, one may be busy with trainings all along
        ran = [{labels[owner] for owner in watch.ran[job]} for job in trainings]
        assert ran[:4] == [{"b"}, {"b"}, {"a"}, {"a"}]
