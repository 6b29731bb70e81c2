"""Models that were fine-tuned: from a base that never saw the dataset, with references and exact retraining from it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from app.core.tables import Model as ModelRow
from app.models import records
from engine.architectures import heads
from tests.helpers import SAFETENSORS, digest_of, is_problem
from tests.support import QUICK_POLICY, Account, Document
from worker.stages.loaded import LoadedModel

NETWORK = {"architecture": {"name": "small_cnn", "params": {"width": 16}}}
PROBE = {"name": "linear_probe", "params": {"epochs": 40}}
TUNED: Document = {"name": "fine_tuned", "params": {"epochs": 6, "learning_rate": 0.005}}
WORD = "It was trained on pictures that were taken before this dataset was begun."


def digits_of(classes: range) -> bytes:
    """The digits of some classes, which become classes from 0."""
    from app.catalog import DigitsSource
    from engine.data.sources import digits

    raw = digits(DigitsSource())
    rows = np.flatnonzero(np.isin(raw.labels, classes))
    buffer = io.BytesIO()
    np.savez(
        buffer,
        images=raw.images[rows],
        labels=raw.labels[rows] - classes.start,
        ids=np.array([raw.ids[row] for row in rows]),
        holdout=raw.holdout[rows],
    )
    return buffer.getvalue()


def dataset(account: Account, classes: range, **more: Any) -> str:
    made = account.post("/v1/datasets", {"name": "some", "source": {"name": "upload"}, **more})["id"]
    content = {"Content-Type": "application/x-npz"}
    assert account.http.put(f"/v1/datasets/{made}/content", content=digits_of(classes), headers=content).is_success
    account.work()
    return str(made)


def register(account: Account, data: str, recipe: Document, status: int = 201, **more: Any) -> Document:
    body = {"name": "m", "dataset": data, **NETWORK, "recipe": recipe, "policy": QUICK_POLICY, **more}
    return account.post("/v1/models", body, status)


def based(account: Account) -> tuple[str, str]:
    """A base trained on the first five digits, and the dataset of the others."""
    first = dataset(account, range(5))
    base = register(account, first, {"name": "sgd", "params": {"epochs": 8}})["id"]
    account.post(f"/v1/models/{base}:train")
    account.work()
    return str(base), dataset(account, range(5, 10))


def loaded(account: Account, model: str) -> LoadedModel:
    with account.database.read() as session:
        row = session.get_one(ModelRow, model)

    class Claim:
        id, model_id, dataset_id = "job_x", model, row.dataset_id

    return LoadedModel.load(account.resources, Claim())  # type: ignore[arg-type]


@pytest.mark.validation
def test_training_references_and_exact_retraining_start_from_the_base(account: Account) -> None:
    base, data = based(account)
    made = register(account, data, PROBE, base={"model": base})
    assert made["base"]["version"] == 1
    assert "which is another one" in made["base"]["never_saw"]
    where = f"/v1/models/{made['id']}"
    account.post(f"{where}:train", {"seed": 3})
    account.post(f"{where}:references", {"count": 4})
    account.work()
    version = account.get(f"{where}/versions/1")
    assert version["metrics"]["accuracy_test"] > 0.5
    own = loaded(account, made["id"])
    body = {name: t for name, t in own.restore(version["digest"]).state_dict().items() if not name.startswith("13.")}
    start = own.start()
    assert set(heads.of(start)) == {"13.weight", "13.bias"}
    assert all((start.state_dict()[name] == tensor).all() for name, tensor in body.items()), "the base's own weights"
    assert (own.fresh(1).state_dict()["13.weight"] != own.fresh(2).state_dict()["13.weight"]).any()

    policy = QUICK_POLICY | {"method": {"name": "retrain"}}
    assert account.http.put(f"{where}/policy", json=policy).status_code == 200
    final = account.delete(data, account.training_ids(data)[:20], allow_data_loss=True)
    account.work()
    final = account.get(f"/v1/deletion-requests/{final['id']}")
    assert final["status"] == "fulfilled"
    retrained = loaded(account, made["id"]).restore(account.get(f"{where}/versions/2")["digest"]).state_dict()
    assert all((retrained[name] == tensor).all() for name, tensor in body.items())
    report = account.get(f"{where}/versions/2/audit")["report"]
    assert report["references"]["models"] == 4
    (said,) = [line for line in report["not_shown"] if "the base" in line]
    assert made["base"]["digest"] in said
    assert "which is another one" in said


@pytest.mark.validation
def test_pools_of_another_base_are_others_and_a_base_outlives_its_models(account: Account) -> None:
    base, data = based(account)
    one = register(account, data, TUNED, base={"model": base})["id"]
    none = register(account, data, TUNED)["id"]
    with account.database.read() as session:
        families = {records.family(session.get_one(ModelRow, model)) for model in (one, none)}
    assert len(families) == 2
    refused = is_problem(account.http.post(f"/v1/models/{base}:purge"), 409, "model-is-base")
    assert one in refused["detail"]
    account.post(f"/v1/models/{one}:purge")
    assert account.http.post(f"/v1/models/{base}:purge").is_success


def test_what_a_model_learned_through_its_base_is_asked_for_too(account: Account) -> None:
    """The request waits for a person: no job can take out of the second model what it got from the first."""
    base, data = based(account)
    own = account.get(f"/v1/models/{base}")["dataset"]
    one = register(account, data, PROBE, base={"model": base})["id"]
    account.post(f"/v1/models/{one}:train")
    account.work()
    two = register(account, dataset(account, range(3, 8)), PROBE, base={"model": one, "never_saw": WORD})["id"]
    ids = account.training_ids(own)[:3]
    preview = account.post("/v1/deletion-requests", {"dataset": own, "sample_ids": ids, "validate_only": True}, 200)
    assert (preview["models"], preview["through_base"]) == ([base], [one, two])
    request = account.delete(own, ids)
    body = {"name": "m", "dataset": data, **NETWORK, "recipe": PROBE, "policy": QUICK_POLICY, "base": {"model": base}}
    is_problem(account.http.post("/v1/models", json=body), 409, "trained-on-erased")
    account.work()
    found = account.get(f"/v1/deletion-requests/{request['id']}")
    assert found["status"] == "needs-attention"
    outcomes = {row["model"]: row for row in found["outcomes"]}
    assert {model: row["state"] for model, row in outcomes.items()} == {
        base: "published", one: "attention", two: "attention",
    }  # fmt: skip
    assert f"it starts from version 1 of {base}, which was trained on the samples" in outcomes[one]["reason"]
    assert f"it starts from {one}, and" in outcomes[two]["reason"]
    assert register(account, data, PROBE, base={"model": base})["base"]["version"] == 2
    for model in (two, one):
        account.post(f"/v1/models/{model}:purge")
    account.work()
    assert account.get(f"/v1/deletion-requests/{request['id']}")["status"] == "fulfilled"
    later = account.delete(data, account.training_ids(data)[:3])
    assert [row["state"] for row in later["outcomes"]] == [], "a dataset that no base learned from"


@pytest.mark.validation
def test_unlearning_of_a_frozen_backbone_stays_in_the_head(account: Account) -> None:
    base, data = based(account)
    made = register(
        account, data, {**TUNED, "params": TUNED["params"] | {"frozen_backbone": True}}, base={"model": base}
    )
    account.post(f"/v1/models/{made['id']}:train")
    account.work()
    account.delete(data, account.training_ids(data)[:5], allow_data_loss=True)
    account.work()
    own = loaded(account, made["id"])
    before, after = (
        own.restore(account.get(f"/v1/models/{made['id']}/versions/{number}")["digest"]).state_dict()
        for number in (1, 2)
    )
    assert {name for name in before if (before[name] != after[name]).any()} == {"13.weight", "13.bias"}


def test_what_is_no_base(account: Account) -> None:
    base, data = based(account)
    first = account.get(f"/v1/models/{base}")["dataset"]

    def refused(kind: str, status: int = 422, **more: Any) -> str:
        body = {"name": "m", "dataset": data, **NETWORK, "recipe": TUNED, "base": {"model": base}} | more
        return str(is_problem(account.http.post("/v1/models", json=body), status, kind)["detail"])

    assert "The base saw the data: it was trained on this dataset" in refused("base-saw-data", dataset=first)
    wider = {"name": "small_cnn", "params": {"width": 8}}
    assert "the same network" in refused("base-architecture", architecture=wider)
    assert "features of random weights" in refused("base-missing", recipe=PROBE, base=None)
    untrained = register(account, data, TUNED)["id"]
    refused("no-version", 409, base={"model": untrained})
    again = dataset(account, range(5), id_namespace="people")
    named = dataset(account, range(3), id_namespace="people")
    own = register(account, again, TUNED)["id"]
    account.post(f"/v1/models/{own}:train")
    account.work()
    assert "samples of this dataset are in its own" in refused("base-saw-data", dataset=named, base={"model": own})


@pytest.mark.validation
def test_a_base_whose_data_are_not_held_needs_its_owners_word(account: Account) -> None:
    base, data = based(account)
    checkpoint = account.http.get(f"/v1/models/{base}/versions/1/checkpoint").content
    external = {"name": "external", "params": {"classes": 5, "shape": [8, 8, 1]}}
    theirs = account.post("/v1/datasets", {"name": "theirs", "source": external})["id"]
    policy = QUICK_POLICY | {"remain": "none", "escalation": []}
    model = account.post("/v1/models", {"name": "b", "dataset": theirs, **NETWORK, "policy": policy})["id"]
    account.post(f"/v1/models/{model}/versions", {"digest": digest_of(checkpoint), "trained_on": "not-held"})
    sent = account.http.put(
        f"/v1/models/{model}/versions/1/checkpoint", content=checkpoint, headers={"Content-Type": SAFETENSORS}
    )
    assert sent.is_success
    account.work()
    body = {"name": "m", "dataset": data, **NETWORK, "recipe": PROBE, "base": {"model": model}}
    is_problem(account.http.post("/v1/models", json=body), 422, "base-unknown-data")
    made = account.post("/v1/models", body | {"base": {"model": model, "never_saw": WORD}})
    assert made["base"]["never_saw"] == WORD
    account.post(f"/v1/models/{made['id']}:train")
    account.work()
    assert account.get(f"/v1/models/{made['id']}")["current_version"] == 1


@pytest.mark.parametrize("word", ["", "short", 7])
@pytest.mark.validation
def test_a_word_that_says_nothing(client: Any, word: Any) -> None:
    body = {
        "name": "m",
        "dataset": "dst_" + "0" * 26,
        **NETWORK,
        "base": {"model": "mdl_" + "0" * 26, "never_saw": word},
    }
    is_problem(client.post("/v1/models", json=body), 422, "schema")


@pytest.mark.validation
def test_what_a_purged_model_learned_through_its_base_is_known_by_its_bytes(account: Account) -> None:
    base, data = based(account)
    own = account.get(f"/v1/models/{base}")["dataset"]
    one = register(account, data, PROBE, base={"model": base})["id"]
    account.post(f"/v1/models/{one}:train")
    account.work()
    old = account.http.get(f"/v1/models/{one}/versions/1/checkpoint").content
    request = account.delete(own, account.training_ids(own)[:3])
    account.work()
    third = dataset(account, range(3, 8))
    body = {"name": "m", "dataset": third, **NETWORK, "recipe": PROBE, "policy": QUICK_POLICY}
    refused = account.http.post("/v1/models", json=body | {"base": {"model": one, "never_saw": WORD}})
    is_problem(refused, 409, "trained-on-erased")
    account.post(f"/v1/models/{one}:purge")
    account.work()
    assert account.get(f"/v1/deletion-requests/{request['id']}")["status"] == "fulfilled"
    other = register(account, data, {"name": "sgd", "params": {}})["id"]
    announced = {"digest": digest_of(old), "trained_on": "train-split"}
    is_problem(account.http.post(f"/v1/models/{other}/versions", json=announced), 409, "trained-on-erased")
