"""Bytes that hold what was deleted: they leave, become current and are imported nowhere, under any name."""

from __future__ import annotations

from typing import Any

import pytest
from safetensors.torch import load, save
from sqlalchemy import select, update

from app.core.tables import Version
from tests.helpers import SAFETENSORS, digest_of, is_problem
from tests.support import QUICK_MODEL, QUICK_POLICY
from tests.trained import Trained


def checkpoint(trained: Trained, number: int = 1) -> bytes:
    content: bytes = trained.account.http.get(f"{trained.where}/versions/{number}/checkpoint").content
    return content


def fresh(trained: Trained) -> str:
    """The path of a model without a version."""
    return f"/v1/models/{trained.account.model(trained.dataset, train=False)['id']}"


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


def forms(data: bytes) -> dict[str, bytes]:
    """The same weights in other files."""
    tensors = load(data)
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    return {
        "metadata": save(tensors, {"format": "pt"}),
        "prefixes": save({f"module.{name}": tensor for name, tensor in tensors.items()}),
        "float16": save(tensors | {name: tensor.half() for name, tensor in floats.items()}),
        "bfloat16": save(tensors | {name: tensor.bfloat16() for name, tensor in floats.items()}),
        "without counters": save(floats),
    }


@pytest.mark.validation
def test_old_weights_in_another_file_are_refused_and_new_ones_are_not(trained: Trained) -> None:
    old = checkpoint(trained)
    assert trained.forget(trained.ids[:20])["status"] == "fulfilled"
    for name, data in forms(old).items():
        ended = brought(trained, fresh(trained), data, trained_on=trained.ids[20:])
        assert ended["state"] == "failed", name
        assert ended["problem"]["type"].endswith("/trained-on-erased"), name
    external = {"name": "external", "params": {"classes": 10, "shape": [8, 8, 1]}}
    elsewhere = trained.account.post("/v1/datasets", {"name": "e", "source": external})["id"]
    body = {"name": "e", "dataset": elsewhere, **QUICK_MODEL, "policy": {**QUICK_POLICY, "remain": "none"}}
    where = f"/v1/models/{trained.account.post('/v1/models', body)['id']}"
    ended = brought(trained, where, forms(old)["float16"], trained_on="not-held")
    assert ended["problem"]["type"].endswith("/trained-on-erased")

    new = forms(checkpoint(trained, 2))["float16"]
    assert brought(trained, fresh(trained), new, trained_on=trained.ids[20:])["state"] == "succeeded"


@pytest.mark.validation
def test_old_weights_are_refused_though_a_restored_database_does_not_know_their_version(trained: Trained) -> None:
    """As seen: half of a checkpoint that only the erasure ledger remembered was taken in."""
    old = checkpoint(trained)
    assert trained.forget(trained.ids[:20])["status"] == "fulfilled"
    with trained.account.database.write() as session:  # what a ledger brings back are the suppressions
        unknown = {"fingerprint": b"", "digest": f"sha256:{'0' * 64}", "trained_on": b""}
        first = update(Version).where(Version.number == 1, Version.model_id == trained.model)
        session.execute(first.values(unknown))
    for name, data in {"itself": old, **forms(old)}.items():
        announced = {"digest": digest_of(data), "trained_on": trained.ids[20:]}
        if name == "itself":
            is_problem(
                trained.account.http.post(f"{fresh(trained)}/versions", json=announced), 409, "trained-on-erased"
            )
            continue
        ended = brought(trained, fresh(trained), data, trained_on=trained.ids[20:])
        assert ended["problem"]["type"].endswith("/trained-on-erased"), name


@pytest.mark.validation
def test_a_version_of_the_same_weights_is_withheld_with_them(trained: Trained) -> None:
    """The half of them was imported while all was well. The announcement of its file says enough later."""
    account, other = trained.account, fresh(trained)
    half = forms(checkpoint(trained))["float16"]
    assert brought(trained, other, half)["state"] == "succeeded"
    account.post(f"{other}:train", {"seed": 2, "promote": True})
    account.work()
    trained.forget(trained.ids[:5], model=trained.model)
    is_problem(account.http.get(f"{other}/versions/1/checkpoint"), 409, "version-withheld")
    is_problem(account.http.post(f"{other}/versions/1:promote"), 409, "contains-erased")
    announced = {"digest": digest_of(half), "trained_on": trained.ids[5:]}
    is_problem(account.http.post(f"{fresh(trained)}/versions", json=announced), 409, "trained-on-erased")


@pytest.mark.validation
def test_weights_of_versions_of_before_are_read_while_they_are_there(trained: Trained) -> None:
    account, old = trained.account, checkpoint(trained)
    with account.database.write() as session:
        session.execute(update(Version).values(fingerprint=None))
    trained.forget(trained.ids[:5])
    with account.database.write() as session:
        known = dict(session.execute(select(Version.number, Version.fingerprint)).all())
        assert all(known.values()), "the unlearning has read the version that it replaces"
        session.execute(update(Version).values(fingerprint=None))
    ended = brought(trained, fresh(trained), forms(old)["metadata"], trained_on=trained.ids[5:])
    assert ended["problem"]["type"].endswith("/trained-on-erased")
    with account.database.read() as session:
        query = select(Version.fingerprint).where(Version.model_id == trained.model, Version.number == 1)
        assert session.scalars(query).one() == known[1]
