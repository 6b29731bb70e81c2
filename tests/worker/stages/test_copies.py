"""Models with an input contract, from registration to erasure: the copy of the dataset that they are trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from app.core.tables import Dataset, DatasetCopy
from app.core.tables import Model as ModelRow
from app.formats.input_contract import InputContract
from app.models import records
from tests.helpers import blobs, is_problem
from tests.support import QUICK_MODEL, QUICK_POLICY, Document
from tests.trained import Trained

INPUT = {"geometry": {"resize": 12, "crop": 10}, "channels": 3, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}


def register(trained: Trained, given: Any, status: int = 201) -> Document:
    body = {"name": "own", "dataset": trained.dataset, **QUICK_MODEL, "policy": QUICK_POLICY, "input": given}
    return trained.account.post("/v1/models", body, status)


def copies(trained: Trained) -> list[DatasetCopy]:
    with trained.account.database.read() as session:
        return list(session.scalars(select(DatasetCopy)))


def pixels(trained: Trained, digest: str) -> Any:
    return np.load(trained.account.resources.blobs.fetch(digest))


@pytest.mark.validation
def test_models_of_one_geometry_share_a_copy_which_is_erased_with_the_samples(trained: Trained) -> None:
    account = trained.account
    made = register(trained, INPUT)
    assert made["input"]["geometry"] == {"resize": 12, "crop": 10, "interpolation": "bilinear", "antialias": True}
    other = register(trained, {**INPUT, "mean": [0.5], "std": None, "channels": 3})
    for model in (made, other):
        account.post(f"/v1/models/{model['id']}:train", {"seed": 1})
    account.work()
    (copy,) = copies(trained)
    assert copy.shape == [10, 10, 1]
    before = pixels(trained, copy.digest)
    with account.database.read() as session:
        own = pixels(trained, session.get_one(Dataset, trained.dataset).images)
        models = [session.get_one(ModelRow, model["id"]) for model in (made, other)]
        assert len({records.family(model) for model in models}) == 2, "other pools of references"
    assert before.shape == (len(own), 10, 10, 1)
    version = account.get(f"/v1/models/{made['id']}/versions/1")
    assert version["metrics"]["accuracy_test"] > 0.5

    ids = [trained.ids[3], trained.ids[7]]
    final = trained.forget(ids, allow_data_loss=True)
    assert final["status"] == "fulfilled"
    receipts = [receipt for receipt in final["receipts"] if receipt["subject"] == "sample-copy"]
    assert [receipt["digest"] for receipt in receipts] == [copy.digest]
    assert receipts[0]["done_at"]
    assert "the copy of 10 x 10 pixels" in receipts[0]["detail"]
    assert copy.digest not in blobs(account.settings)
    (now,) = copies(trained)
    after = pixels(trained, now.digest)
    gone = np.flatnonzero((after != before).any(axis=(1, 2, 3)))
    assert len(gone) == 2
    assert not after[gone].any()
    assert account.get(f"/v1/models/{made['id']}")["current_version"] == 2


def test_the_contract_is_read_from_what_people_have(shared: Trained) -> None:
    made = register(shared, {"torchvision": "ResNet18_Weights.IMAGENET1K_V1", "geometry": {"resize": 16}})
    assert made["input"]["mean"] == [0.485, 0.456, 0.406]
    assert made["input"]["geometry"]["resize"] == 16, "what is sent beside a file takes its place"
    assert "torchvision" not in made["input"]


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"torchvision": "ResNet18"}, "schema", "no such weights"),
        ({"torchvision": "x", "timm": {}}, "schema", "send one of"),
        ({"timm": {"mean": [0.5]}}, "schema", "lacks `input_size`"),
        ({"hugging_face": {"config": {"auto_map": {}}, "preprocessor": {}}}, "schema", "code of its own"),
        ({"class_names": ["a", "b"]}, "input-contract", "has 2 names, and the dataset has 10 classes"),
        ({"mean": [0.1, 0.2]}, "schema", "2 numbers"),
    ],
)
def test_a_contract_that_does_not_fit_is_refused_at_registration(
    shared: Trained, given: Any, kind: str, said: str
) -> None:
    body = {"name": "own", "dataset": shared.dataset, **QUICK_MODEL, "input": given}
    found = is_problem(shared.account.http.post("/v1/models", json=body), 422, kind)
    assert said in str(found)


@pytest.mark.validation
def test_of_a_dataset_that_is_not_ready_the_job_says_what_does_not_fit(trained: Trained) -> None:
    account = trained.account
    dataset = account.post("/v1/datasets", {"name": "later", "source": {"name": "digits"}})["id"]
    body = {"name": "own", "dataset": dataset, **QUICK_MODEL, "input": {"class_names": ["a"]}}
    model = account.post("/v1/models", body)["id"]
    account.work()
    job = account.post(f"/v1/models/{model}:train")["id"]
    account.work()
    found = account.get(f"/v1/jobs/{job}")
    assert (found["state"], found["attempts"]) == ("failed", 1)
    assert found["problem"]["type"].endswith("/input-contract")
    assert "has 1 names" in found["problem"]["detail"]


def test_a_model_without_a_contract_is_as_it_was(shared: Trained) -> None:
    found = shared.account.get(shared.where)
    assert InputContract.model_validate(found["input"]) == InputContract()
    with shared.account.database.read() as session:
        assert session.get_one(ModelRow, shared.model).input is None
    assert not copies(shared)
