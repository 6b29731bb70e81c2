"""Which worker takes which job, in words, as queues and as settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from pydantic import ValidationError
from sqlalchemy import select, update

from app import catalog, jobs
from app.core import db, keys
from app.core.config import Settings
from app.core.tables import Job, Worker
from app.jobs import devices, routing
from app.jobs.routing import Takes
from app.rules.states import JobKind
from tests.trained import Trained


def test_a_worker_listens_to_its_kinds_on_any_device_and_on_its_own() -> None:
    takes = Takes(frozenset({JobKind.TRAIN, JobKind.UNLEARN}), "h200")
    assert takes.queues() == ["lethe.train", "lethe.train.h200", "lethe.unlearn", "lethe.unlearn.h200"]


def test_a_worker_without_kinds_listens_to_all() -> None:
    queues = Takes(frozenset(), "cpu").queues()
    assert len(queues) == len(set(queues)) == 2 * len(JobKind)
    assert {routing.queue(kind, device) for kind in JobKind for device in (None, "cpu")} == set(queues)


def test_what_is_missing_is_said_in_words() -> None:
    assert "train jobs on device h200" in routing.wanted("train", "h200")
    assert "device" not in routing.wanted("train", None)


def test_the_environment_lists_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_KINDS", "train, unlearn")
    monkeypatch.setenv("LETHE_DEVICES", "cuda:0,cuda:1")
    monkeypatch.setenv("LETHE_DEVICE_LABEL", "h200")
    settings = Settings()
    assert settings.kinds == [JobKind.TRAIN, JobKind.UNLEARN]
    assert devices.listed(settings) == ["cuda:0", "cuda:1"]
    assert routing.own(settings) == Takes(frozenset({JobKind.TRAIN, JobKind.UNLEARN}), "h200", catalog.offers())


@pytest.mark.parametrize(("name", "value"), [("LETHE_KINDS", "train,sing"), ("LETHE_DEVICE_LABEL", "A B")])
def test_what_is_not_a_kind_or_a_label_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()


# -- devices ---------------------------------------------------------------------------------------


def of(monkeypatch: pytest.MonkeyPatch, *found: str, **settings: object) -> list[str]:
    monkeypatch.setattr(devices, "found", lambda: found)
    return devices.listed(Settings(**settings))


def test_a_worker_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cores", lambda: 3)
    assert of(monkeypatch) == ["cpu"] * 3, "a worker has one thread"
    assert of(monkeypatch, devices=[]) == ["cpu"] * 3, "as an empty variable says"
    assert of(monkeypatch, device="cpu") == ["cpu"]
    monkeypatch.setattr(devices, "cores", lambda: 64)
    assert of(monkeypatch) == ["cpu"] * 8
    assert of(monkeypatch, "cuda:0", "cuda:1") == ["cuda:0", "cuda:1"]
    assert of(monkeypatch, "cuda:0", devices=["cpu", "cpu"]) == ["cpu", "cpu"]
    assert of(monkeypatch, "cuda:0", "cuda:1", device="cuda") == ["cuda:0"], "the one that it was told"


def test_cores_are_those_that_this_process_is_bound_to() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from app.jobs import devices; "
    asked = subprocess.run([sys.executable, "-c", code + "print(devices.cores())"], capture_output=True, check=True)
    assert asked.stdout == b"1\n"


def test_the_label_is_the_kind_of_device_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "found", tuple)
    assert routing.own(Settings()).label == "cpu"
    assert routing.own(Settings(device="cuda:3")).label == "cuda"
    assert routing.own(Settings(device="cuda:3", device_label="h200")).label == "h200"


def test_without_a_driver_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "DRIVERS", ("/nowhere/at/all",))
    monkeypatch.setattr(devices.subprocess, "run", lambda *_, **__: pytest.fail("torch was asked"))
    assert devices.found.__wrapped__() == ()


def test_what_torch_sees_is_asked_in_another_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "DRIVERS", (str(tmp_path),))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.found.__wrapped__() == ()


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def test_a_device_has_one_worker_at_a_time(locks: Path) -> None:
    with devices.held("cuda:7"):
        with pytest.raises(devices.DeviceInUseError, match="cuda:7"), devices.held("cuda:7"):
            pass
        with devices.held("cuda:6"):
            pass
    with devices.held("cuda:7"):
        pass


def test_the_cpu_is_shared(locks: Path) -> None:
    with devices.held("cpu"), devices.held("cpu"):
        assert list(locks.iterdir()) == []


def test_renamed_devices_are_the_same_device(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with devices.held("cuda:1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        with pytest.raises(devices.DeviceInUseError), devices.held("cuda:0"):
            pass
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
        with devices.held("cuda:0"):
            pass


def test_what_fails_under_a_lock_is_not_taken_for_the_lock(locks: Path) -> None:
    with pytest.raises(BlockingIOError), devices.held("cuda:7"):
        raise BlockingIOError


# -- a kind of job of a newer version --------------------------------------------------------------


def test_a_kind_of_a_newer_version_stays_in_the_queue_and_readiness_names_it(trained: Trained) -> None:
    account, database = trained.account, trained.account.database
    with database.write() as session:
        newer = jobs.enqueue(session, tenant_id=keys.FIRST_TENANT, kind=cast(JobKind, "distil"), lane="model:newer").id
        session.add(Worker(name="w", device="cpu", label="cpu", kinds=["distil", "train"], seen_at=db.now(session)))
    known = account.post(f"{trained.where}:precompute", {})["id"]
    assert account.work() == 1
    with database.read() as session:
        states = {job.id: job.state for job in session.scalars(select(Job).where(Job.id.in_([newer, known])))}
        assert states == {newer: "queued", known: "succeeded"}
        assert routing.unserved(session) == [], "a worker of the newer version takes it"
    with database.write() as session:
        session.execute(update(Worker).values(kinds=[]))
        assert routing.unserved(session) == [("distil", None, 1)]
    shown = account.get(f"/v1/jobs/{newer}")
    assert (shown["kind"], shown["waiting_for"]) == ("distil", "a worker that takes distil jobs: none is alive")
    assert newer in {job["id"] for job in account.get("/v1/jobs")["items"]}
    assert account.get("/readyz")["status"] == "degraded"
