"""A method that cannot run on its input: the batch goes to the next step of the escalation, where there is one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from sqlalchemy import select

from app.core.tables import AuditEvent
from engine.attacks import AttackResult
from engine.errors import DeviceMemoryError
from tests.support import QUICK_POLICY, Document
from tests.trained import Trained
from worker.stages import unlearning

pytestmark = pytest.mark.validation
DIVERGING = {"name": "gradient_ascent", "params": {"epochs": 40, "learning_rate": 10.0, "batch_size": 64}}


def unlearned(trained: Trained, **policy: Any) -> tuple[Document, list[Document]]:
    """Request a deletion under the policy and work it off: the request, and the unlearn jobs, oldest first."""
    reply = trained.account.http.put(f"{trained.where}/policy", json={**QUICK_POLICY, **policy})
    assert reply.status_code == 200, reply.text
    final = trained.forget(trained.ids[:3])
    return final, list(reversed(trained.account.get("/v1/jobs", kind="unlearn")["items"]))


def finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    attacked = unlearning.attacked

    def nothing(*given: Any) -> AttackResult:
        result = attacked(*given)
        return replace(result, found=torch.zeros_like(result.found))

    monkeypatch.setattr(unlearning, "attacked", nothing)


def test_amun_without_an_example_goes_to_exact_retraining(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """As seen: it went to needs-attention."""
    finds_nothing(monkeypatch)
    final, (amun, retrain) = unlearned(trained)
    assert final["status"] == "fulfilled"
    why = "amun could not run: AMUN needs an adversarial example of at least one forget sample"
    assert (amun["state"], amun["problem"]["detail"], amun["problem"]["next_job"]) == ("rejected", why, retrain["id"])
    assert amun["problem"]["type"].endswith("/method-failed")
    assert amun["escalation"] == {
        "number": 1,
        "of": 2,
        "method": "amun",
        "after": None,
        "why": None,
        "next": retrain["id"],
    }
    assert (retrain["escalation"]["method"], retrain["escalation"]["why"]) == ("retrain", why)
    assert final["outcomes"][0]["reason"].startswith("published by step 2 of 2, retrain")
    with trained.account.database.read() as session:
        event = session.scalars(select(AuditEvent).where(AuditEvent.kind == "gate.escalated")).one()
    assert event.data["verdict"] == "not audited"


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ({"method": DIVERGING}, "gradient_ascent could not run: training diverged"),
        ({"attack": {"name": "transfer"}}, "amun could not run: no adversarial set of another version"),
    ],
    ids=["diverged", "no set"],
)
def test_so_does_any_other(trained: Trained, policy: Document, why: str) -> None:
    final, (first, _) = unlearned(trained, **policy)
    assert final["status"] == "fulfilled"
    assert first["problem"]["detail"].startswith(why)


def test_so_does_one_that_the_device_cannot_hold(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: Any) -> Any:
        raise DeviceMemoryError("the device's memory does not hold the model and one sample")

    monkeypatch.setattr(unlearning, "attacked", too_large)
    final, (first, _) = unlearned(trained)
    assert (final["status"], first["state"]) == ("fulfilled", "rejected")


def test_a_stronger_setting_of_the_same_method_is_no_next_step(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds_nothing(monkeypatch)
    stronger = {**QUICK_POLICY["method"], "stronger": True}
    final, jobs = unlearned(trained, escalation=[stronger, {"name": "retrain"}])
    assert final["status"] == "fulfilled"
    assert [job["escalation"]["number"] for job in jobs] == [1, 3]


def test_where_no_step_is_left_a_person_must_decide(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    finds_nothing(monkeypatch)
    final, (amun,) = unlearned(trained, escalation=[])
    assert (final["status"], amun["state"]) == ("needs-attention", "failed")
    assert final["outcomes"][0]["reason"] == "AMUN needs an adversarial example of at least one forget sample"
