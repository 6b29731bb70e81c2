"""`lethe serve` and whatever can be done to its processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text

from app.core.config import Settings, get_settings
from app.core.db import Database
from app.operations import supervisor
from lethe import Client
from tests import zygote
from tests.faults.harness import Prepared, account_of, alive, children, parent_of, say, state_of, train_long
from tests.support import Process, answers, environment, eventually, start, stop
from tests.zygote import Forked

ENDLESS = 2000  # of a training that is not to end by itself


@dataclass
class Service:
    """A running tree on a copy of the prepared folder."""

    folder: Path
    process: Process
    client: Client
    seen: set[int]

    @property
    def log(self) -> str:
        return (self.folder.parent / f"{self.folder.name}.log").read_text()

    def child(self, name: str) -> int:
        found = int(eventually(lambda: tree_of(self.process).get(name), f"the {name} to run"))
        self.seen.add(found)
        return found

    def job(self, job: str) -> dict[str, Any]:
        return self.client.get(f"/v1/jobs/{job}")


def tree_of(supervisor: Process) -> dict[str, int]:
    """What runs below it, by part. If it was forked, its parts were, too: they have its own parent.

    Raises OSError: it has ended.
    """
    parent = parent_of(supervisor.pid) if isinstance(supervisor, Forked) else supervisor.pid
    named = {part_of(pid, line): pid for pid, line in children(parent).items() if pid != supervisor.pid}
    return {name: pid for name, pid in named.items() if name}


def part_of(pid: int, line: str) -> str:
    """The part that a process runs, as its name or its command line has it; empty if it is none."""
    with suppress(OSError):
        line += f" {(Path('/proc') / str(pid) / 'comm').read_text().strip()}"
    found = re.search("(?:-m app|-m|lethe) (api|sweep|worker)", line)
    return found[1] if found else ""


@contextmanager
def serving(folder: Path, *, afresh: bool = False, **settings: str) -> Iterator[Service]:
    seen: set[int] = set()
    log = folder.parent / f"{folder.name}.log"
    url = folder / "url"
    url.unlink(missing_ok=True)  # of a service that was killed
    env = environment(folder, port="0", resume_seconds="0", **settings)
    process = start("serve", afresh=afresh, log=log, env=env)
    try:
        eventually(lambda: url.exists() or process.poll() is not None, "the service to start")
        assert process.poll() is None, log.read_text()
        with client_of(folder) as client:
            eventually(lambda: answers(client), "the API to answer")
            yield Service(folder, process, client, seen)
    except BaseException:
        print(log.read_text()[-6000:])
        raise
    finally:
        with suppress(OSError):  # it was killed
            seen |= set(tree_of(process).values())
        stop(process)
        for pid in filter(alive, seen):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def folder(on_sqlite: Prepared, tmp_path: Path) -> Path:
    return Path(shutil.copytree(on_sqlite.folder, tmp_path / "data"))


# -- children --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_parts_that_are_killed_come_back_and_a_stop_hands_the_job_back(folder: Path, on_sqlite: Prepared) -> None:
    """The lease is of ten minutes: only that it was handed back can have ended it."""
    with serving(folder, afresh=True, lease_seconds="600") as service:
        where = (folder / "url").read_text()
        assert "another" in refused(folder)
        assert (folder / "url").read_text() == where
        assert service.client.get("/readyz")["database"] == "ok"

        os.kill(service.child("api"), signal.SIGKILL)
        began = time.monotonic()
        assert service.client.get("/readyz")["database"] == "ok"
        say(f"API killed → answered after {time.monotonic() - began:.2f} s")
        assert (folder / "url").read_text() == where
        assert service.client.requests.wait(on_sqlite.request, poll_seconds=0.05)["status"] == "fulfilled"

        made = service.client.post("/v1/datasets", {"name": "d", "source": {"name": "digits"}})
        posted = time.monotonic()
        eventually(lambda: service.job(made["job"])["state"] != "queued", "the job to start")
        say(f"POST → worker start {time.monotonic() - posted:.3f} s")

        job = train_long(service.client, on_sqlite, ENDLESS)
        assert service.job(job)["attempts"] == 1
        killed = service.child("worker")
        os.kill(killed, signal.SIGKILL)
        began = time.monotonic()
        eventually(lambda: service.job(job)["attempts"] == 2, "another worker to take the job")
        say(f"worker killed → job taken up again after {time.monotonic() - began:.2f} s")
        assert service.child("worker") != killed

        tree = tree_of(service.process).values()
        began = time.monotonic()
        service.process.terminate()
        assert service.process.wait(60) == 0
        say(f"SIGTERM → ended after {time.monotonic() - began:.2f} s")
        assert not any(map(alive, tree))
        assert not (folder / "url").exists()
    assert standing(folder, job) == ("queued", 1, None)  # the killed attempt counts, the stopped one does not
    assert "Traceback" not in service.log


def test_whatever_of_the_tree_is_killed_nothing_outlives_it_and_no_job_waits_for_its_lease(
    folder: Path, on_sqlite: Prepared
) -> None:
    """First all of it, as after a power cut: nobody was left to hand the lease of ten minutes back, so the next start
    does. Then the supervisor alone.
    """
    with serving(folder, lease_seconds="600") as service:
        job = train_long(service.client, on_sqlite, ENDLESS)
        for pid in [service.process.pid, *tree_of(service.process).values()]:
            os.kill(pid, signal.SIGKILL)
        service.process.wait(60)
    began = time.monotonic()
    with serving(folder, lease_seconds="600") as service:
        eventually(lambda: service.job(job)["attempts"] == 2, "the job to be taken up")
        say(f"whole tree killed → job taken up {time.monotonic() - began:.2f} s after the next start")
        tree = {name: service.child(name) for name in ("api", "sweep", "worker")}
        os.kill(service.process.pid, signal.SIGKILL)
        began = time.monotonic()
        service.process.wait(60)
        eventually(lambda: not any(map(alive, tree.values())), f"{tree} to end")
        say(f"supervisor killed → all children gone after {time.monotonic() - began:.2f} s")
    assert standing(folder, job) == ("queued", 1, None)


@pytest.mark.slow
def test_a_worker_that_does_not_stop_in_time_is_killed_and_its_attempt_not_counted(
    folder: Path, on_sqlite: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.5)
    with supervised(folder, monkeypatch, crash_at="stop:unlearn.finetune.begin") as tree:
        worker = eventually(lambda: tree.get("worker"), "the worker to run")
        eventually(lambda: state_of(worker.pid) == "T", "the worker to stand still")
    assert not alive(worker.pid)
    assert standing(folder, on_sqlite.job) == ("queued", 0, None)


@contextmanager
def supervised(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: str) -> Iterator[dict[str, Forked]]:
    """The supervisor in a thread of this process, so that its waits can be shortened, and the last child of each part
    that it started; they are processes.
    """
    tree: dict[str, Forked] = {}

    def started(command: list[str], **how: Any) -> Forked:
        tree[command[3]] = zygote.child(command, **how)
        return tree[command[3]]

    forking = SimpleNamespace(Popen=started, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(supervisor, "subprocess", forking)
    for name, value in environment(folder, port="0", resume_seconds="0", **settings).items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    over = threading.Event()
    thread = threading.Thread(target=supervisor.serve, args=(Settings(), over))
    (folder / "url").unlink(missing_ok=True)
    thread.start()
    try:
        eventually((folder / "url").exists, "the service to start")
        yield tree
    finally:
        over.set()
        thread.join()


def standing(folder: Path, job: str) -> tuple[str, int, str | None]:
    database = Database(Settings(data_dir=folder))
    with database.read() as session:
        query = text("SELECT state, attempts, owner FROM jobs WHERE id = :id")
        state, attempts, owner = session.execute(query, {"id": job}).one()
    return state, attempts, owner


# -- poison ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_job_that_kills_its_worker_is_buried_and_can_be_revived(
    folder: Path, on_sqlite: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "RESTART_SECONDS", (0.0,))
    crashing = supervised(folder, monkeypatch, crash_at="unlearn.finetune.begin")
    with crashing as tree, client_of(folder) as client:
        made = client.post("/v1/datasets", {"name": "d", "source": {"name": "digits"}})
        request = client.requests.wait(on_sqlite.request, poll_seconds=0.05)
        assert request["status"] == "needs-attention"
        (outcome,) = request["outcomes"]
        assert (outcome["state"], outcome["version"]) == ("attention", None)
        assert "3 attempts" in outcome["reason"]
        job = client.get(f"/v1/jobs/{on_sqlite.job}")
        assert (job["state"], job["attempts"]) == ("dead", 3)
        assert "its worker died" in job["problem"]["detail"]
        assert client.jobs.wait(made["job"])["state"] == "succeeded"
        assert {name: part.poll() for name, part in tree.items()} == {"api": None, "sweep": None, "worker": None}
    monkeypatch.delenv("LETHE_CRASH_AT")
    get_settings.cache_clear()
    with account_of(Settings(data_dir=folder)) as account:
        account.post(f"/v1/jobs/{on_sqlite.job}:retry")
        account.work()
        request = account.get(f"/v1/deletion-requests/{on_sqlite.request}")
        assert (request["status"], request["outcomes"][0]["version"]) == ("fulfilled", 2)
        assert account.get(f"/v1/jobs/{on_sqlite.job}")["attempts"] == 1


def client_of(folder: Path) -> Client:
    return Client((folder / "url").read_text().strip(), (folder / "api-key").read_text().strip())


# -- starts that are refused -----------------------------------------------------------------------


def refused(folder: Path, **settings: str) -> str:
    """The one line that `lethe serve` says before it ends with code 1."""
    log = folder.parent / "refused.log"
    process = start("serve", log=log, env=environment(folder, **{"port": "0", **settings}))
    try:
        assert process.wait(60) == 1
    finally:
        stop(process)
    said = log.read_text()
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("lethe: ")]
    assert len(lines) == 1, said
    return lines[0]


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = refused(tmp_path / "data", port=str(taken.getsockname()[1]))
    assert "cannot listen" in said
    assert {path.name for path in (tmp_path / "data").iterdir()} <= {"serve.lock"}


@pytest.mark.parametrize("place", ["data", "data/below"])
def test_a_data_folder_that_cannot_be_made(place: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file\n")
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "refused.log"
    process = start("serve", log=log, env=environment(tmp_path / place, port="0"))
    assert process.wait(60) == 1
    said = " ".join(log.read_text().split())
    assert "cannot be written" in said
    assert "LETHE_DATA_DIR" in said
    assert "Traceback" not in said
    assert (tmp_path / "data").read_text() == "a file\n"


def test_a_database_of_a_newer_schema(folder: Path) -> None:
    database = Database(Settings(data_dir=folder))
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert "newer" in refused(folder)
    assert not (folder / "url").exists()
    with database.read() as session:
        assert session.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"
