"""Bytes that hold what was deleted: they leave, become current and are imported nowhere, under any name."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import SAFETENSORS, digest_of, is_problem
from tests.trained import Trained


def checkpoint(trained: Trained, number: int = 1) -> bytes:
    content: bytes = trained.account.http.get(f"{trained.where}/versions/{number}/checkpoint").content
    return content


def fresh(trained: Trained, dataset: str | None = None) -> str:
    """The path of a model without a version."""
    return f"/v1/models/{trained.account.model(dataset or trained.dataset, train=False)['id']}"


def brought(trained: Trained, where: str, data: bytes, **fields: Any) -> Any:
    """The import job of `data`, ended; or why it was not announced."""
    body = {"digest": digest_of(data), "trained_on": "train-split", **fields}
    said = trained.account.http.post(f"{where}/versions", json=body)
    if said.status_code != 201:
        return said.json()
    place = f"{where}/versions/{said.json()['number']}/checkpoint"
    sent = trained.account.http.put(place, content=data, headers={"Content-Type": SAFETENSORS})
    assert sent.status_code == 202, sent.text
    trained.account.work()
    return trained.account.get(f"/v1/jobs/{sent.json()['id']}")


@pytest.mark.validation
def test_a_version_that_training_replaced_is_withheld_once_its_samples_are_requested(trained: Trained) -> None:
    account = trained.account
    account.post(f"{trained.where}:train", {"seed": 2, "promote": True})
    made = trained.delete(trained.ids[:5])
    account.work()
    assert trained.request(made)["status"] == "fulfilled"
    assert account.get(trained.where)["current_version"] == 2
    for part in ("checkpoint", "export"):
        is_problem(account.http.get(f"{trained.where}/versions/1/{part}"), 409, "version-withheld")
        assert account.http.get(f"{trained.where}/versions/2/{part}").status_code == 200
    is_problem(account.http.post(f"{trained.where}/versions/1:sign", json={}), 409, "version-withheld")


@pytest.mark.validation
def test_another_model_does_not_serve_the_same_bytes_either(trained: Trained) -> None:
    """One model's deletion: the other one's version has the bytes too, and was not asked for."""
    account, data, other = trained.account, checkpoint(trained), fresh(trained)
    assert brought(trained, other, data)["state"] == "succeeded"
    account.post(f"{other}:train", {"seed": 2, "promote": True})
    account.work()
    assert account.http.get(f"{other}/versions/1/checkpoint").status_code == 200
    assert trained.forget(trained.ids[:5], model=trained.model)["status"] == "fulfilled"
    assert account.get(f"{other}")["current_version"] == 2
    is_problem(account.http.get(f"{other}/versions/1/checkpoint"), 409, "version-withheld")
    is_problem(account.http.post(f"{other}/versions/1:promote"), 409, "contains-erased")
    is_problem(account.http.put(f"{other}/aliases/prod", json={"version": 1}), 409, "contains-erased")
    assert account.http.get(f"{other}/versions/2/checkpoint").status_code == 200
