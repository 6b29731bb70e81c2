"""What an attempt makes of whatever its work raises: which errors end a job, and which queue it again."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
import torch

from app.blobs.folder import BlobCorruptError, StorageUnavailableError
from app.core.errors import Conflict, SupersededError
from app.core.tables import Job, Model
from app.formats.manifest import SourceError
from app.jobs import LeaseLostError
from app.rules.states import JobState
from engine.errors import (
    ArchitectureError,
    DeviceMemoryError,
    DivergedError,
    EngineError,
    MethodError,
    ProbeError,
    UnknownNameError,
)
from tests.trained import Trained
from worker import run_one
from worker.runtime.run import CancelledError, JobError


@pytest.fixture
def attempted(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], Any]:
    """A job whose work raises the error: its state, and the kind and the text of its problem."""

    def of(error: Exception) -> tuple[str, str | None, str | None]:
        def work(_run: Any) -> None:
            raise error

        monkeypatch.setattr(run_one, "KINDS", dict.fromkeys(run_one.KINDS, work))
        job_id = trained.account.post(f"{trained.where}:precompute", {})["id"]
        run_one.run_one(trained.account.resources, "tester")
        with trained.account.database.read() as session:
            job = session.get_one(Job, job_id)
            problem = job.problem or {}
            return job.state, (problem.get("type") or "").rpartition("/")[2] or None, problem.get("detail")

    return of


SHORTAGE = "the device's memory does not hold what this step needs: a smaller batch_size may fit"
UNKNOWN = UnknownNameError("the method 'made_up'", "its catalog does not have the name")
ENDS = [
    (JobError("no-version", "none"), "no-version", "none"),
    (Conflict("busy", kind="held"), "held", "busy"),
    (MethodError("one class"), "method-failed", "one class"),
    (DivergedError("not finite", 3), "method-failed", "not finite"),
    (ArchitectureError("too small"), "architecture", "too small"),
    (DeviceMemoryError("full"), "device-memory", "full"),
    (torch.OutOfMemoryError("CUDA out of memory"), "device-memory", SHORTAGE),
    (ProbeError("nothing there"), "probe", "nothing there"),
    (UNKNOWN, "unknown-name", str(UNKNOWN)),
    (EngineError("broken"), "method-failed", "broken"),
    (BlobCorruptError("sha256:00"), "corrupt-bytes", "stored bytes are damaged: sha256:00"),
]


@pytest.mark.parametrize(("error", "kind", "detail"), ENDS, ids=lambda value: type(value).__name__)
@pytest.mark.validation
def test_what_no_further_attempt_can_change_ends_the_job(
    attempted: Callable[[Exception], Any], error: Exception, kind: str, detail: str
) -> None:
    assert attempted(error) == (JobState.FAILED, kind, detail)


def test_every_error_of_the_engine_is_in_the_table() -> None:
    assert {type(error) for error, *_ in ENDS if isinstance(error, EngineError)} == {
        EngineError,
        *EngineError.__subclasses__(),
    }


@pytest.mark.validation
def test_a_cancelled_job_is_cancelled(attempted: Callable[[Exception], Any]) -> None:
    assert attempted(CancelledError("job")) == (JobState.CANCELLED, "cancelled", "cancelled on request")


@pytest.mark.parametrize(
    "error",
    [
        StorageUnavailableError("the storage does not answer"),
        SupersededError("samples were erased"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "Input/output error"),
        ZeroDivisionError("a fault of ours"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.validation
def test_what_may_pass_queues_the_job_again(attempted: Callable[[Exception], Any], error: Exception) -> None:
    assert attempted(error)[0] == JobState.QUEUED


@pytest.mark.validation
def test_a_child_that_ends_over_stored_pictures_says_why(
    attempted: Callable[[Exception], Any], trained: Trained
) -> None:
    """As seen: an unexpected SourceError."""
    assert attempted(SourceError("looking at it takes more than 8 GiB of memory"))[0] == JobState.QUEUED
    trained.account.work()
    [job] = trained.account.get("/v1/jobs", state="dead")["items"]
    assert job["problem"]["detail"].endswith("attempts: looking at it takes more than 8 GiB of memory")


@pytest.mark.validation
def test_a_lost_lease_writes_nothing(attempted: Callable[[Exception], Any]) -> None:
    assert attempted(LeaseLostError("another's"))[0] == JobState.RUNNING


# -- a worker that is older than the service -------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("architecture", "made_up", "the architecture 'made_up' (its catalog does not have the name)"),
        ("recipe_params", {"warmup": 3}, "the recipe 'sgd' (it has other parameters here)"),
        ("policy", {"method": {"name": "none", "params": {}}}, "the policy's method (no such name; the catalog has: "),
    ],
)
@pytest.mark.validation
def test_a_name_that_the_service_knows_and_the_worker_lacks_ends_the_job_with_what_to_do(
    trained: Trained, column: str, value: Any, what: str
) -> None:
    account = trained.account
    job = account.post(f"{trained.where}:precompute", {})
    with account.database.write() as session:
        setattr(session.get_one(Model, trained.model), column, value)
    account.work()
    found = account.get(f"/v1/jobs/{job['id']}")
    assert (found["state"], found["problem"]["type"].rpartition("/")[2]) == ("failed", "unknown-name")
    assert what in found["problem"]["detail"]
    assert found["problem"]["detail"].endswith("so update the worker or install the plug-in where it runs")
