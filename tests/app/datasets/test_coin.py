"""Canaries that the service's coin assigns: handed out before a model is trained elsewhere, and audited afterwards."""

from __future__ import annotations

import hashlib
import hmac
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sqlalchemy import select

from app.core.tables import AuditEvent
from app.datasets import coin
from engine import checkpoints, places, seeding
from engine.data.samples import Samples
from engine.recipes import Recipe
from engine.training import NullProgress
from tests.app.datasets.test_uploads import parquet, send
from tests.helpers import is_problem
from tests.support import Account, Document

CANARIES, SIDE, CLASSES = 900, 8, 4


def test_the_coin_is_fair_and_can_be_verified_by_anybody() -> None:
    secret = coin.new_coin()
    ids = [f"canary-{number}" for number in range(4000)]
    held = coin.assign(secret, ids, [coin.SUBJECT] * 4000, [True] * 4000)
    assert abs(np.mean(held) - 0.5) < 4 * 0.5 / 4000**0.5
    digest = hmac.new(bytes.fromhex(secret), ids[7].encode(), hashlib.sha256).digest()
    assert held[7] == bool(digest[0] & 1)
    assert coin.commitment(secret) == hashlib.sha256(bytes.fromhex(secret)).hexdigest()
    assert coin.assign(secret, ids[:2], ["ann", None], [True, False]) == [True, False], "people's samples stay"
    assert coin.assign(coin.new_coin(), ids, [coin.SUBJECT] * 4000, [True] * 4000) != held


def content(holdout: bool) -> bytes:
    """Noise with random labels, so that a model must learn them by heart; all in one split."""
    random = np.random.default_rng(0)
    file = io.BytesIO()
    np.savez(
        file,
        images=random.integers(0, 256, (CANARIES, SIDE, SIDE, 1), dtype=np.uint8),
        labels=random.permutation(np.arange(CANARIES) % CLASSES),
        ids=np.array([f"c{number}" for number in range(CANARIES)]),
        holdout=np.full(CANARIES, holdout),
        subject=np.full(CANARIES, coin.SUBJECT),
    )
    return file.getvalue()


def registered(account: Account, **body: Any) -> Document:
    source = {"name": "upload", "params": {}}
    return account.post("/v1/datasets", {"name": "canaries", "source": source, "assign_canaries": True, **body}, 202)


def sent(account: Account, dataset: str) -> Document:
    where = f"/v1/datasets/{dataset}/content"
    answer = account.http.put(where, content=content(False), headers={"Content-Type": "application/x-npz"})
    assert answer.status_code == 202, answer.text
    account.work()
    return account.get(f"/v1/datasets/{dataset}")


@pytest.mark.validation
def test_the_digest_of_the_coin_is_logged_before_any_sample_is_sent(account: Account) -> None:
    made = registered(account)
    first = made["canaries"]
    assert first["coin"] is None
    with account.database.read() as session:
        logged = session.scalars(select(AuditEvent.data).where(AuditEvent.kind == "dataset.registered")).one()
    assert logged["canary_coin"] == first["commitment"]
    is_problem(account.http.get(f"/v1/datasets/{made['id']}/canaries"), 409, "dataset-not-ready")
    ready = sent(account, made["id"])
    assert ready["canaries"]["commitment"] == first["commitment"] == coin.commitment(ready["canaries"]["coin"])
    assert abs(ready["train_samples"] - CANARIES / 2) < 4 * 0.5 * CANARIES**0.5
    file = np.load(io.BytesIO(account.http.get(f"/v1/datasets/{made['id']}/canaries").content))
    assert len(file["ids"]) == ready["train_samples"] == len(file["images"]) == len(file["labels"])
    assert not any(coin.kept_out(ready["canaries"]["coin"], name) for name in file["ids"].tolist())
    built_in = {"name": "d", "source": {"name": "digits"}, "assign_canaries": True}
    refused = account.http.post("/v1/datasets", json=built_in)
    is_problem(refused, 422, "schema")


@pytest.mark.parametrize("sizes", [(8,), (8, 9)])
def test_canaries_that_came_as_pictures_are_handed_out_as_pixels(account: Account, sizes: tuple[int, ...]) -> None:
    """Grey among colours, and of different sizes. The coin decides, not the file."""
    random, count = np.random.default_rng(1), 40
    pixels = {
        f"c{n}": random.integers(0, 256, (sizes[n % len(sizes)], 8, 3 if n % 2 else 1), dtype=np.uint8)
        for n in range(count)
    }
    images = [png(each) for each in pixels.values()]
    table = {"id": [*pixels], "image": images, "label": [n % 4 for n in range(count)], "split": ["train"] * count}
    made = registered(account)["id"]
    answer = send(account, made, parquet(table | {"subject": [coin.SUBJECT] * count}))
    assert answer.status_code == 202, answer.text
    account.work()
    ready = account.get(f"/v1/datasets/{made}")
    assert ready["shape"] == ([8, 8, 3] if len(sizes) == 1 else [None, None, 3])
    trained = [name for name in pixels if not coin.kept_out(ready["canaries"]["coin"], name)]
    assert account.training_ids(made) == trained
    assert account.get(f"/v1/datasets/{made}/report")["splits"] == {
        "train": len(trained),
        "holdout": count - len(trained),
    }
    file = np.load(io.BytesIO(account.http.get(f"/v1/datasets/{made}/canaries").content))
    assert file["ids"].tolist() == trained
    assert file["labels"].tolist() == [int(name[1:]) % 4 for name in trained]
    found = file["images"] if len(sizes) == 1 else [file[f"image_{n}"] for n in range(len(trained))]
    for name, image in zip(trained, found, strict=True):
        assert np.array_equal(image, np.broadcast_to(pixels[name], (*pixels[name].shape[:2], 3)))


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("honest", [True, False])
@pytest.mark.validation
def test_a_model_trained_elsewhere_is_judged_by_canaries_without_any_reference(
    account: Account, tmp_path: Path, honest: bool
) -> None:
    """The canaries are handed out, mixed in, learned; the checkpoint is imported, and jobs forget half of them."""
    dataset = registered(account)["id"]
    sent(account, dataset)
    file = np.load(io.BytesIO(account.http.get(f"/v1/datasets/{dataset}/canaries").content))
    half = len(file["ids"]) // 2
    sham = {"name": "fine_tune", "params": {"epochs": 1, "learning_rate": 1e-6}}
    policy = {"method": {"name": "retrain"} if honest else sham, "canaries": half, "utility_floor": 1.0}
    policy |= {"audit": {"name": "rmia", "params": {"margin": 0.15}}, "escalation": []}
    body = {
        "name": "elsewhere",
        "dataset": dataset,
        "architecture": {"name": "small_cnn", "params": {"width": 16}},
        "recipe": {"name": "sgd", "params": {"epochs": 30, "batch_size": 32, "learning_rate": 0.1}},
        "policy": policy,
    }
    model = account.post("/v1/models", body)["id"]
    import_file(account, model, trained_elsewhere(file, body, tmp_path).read_bytes())
    request = account.delete(dataset, [str(file["ids"][0])])
    account.work()
    assert account.get(f"/v1/deletion-requests/{request['id']}")["status"] == "fulfilled"
    own = account.get(f"/v1/models/{model}/versions/2/audit")["report"]
    assert (own["of"], own["canaries"], own["judgement"]["reason"]) == ("forget-set", half, "no references")
    job = account.post(f"/v1/models/{model}:audit", {"canaries": True}, 202)["id"]
    account.work()
    report = account.get(f"/v1/jobs/{job}/audit")["report"]
    judgement = report["judgement"]
    assert (report["of"], judgement["null_source"], judgement["null"]) == ("canaries", "assigned", 0.5)
    assert report["references"] is None
    assert judgement["verdict"] == ("pass" if honest else "fail"), judgement["reason"]
    assert account.get(f"/v1/models/{model}/versions/2/audit")["report"] == own, "no request's verdict is set by it"
    page = account.http.get(
        f"/v1/models/{model}/versions/2/audits/{account.get(f'/v1/jobs/{job}')['result']['audit']}",
        headers={"Accept": "text/html"},
    ).text
    assert "Procedure verdict" in page


def import_file(account: Account, model: str, data: bytes) -> None:
    announced = {"digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "trained_on": "train-split"}
    account.post(f"/v1/models/{model}/versions", announced, 201)
    form = {"Content-Type": "application/vnd.safetensors"}
    assert account.http.put(f"/v1/models/{model}/versions/1/checkpoint", content=data, headers=form).status_code == 202
    account.work()


def trained_elsewhere(file: Any, body: Document, folder: Path) -> Path:
    """A checkpoint of a model that somebody trained on the canaries that were handed out, without this service."""
    architecture, recipe = body["architecture"], body["recipe"]
    network = places.architecture(architecture["name"])(
        places.parse("architectures", architecture["name"], architecture["params"]), 1, CLASSES, (SIDE, SIDE)
    )
    samples = Samples.from_arrays(file["images"], file["labels"], torch.device("cpu"))
    train = Recipe(places.recipe(recipe["name"]), places.parse("recipes", recipe["name"], recipe["params"]))
    train.train(network, samples, torch.arange(samples.n), seeding.generator(1, torch.device("cpu")), NullProgress())
    checkpoints.save(network, folder / "mine.safetensors", {})
    return folder / "mine.safetensors"
