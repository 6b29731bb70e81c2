"""PostgreSQL and Celery on Redis: what happens to a job when a part of them dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from app import jobs
from app.core.keys import FIRST_TENANT
from app.core.tables import Outbox
from app.rules.states import JobKind
from tests.conftest import REDIS
from tests.faults.harness import Case, Prepared, account_of, alive, case_of, children, say, train_long
from tests.support import Process, environment, eventually, start, stop

pytestmark = pytest.mark.services

ENDLESS = 2000  # epochs of a training that is not to end by itself


@dataclass
class Parts:
    """A sweeper and Celery workers on a copy of the prepared service, started one by one."""

    case: Case
    started: list[Process] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.case.settings.data_dir.parent / "parts.log"

    def start(self, name: str, *, afresh: bool = False, **settings: str) -> Process:
        values = {
            "database_url": self.case.settings.database_url,
            "broker_url": REDIS,
            "resume_seconds": "0",
            "rehint_seconds": "1",
        }
        process = start(
            name, afresh=afresh, log=self.log, env=environment(self.case.settings.data_dir, **values | settings)
        )
        self.started.append(process)
        return process

    def fulfilled(self) -> bool:
        return bool(self.case.account()["request"] == ("accepted", True, "purged", 2))


@pytest.fixture
def parts(on_postgres: Prepared, tmp_path: Path) -> Iterator[Parts]:
    with redis.Redis.from_url(REDIS) as broker:
        broker.flushdb()
    with case_of(on_postgres, tmp_path / "data") as case:
        found = Parts(case)
        try:
            yield found
        except BaseException:
            print(found.log.read_text()[-6000:])
            raise
        finally:
            with ExitStack() as stack:
                for process in found.started:
                    for pid in filter(alive, children(process.pid)):
                        stack.callback(kill, pid)
                    stack.callback(stop, process)


def kill(pid: int) -> None:
    if alive(pid):
        os.kill(pid, signal.SIGKILL)


def pool_child(worker: Process) -> int:
    """The process that runs a worker's jobs."""

    def find() -> int | None:
        return next((pid for pid, line in children(worker.pid).items() if "spawn_main" in line), None)

    return int(eventually(find, "the pool child to run"))


@pytest.fixture
def client(parts: Parts) -> Iterator[Any]:
    """The API of the same service, in this process, sending hints to the same broker."""
    settings = parts.case.settings.model_copy(update={"broker_url": REDIS})
    with account_of(settings) as account:
        yield account


@pytest.mark.slow
def test_a_killed_pool_child_hands_its_lease_back_at_once_and_a_stopped_worker_its_job(
    parts: Parts, client: Any
) -> None:
    """The lease is of ten minutes: only the failure of the task can have ended it. The worker is a program of its own,
    whose pool child is spawned, as in production.
    """
    parts.start("sweep", lease_seconds="600")
    worker = parts.start("worker", afresh=True, lease_seconds="600")
    eventually(parts.fulfilled, "the prepared deletion")
    job = train_long(client, parts.case.origin, ENDLESS)
    began = time.monotonic()
    os.kill(pool_child(worker), signal.SIGKILL)
    eventually(lambda: parts.case.job(job).attempts == 2, "the job to be taken up again")
    say(f"pool child killed → job taken up again after {time.monotonic() - began:.2f} s")
    assert worker.poll() is None

    child = pool_child(worker)
    worker.terminate()
    worker.wait(60)
    row = parts.case.job(job)
    assert (row.state, row.attempts, row.owner) == ("queued", 1, None)  # the killed attempt counts, this one does not
    eventually(lambda: not alive(child), "the pool child to end")


def test_another_worker_finishes_what_a_killed_one_had(parts: Parts) -> None:
    parts.start("sweep", lease_seconds="2")  # it looks twice a second
    first = parts.start("worker", lease_seconds="5", crash_at="stop:unlearn.finetune.begin")
    eventually(lambda: parts.case.job().stage == "finetune", "the first worker to reach its point")
    tree = [first.pid, *children(first.pid)]
    for pid in tree:
        kill(pid)
    began = time.monotonic()
    parts.start("worker", lease_seconds="600")
    eventually(parts.fulfilled, "the other worker to finish")
    say(f"worker group killed (lease 5 s) → request fulfilled after {time.monotonic() - began:.2f} s")
    assert (parts.case.job().attempts, parts.case.job().fence) == (2, 2)
    assert len(parts.case.account()["versions"]) == 2
    assert parts.case.strays() == []


@pytest.mark.slow
def test_a_flushed_broker_loses_no_job(parts: Parts) -> None:
    """Every hint is dropped before a worker has read any: the sweeper rings again."""
    case = parts.case
    with case.database.write() as session:
        waiting = [
            jobs.enqueue(
                session,
                tenant_id=FIRST_TENANT,
                kind=JobKind.REFERENCES,
                lane=f"references:{n}",
                model_id=case.origin.model,
                dataset_id=case.origin.dataset,
                params={"count": 4},
            ).id
            for n in range(3)
        ]
    parts.start("sweep")
    with redis.Redis.from_url(REDIS) as broker:
        eventually(lambda: broker.llen("lethe.references"), "the hints to be sent")
        eventually(lambda: not case.rows(Outbox), "the outbox to be empty")
        broker.flushdb()
    parts.start("worker")
    eventually(parts.fulfilled, "the deletion")
    eventually(lambda: all(case.job(job).state == "succeeded" for job in waiting), "the other jobs")
