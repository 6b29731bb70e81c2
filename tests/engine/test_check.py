"""`lethe model check`: a checkpoint measured on the client's side as an import would measure it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from app.catalog import SmallCnnParams
from app.formats.checkpoint_header import CheckpointError
from engine import checkpoints, evaluation, seeding
from engine.architectures import small_cnn
from engine.check import check
from engine.data.samples import Samples

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)


def network():
    return seeding.seeded_model(lambda: small_cnn.build(SmallCnnParams(width=4), 1, 3), 1)


LOGITS = evaluation.logits(network(), Samples.from_arrays(IMAGES, np.zeros(40, dtype=np.int64)).images).numpy()
LABELS = LOGITS.argmax(axis=1)
LABELS[:3] = [0, 2, 1]
ACCURACY = float((LOGITS.argmax(axis=1) == LABELS).mean())


@pytest.fixture
def asked(tmp_path) -> dict[str, Any]:
    np.savez(
        tmp_path / "data.npz",
        images=IMAGES,
        labels=LABELS,
        ids=np.array([f"id-{row}" for row in range(40)]),
        holdout=np.array([True] * 39 + [False]),
    )
    checkpoints.save(network(), tmp_path / "c.safetensors", {})
    return {
        "checkpoint": str(tmp_path / "c.safetensors"),
        "data": str(tmp_path / "data.npz"),
        "architecture": {"name": "small_cnn", "params": {"width": 4}},
        "input": {},
        "stated": None,
        "holdout_fraction": 0.1,
        "seed": 0,
    }


def test_what_agrees_and_what_does_not(asked):
    held = float((LOGITS[:39].argmax(axis=1) == LABELS[:39]).mean())
    assert check(asked)["accuracy"] == pytest.approx(held)
    assert check(asked | {"stated": {"accuracy": held}})["agrees"] is True
    named = {"logits": LOGITS[[5, 3]].tolist(), "sample_ids": ["id-5", "id-3"]}
    assert check(asked | {"stated": named})["agrees"] is True
    found = check(asked | {"stated": named, "input": {"mean": [0.9], "std": [0.05]}})
    assert found["agrees"] is False
    assert "no normalisation" in found["causes"][0]


def test_as_a_program(asked):
    def run(**changes):
        given = json.dumps(asked | changes)
        return subprocess.run([sys.executable, "-m", "engine.check"], input=given, capture_output=True, text=True)

    assert json.loads(run().stdout)["samples"] == 39
    refused = run(input={"torchvision": "nothing"})
    assert refused.returncode == 1
    assert "lethe model check: input: Value error, torchvision has no such weights" in refused.stderr


def test_what_an_import_would_refuse(asked):
    with pytest.raises(CheckpointError, match="its shape is"):
        check(asked | {"architecture": {"name": "small_cnn", "params": {"width": 8}}})
