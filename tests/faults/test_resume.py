"""A job that is taken up again ends as if it had never been interrupted; what arrives meanwhile is respected."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from app import jobs
from app.blobs.folder import Folder
from app.core import crash_points
from app.core.config import Settings
from app.core.db import Database
from app.core.positions import mask_of, unpack
from app.core.tables import DeletionRequest, Job, JobArtifact, Version
from app.releases.publishing import MOST_THROWN_AWAY
from tests.faults.harness import Case, Prepared, account_of, case_of
from tests.faults.test_leases import enqueue
from tests.support import Account, eventually

TRAIN = "train.resume.kept"


@pytest.fixture
def account(case: Case) -> Iterator[Account]:
    with account_of(case.settings) as found:
        found.work()
        yield found


def second_model(account: Account, case: Case, epochs: int = 3) -> str:
    shown = account.get(f"/v1/models/{case.origin.model}")
    recipe = {"name": "sgd", "params": {"epochs": epochs, "batch_size": 64}}
    body = {key: shown[key] for key in ("architecture", "policy")} | {"recipe": recipe}
    made = account.post("/v1/models", {"name": "second", "dataset": case.origin.dataset, **body})
    return str(made["id"])


def train(account: Account, model: str) -> str:
    return str(account.post(f"/v1/models/{model}:train", {"seed": 5, "promote": True})["id"])


def digest_of(case: Case, job: str) -> str:
    return next(version.digest for version in case.rows(Version) if version.job_id == job)


def epochs_kept(case: Case, job: str) -> int:
    blobs = Folder(case.settings.data_dir / "blobs")
    row = next(row for row in case.rows(JobArtifact) if (row.job_id, row.name) == (job, "resume"))
    return int(load_file(blobs.fetch(row.digest))["epoch"])


def test_training_killed_twice_gives_the_bytes_of_the_straight_run(on_sqlite: Prepared, tmp_path: Path) -> None:
    with case_of(on_sqlite, tmp_path / "data") as case, account_of(case.settings) as account:
        account.work()
        straight = train(account, second_model(account, case))
        account.work()
        broken = train(account, second_model(account, case))
        for epoch in (1, 2):  # killed after every epoch: each attempt begins where the one before it was
            case.killed_at(TRAIN)
            assert epochs_kept(case, broken) == epoch
            case.expire()
        account.work()
        assert case.job(broken).attempts == 3
        assert digest_of(case, broken) == digest_of(case, straight)


# -- requests that arrive meanwhile ----------------------------------------------------------------


def during(monkeypatch: pytest.MonkeyPatch, point: str, act: Callable[[], None]) -> None:
    """Call `act` the first time that a worker in this process passes `point`."""
    left = [act]

    def hook(name: str) -> None:
        if name == point and left:
            left.pop()()

    monkeypatch.setattr(crash_points, "point", hook)


@pytest.mark.parametrize("scope", ["dataset", "model"])
@pytest.mark.parametrize("point", ["train.train.begin", "train.train.end", "train.evaluate.begin"])
def test_a_request_that_arrives_during_training_is_not_in_what_is_published(
    scope: str, point: str, account: Account, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = second_model(account, case)
    job = train(account, model)
    ids = account.training_ids(case.origin.dataset)[5:9]
    made: list[str] = []

    def ask() -> None:
        fields = {"model": model} if scope == "model" else {}
        made.append(account.delete(case.origin.dataset, ids, **fields)["id"])

    during(monkeypatch, point, ask)
    account.work()
    request = account.get(f"/v1/deletion-requests/{made[0]}")
    assert request["status"] == "fulfilled", request
    assert case.job(job).state == "succeeded"
    assert account.get(f"/v1/models/{model}")["current_version"]
    check_forgotten(case, model, made[0])
    if scope == "dataset":  # nor has it learned from them: its weights are those of a training that begins now
        later = train(account, second_model(account, case))
        account.work()
        assert digest_of(case, job) == digest_of(case, later)


def test_a_training_that_requests_keep_interrupting_ends(
    account: Account, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As seen: each request for one of its samples threw a whole training away, and nobody counted them. That it gave
    way before is not counted."""
    model = second_model(account, case)
    job = train(account, model)
    with case.database.write() as session:
        session.get_one(Job, job).fence = 5
    ids, made = account.training_ids(case.origin.dataset), list[str]()

    def hook(name: str) -> None:
        if name == "train.train.end" and len(made) < 10:
            made.append(account.delete(case.origin.dataset, [ids[len(made)]])["id"])

    monkeypatch.setattr(crash_points, "point", hook)
    account.work()
    assert case.job(job).state == "succeeded"
    assert len(made) == MOST_THROWN_AWAY + 1
    for request in made:
        assert account.get(f"/v1/deletion-requests/{request}")["status"] == "fulfilled"
        check_forgotten(case, model, request)


def check_forgotten(case: Case, model: str, request: str) -> None:
    with case.database.read() as session:
        asked = unpack(session.get_one(DeletionRequest, request).positions)
        current = session.query(Version).filter_by(model_id=model, state="current").one()
        trained = mask_of(current.trained_on, len(current.trained_on) * 8)
    assert len(asked)
    assert trained.any()
    assert not trained[asked].any()


def test_training_again_leaves_out_what_this_model_alone_forgot(account: Account, case: Case) -> None:
    ids = account.training_ids(case.origin.dataset)[5:9]
    request = account.delete(case.origin.dataset, ids, model=case.origin.model)
    account.work()
    check_forgotten(case, case.origin.model, request["id"])
    train(account, case.origin.model)
    account.work()
    assert account.get(f"/v1/models/{case.origin.model}")["current_version"] == 4
    check_forgotten(case, case.origin.model, request["id"])


# -- ends ------------------------------------------------------------------------------------------


def test_a_heartbeat_after_the_end_is_not_taken_for_a_lost_lease(
    on_sqlite: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def heartbeat_has_ended() -> bool:
        return all(thread.name != "heartbeat" for thread in threading.enumerate())

    def wait() -> None:
        eventually(heartbeat_has_ended, "a beat to find the job ended")

    with case_of(on_sqlite, tmp_path / "data", lease_seconds=2.0) as case, caplog.at_level(logging.WARNING):
        during(monkeypatch, "unlearn.publish.end", wait)
        case.run_one()
        assert case.job().state == "succeeded"
    assert "lease was lost" not in caplog.text


def test_a_cancelled_job_stops_at_the_next_beat_and_leaves_nothing(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with case_of(prepared, tmp_path / "data", lease_seconds=2.0) as case, account_of(case.settings) as account:
        account.work()
        job = train(account, second_model(account, case, epochs=500))

        def cancel() -> None:
            account.post(f"/v1/jobs/{job}:cancel")

        during(monkeypatch, "train.train.begin", cancel)
        account.work()
        assert case.job(job).state == "cancelled"
        assert case.strays() == []


def test_a_release_hands_back_the_leases_of_that_owner_only(database: Database, settings: Settings) -> None:
    enqueue(database, 3, lanes=3)
    for owner in ("gone", "gone", "here"):
        assert jobs.claim(database, owner, 60.0)
    assert jobs.release(database, "gone", "stopped", counted=False) == 2
    with database.read() as session:
        states = sorted((job.state, job.attempts, job.owner) for job in session.query(Job))
    assert states == [("queued", 0, None), ("queued", 0, None), ("running", 1, "here")]
