"""What the shape of a request decides: the method for a class, and controls that no method has learned from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.core.tables import Dataset, Model
from app.jobs import Claim
from app.rules.policy import Choice, Policy
from app.rules.states import JobKind
from tests.support import QUICK_POLICY
from tests.trained import Trained
from worker.stages import auditing
from worker.stages.auditing import Subject
from worker.stages.loaded import LoadedModel

SQLITE = pytest.mark.parametrize("trained", ["sqlite"], indirect=True)


def loaded_model(trained: Trained) -> LoadedModel:
    with trained.account.database.read() as session:
        model = session.get_one(Model, trained.model)
        dataset = session.get_one(Dataset, trained.dataset)
        owner, fence = "test", 0
        claim = Claim(
            id="job_none", fence=fence, owner=owner, tenant_id=model.tenant_id, kind=JobKind.AUDIT,
            dataset_id=dataset.id, model_id=model.id, request_id=None, device=None, parent_id=None, params={}, seed=0,
            attempts=0, traceparent=None,
        )  # fmt: skip
    return LoadedModel.load(trained.account.resources, claim)


def test_a_policy_without_a_method_leaves_it_to_the_shape_of_the_request() -> None:
    policy = Policy.model_validate({})
    assert policy.class_method is not None
    assert policy.for_shape([0, 80, 3], [100, 100, 100]).method.name == "neg_grad_plus"
    assert policy.for_shape([10, 79, 0], [100, 100, 0]) is policy
    named = Policy.model_validate({"method": {"name": "salun"}})
    assert named.class_method is None, "who names a method gets it"
    assert named.for_shape([100], [100]) is named
    chosen = Policy.model_validate({"method": {"name": "amun"}, "class_method": {"name": "fine_tune"}})
    assert chosen.for_shape([100], [100]).method.name == "fine_tune"
    again = Policy.model_validate(policy.model_dump())
    assert again == policy


@SQLITE
def test_a_whole_class_is_unlearned_by_the_method_for_it(trained: Trained) -> None:
    account = trained.account
    policy = {name: value for name, value in QUICK_POLICY.items() if name != "method"}
    assert account.http.put(f"{trained.where}/policy", json=policy).status_code == 200
    items = account.get(f"/v1/datasets/{trained.dataset}/samples", split="train", page_size=1000)["items"]
    whole = [item["id"] for item in items if item["label"] == 4]
    request = trained.forget(whole, allow_data_loss=True)
    assert request["status"] == "fulfilled"
    report = account.get(f"{trained.where}/versions/{request['outcomes'][0]['version']}/audit")["report"]
    tried = [report["method"], *(step["method"] for step in report["gate"]["earlier"])]
    assert "neg_grad_plus" in tried
    assert "amun" not in tried


@SQLITE
def test_what_a_method_may_learn_of_the_holdout_is_no_control(trained: Trained) -> None:
    loaded = loaded_model(trained)
    reserved = loaded.reserved
    assert 0.1 < len(reserved) / len(loaded.holdout) < 0.3
    assert np.isin(reserved, loaded.holdout).all()
    assert loaded_model(trained).reserved.tolist() == reserved.tolist(), "the same in every job"
    nothing = np.array([], dtype=np.int64)

    def subject(method: str) -> Subject:
        return Subject("", None, nothing, nothing, loaded.policy.audit, Choice(name=method))

    assert not np.isin(reserved, auditing.controls(loaded, subject("reference_guided"))).any()
    assert np.isin(reserved, auditing.controls(loaded, subject("salun"))).all()
    policy = Policy.model_validate({"method": {"name": "salun"}, "escalation": [{"name": "reference_guided"}]})
    other = replace(loaded, policy=policy)
    assert not np.isin(reserved, auditing.controls(other, subject("salun"))).any(), "a later step may have learned"
