"""A measured import: what the owner states is measured, and a difference is refused with both figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.blobs import usage
from app.jobs import outbox
from engine.evaluation import logits as logits_of
from tests.app.releases.test_imports import announce, good, send
from tests.helpers import blobs, digest_of, is_problem, make_safetensors, read_safetensors
from tests.support import QUICK_MODEL, Document
from tests.trained import Trained
from worker.stages.loaded import LoadedModel


def model(trained: Trained, **more: Any) -> str:
    made = trained.account.post("/v1/models", {"name": "own", "dataset": trained.dataset, **QUICK_MODEL, **more})
    return f"/v1/models/{made['id']}/versions"


def imported(trained: Trained, where: str, stated: Any, data: bytes | None = None) -> Document:
    data = data or good(trained)
    announce(trained, where, digest_of(data), stated=stated)
    job = send(trained, where, data).json()["id"]
    trained.account.work()
    return trained.account.get(f"/v1/jobs/{job}")


def accuracy(trained: Trained) -> float:
    found: float = trained.account.get(f"{trained.where}/versions/1")["metrics"]["accuracy_test"]
    return found


def test_an_accuracy_that_agrees_is_kept_with_the_version(shared: Trained) -> None:
    where = model(shared)
    job = imported(shared, where, {"accuracy": round(accuracy(shared), 3)})
    assert job["state"] == "succeeded"
    assert "warnings" not in job["result"]
    stated = shared.account.get(f"{where}/1")["metrics"]["stated"]
    assert stated["accuracy"] == pytest.approx(accuracy(shared))
    assert (stated["samples"], stated["tolerance"]) == (899, 0.005)


def test_an_accuracy_that_does_not_is_refused_with_both_figures_and_the_cause(shared: Trained) -> None:
    where = model(shared, input={"mean": [0.5], "std": [0.1]})
    job = imported(shared, where, {"accuracy": accuracy(shared)})
    assert job["state"] == "failed"
    assert job["problem"]["type"].endswith("/import-disagrees")
    said = job["problem"]["detail"]
    assert f"an accuracy of {100 * accuracy(shared):.1f} %" in said
    assert "on these 899 samples" in said
    assert "Likeliest causes: `input.mean` and `input.std` should say no normalisation" in said
    assert shared.account.get(f"{where}/1")["state"] == "candidate"


def test_a_refused_import_leaves_no_bytes_and_may_be_sent_again(trained: Trained) -> None:
    account, where = trained.account, model(trained)
    data = make_safetensors(read_safetensors(good(trained)))
    before = blobs(account.settings)
    assert digest_of(data) not in before
    job = imported(trained, where, {"accuracy": 0.1}, data)
    assert job["problem"]["type"].endswith("/import-disagrees")
    outbox.relay_blobs(account.database, lambda digest: usage.remove(account.database, account.resources.blobs, digest))
    assert blobs(account.settings) == before
    is_problem(account.http.get(f"{where}/1/checkpoint"), 409, "content-missing")
    account.post(f"/v1/jobs/{job['id']}:retry")
    account.work()
    assert account.get(f"/v1/jobs/{job['id']}")["problem"]["type"].endswith("/content-missing")
    sent = send(trained, where, data).json()
    account.work()
    assert account.get(f"/v1/jobs/{sent['id']}")["problem"]["type"].endswith("/import-disagrees")


def some(trained: Trained) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Sixteen ids, not in their order, with what version 1 says of them."""
    account = trained.account
    with account.database.read() as session:
        from app.core.tables import Model, Version

        row = session.get_one(Model, trained.model)
        version = session.query(Version).filter_by(model_id=row.id, number=1).one()
        digest, dataset = version.digest, row.dataset_id

    class Claim:
        id, model_id, dataset_id = "job_x", trained.model, dataset

    loaded = LoadedModel.load(account.resources, Claim())  # type: ignore[arg-type]
    items = account.get(f"/v1/datasets/{dataset}/samples", split="train", page_size=1000)["items"]
    ids = [items[place]["id"] for place in range(30, 14, -1)]
    every = account.get(f"/v1/datasets/{dataset}/samples", page_size=1000)["items"]
    positions = {item["id"]: int(item["id"].rpartition("-")[2]) for item in [*items, *every]}
    rows = loaded.on_device(np.array([positions[name] for name in ids]))
    return ids, logits_of(loaded.restore(digest), loaded.samples.images, rows).numpy()


def test_logits_are_compared_in_the_order_of_the_ids(shared: Trained) -> None:
    ids, logits = some(shared)
    job = imported(shared, model(shared), {"logits": logits.tolist(), "sample_ids": ids})
    assert job["state"] == "succeeded", job["problem"]
    others = {"logits": logits.tolist(), "sample_ids": ids[::-1]}
    job = imported(shared, model(shared), others)
    assert job["problem"]["type"].endswith("/import-disagrees")
    assert "the logits of these 16 samples differ" in job["problem"]["detail"]


def test_a_model_that_knows_nothing_is_imported_with_a_warning(shared: Trained) -> None:
    tensors = read_safetensors(good(shared))
    spoiled = make_safetensors({name: np.zeros_like(a) if "weight" in name else a for name, a in tensors.items()})
    where = model(shared)
    job = imported(shared, where, None, spoiled)
    assert job["state"] == "succeeded"
    assert "no better than chance" in job["result"]["warnings"][0]
    assert shared.account.get(f"{where}/1")["metrics"]["warnings"] == job["result"]["warnings"]


def test_what_was_measured_on_erased_samples_is_not_compared(trained: Trained) -> None:
    ids, logits = some(trained)
    where, data = model(trained), good(trained)
    stated = {"logits": logits.tolist(), "sample_ids": ids}
    announce(trained, where, digest_of(data), stated=stated, trained_on=trained.ids[100:200])
    trained.forget(ids[:1])
    job = send(trained, where, data).json()
    if "id" in job:  # else the digest is known as one that holds erased samples
        trained.account.work()
        found = trained.account.get(f"/v1/jobs/{job['id']}")
        assert found["problem"]["type"].endswith("/stated-erased")
    else:
        assert job["type"].endswith("/trained-on-erased")
    with trained.account.database.read() as session:
        from app.core.tables import Version

        kept = [version.stated for version in session.query(Version) if version.stated]
    assert len(kept) == 1
    assert "logits" not in kept[0]


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"accuracy": 1.2}, "less than or equal to 1"),
        ({"accuracy": 54.8}, "less than or equal to 1"),
        ({}, "either `accuracy` or `logits`"),
        ({"accuracy": 0.5, "logits": [[0.0, 1.0]]}, "either `accuracy` or `logits`"),
        ({"logits": [[0.0, 1.0]]}, "`logits` needs `sample_ids`"),
        ({"logits": [[0.0, 1.0], [0.0, 1.0, 2.0]], "sample_ids": ["a", "b"]}, "one number for each class"),
        ({"accuracy": 0.5, "tolerance": 5.0}, "is a fraction"),
        ({"accuracy": 0.5, "tolerance": 0}, "greater than 0"),
        ({"accuracy": 0.5, "sample_ids": ["nobody"]}, "unknown"),
    ],
)
def test_what_states_nothing_is_refused(shared: Trained, stated: Any, said: str) -> None:
    body = {"digest": "sha256:" + "0" * 64, "trained_on": "train-split", "stated": stated}
    response = shared.account.http.post(model(shared), json=body)
    assert response.status_code == 422
    assert said in response.text


def test_logits_of_another_number_of_classes(shared: Trained) -> None:
    body = {"digest": "sha256:" + "0" * 64, "trained_on": "train-split"}
    stated = {"logits": [[0.0, 1.0]], "sample_ids": shared.ids[:1]}
    response = shared.account.http.post(model(shared), json=body | {"stated": stated})
    assert "has 2 numbers, and the dataset has 10 classes" in is_problem(response, 422, "invalid")["detail"]
