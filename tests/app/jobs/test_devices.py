"""Jobs go to the workers of their model's device; what nobody takes is said aloud."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app.core import db
from app.core.tables import Worker
from app.jobs import outbox
from app.main import create_app
from app.operations import agreement, sweepers
from tests.helpers import is_problem
from tests.support import QUICK_MODEL, QUICK_POLICY
from tests.trained import Trained


def model_on(trained: Trained, device: str | None) -> str:
    body = {"name": "m", "dataset": trained.dataset, **QUICK_MODEL, "policy": QUICK_POLICY}
    made = trained.account.post("/v1/models", body | ({"device": device} if device else {}))
    assert made["device"] == device
    return str(made["id"])


def train(trained: Trained, model: str) -> str:
    return str(trained.account.post(f"/v1/models/{model}:train", {"seed": 1})["id"])


def state(trained: Trained, job: str) -> str:
    return str(trained.account.get(f"/v1/jobs/{job}")["state"])


@contextmanager
def alive(trained: Trained, name: str, label: str, *kinds: str) -> Iterator[None]:
    with trained.account.database.write() as session:
        session.add(Worker(name=name, device="cpu", label=label, kinds=list(kinds), seen_at=db.now(session)))
    yield
    with trained.account.database.write() as session:
        session.delete(session.get_one(Worker, name))


def drain(trained: Trained, **settings: object) -> None:
    """Whatever a worker with these settings takes."""
    from worker.run_one import run_one
    from worker.runtime.run import Resources

    resources = Resources.open(trained.account.settings.model_copy(update=settings))
    try:
        while run_one(resources, "w"):
            pass
    finally:
        resources.close()


def test_each_job_runs_where_its_model_belongs(trained: Trained) -> None:
    on_a, on_b, on_any = (train(trained, model_on(trained, device)) for device in ("a", "b", None))
    drain(trained, device_label="c", kinds=["purge"])
    assert {state(trained, job) for job in (on_a, on_b, on_any)} == {"queued"}
    drain(trained, device_label="b")
    assert [state(trained, job) for job in (on_a, on_b, on_any)] == ["queued", "succeeded", "succeeded"]
    drain(trained, device_label="a", kinds=["unlearn"])
    assert state(trained, on_a) == "queued"
    drain(trained, device_label="a", kinds=["train"])
    assert state(trained, on_a) == "succeeded"


def test_the_parts_of_a_job_inherit_its_device(trained: Trained) -> None:
    model = model_on(trained, "a")
    job = trained.account.post(f"/v1/models/{model}:references", {"count": 4, "seed": 3})["id"]
    drain(trained, device_label="b")
    assert state(trained, job) == "queued"
    drain(trained, device_label="a")
    assert state(trained, job) == "succeeded"
    assert {part["device"] for part in trained.account.get("/v1/jobs", parent=job)["items"]} == {"a"}


def test_deletions_go_where_the_model_belongs_and_its_purge_anywhere(trained: Trained) -> None:
    model = model_on(trained, "a")
    train(trained, model)
    drain(trained, device_label="a")
    made = trained.delete(trained.ids[:3])
    jobs = {outcome["model"]: outcome["job"] for outcome in made["outcomes"]}
    drain(trained, device_label="b")
    assert (state(trained, jobs[trained.model]), state(trained, jobs[model])) == ("succeeded", "queued")
    drain(trained, device_label="a", kinds=["unlearn"])
    assert trained.request(made)["status"] == "published"
    drain(trained, device_label="b")
    assert trained.request(made)["status"] == "fulfilled"


def test_a_hint_of_anothers_job_is_a_knock_on_the_door(trained: Trained) -> None:
    from worker.run_one import run_one
    from worker.runtime.run import Resources

    on_a, on_any = train(trained, model_on(trained, "a")), train(trained, model_on(trained, None))
    resources = Resources.open(trained.account.settings.model_copy(update={"device_label": "b"}))
    assert run_one(resources, "w", hint=on_a)
    assert (state(trained, on_a), state(trained, on_any)) == ("queued", "succeeded")
    assert not run_one(resources, "w", hint=on_a)
    resources.close()


def test_hints_ring_in_the_queue_of_kind_and_device(trained: Trained) -> None:
    outbox.relay_hints(trained.account.database, outbox.discard)
    on_a, on_any = train(trained, model_on(trained, "a")), train(trained, model_on(trained, None))
    sent: dict[str, str] = {}
    outbox.relay_hints(trained.account.database, sent.__setitem__)
    assert sent == {on_a: "lethe.train.a", on_any: "lethe.train"}


def test_a_device_that_nobody_serves_does_not_wait_silently(trained: Trained) -> None:
    account = trained.account
    job = train(trained, model_on(trained, "h200"))
    sweepers.say(account.database, account.settings)

    def waiting_for() -> str | None:
        (listed,) = account.get("/v1/jobs", state="queued")["items"]
        shown: str | None = account.get(f"/v1/jobs/{job}")["waiting_for"]
        assert listed["waiting_for"] == shown
        return shown

    def degraded() -> list[str]:
        found = account.get("/readyz")
        assert found["status"] == ("degraded" if found["degraded"] else "ready")
        return list(found["degraded"])

    assert "train jobs on device h200" in str(waiting_for())
    with alive(trained, "w", "cpu"):
        assert "train jobs on device h200" in str(waiting_for())
        (said,) = degraded()
        assert said.startswith("1 ")
        assert "device h200" in said
        with alive(trained, "other", "h200", "unlearn"):
            assert "h200" in str(waiting_for()), "that one does not train"
        with alive(trained, "right", "h200", "train", "unlearn"):
            assert waiting_for() is None
            assert degraded() == []
    drain(trained, device_label="h200")
    ended = account.get(f"/v1/jobs/{job}")
    assert (ended["state"], ended["waiting_for"], ended["device"]) == ("succeeded", None, "h200")


@pytest.mark.parametrize("label", ["", "H200", "a b", "a/b", "a" * 41, ".", 7])
def test_labels_outside_their_pattern(label: object, shared: Trained) -> None:
    body = {"name": "m", "dataset": shared.dataset, **QUICK_MODEL, "device": label}
    is_problem(shared.account.http.post("/v1/models", json=body), 422, "schema")


# -- storage ---------------------------------------------------------------------------------------


@pytest.mark.validation
def test_a_storage_that_is_away_is_degraded(trained: Trained, s3_gone: str) -> None:
    settings = trained.account.settings.model_copy(
        update={
            "blob_url": "s3://bucket",
            "s3_endpoint": s3_gone,
            "s3_access_key": "x",
            "s3_secret_key": SecretStr("x"),
        }
    )
    agreement.move_storage(trained.account.database, settings)
    with TestClient(create_app(settings)) as http:
        found = http.get("/readyz").json()
    assert (found["status"], found["storage"]) == ("degraded", "unreachable")
    assert any("storage" in said for said in found["degraded"])
    assert trained.account.get("/readyz")["storage"] == "ok"


@pytest.fixture
def s3_gone() -> str:
    from tests.support import free_port

    return f"http://127.0.0.1:{free_port()}"


@pytest.mark.validation
def test_a_folder_that_cannot_be_written_is_degraded(trained: Trained) -> None:
    (trained.account.settings.data_dir / "blobs" / "incoming").rmdir()
    assert trained.account.get("/readyz")["storage"] == "unreachable"
