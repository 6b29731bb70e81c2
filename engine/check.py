"""`lethe model check`: what an import would measure, on the client's own machine, before anything is sent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from torch import nn

from app.formats.checkpoint_header import CheckpointError
from app.formats.input_contract import ContractError, InputContract
from app.formats.manifest import SourceError
from app.formats.preprocessing import InputBody, with_file
from engine import agreement, checkpoints, evaluation, places
from engine.agreement import Stated
from engine.architectures import inputs
from engine.data.samples import RawData, Samples, gather
from engine.data.upload import load_content
from engine.errors import EngineError


def check(asked: dict[str, Any]) -> dict[str, Any]:
    """Measure a checkpoint as the service would.

    asked: `checkpoint` (a safetensors file) and `data` (a file that a dataset takes), as paths; `architecture`, a
    choice of the catalog; `input`, as a model has it; `stated`, as an announcement has it, or null; `holdout_fraction`
    and `seed`, as the dataset's source has them.

    Raises:
        CheckpointError, ContractError, EngineError, SourceError: what the service would refuse.
    """
    contract = InputBody.model_validate(asked["input"]).contract()
    raw = load_content(Path(asked["data"]), asked["holdout_fraction"], asked["seed"], contract=contract)
    classes = len(raw.class_names) if raw.class_names else int(raw.labels.max()) + 1
    order = contract.order(raw.class_names, classes)
    samples = Samples.from_arrays(raw.images, raw.labels)
    architecture = with_file(asked["architecture"], asked["input"])
    name, params = architecture["name"], architecture["params"]
    channels, height, width = samples.shape

    def build(other: InputContract) -> nn.Module:
        own = other.channels_of(channels)
        network = places.architecture(name)(places.parse("architectures", name, params), own, classes, (height, width))
        return inputs.attach(checkpoints.load(Path(asked["checkpoint"]), network), other, channels, order)

    stated = asked["stated"] or {}
    where = _where(raw, stated)
    rows = samples.labels.new_tensor(where)
    logits = evaluation.logits(build(contract), samples.images, rows).numpy()
    labels = raw.labels[where]
    given = Stated(stated.get("accuracy"), _logits(stated, order), stated.get("tolerance"))
    if given.empty:
        accuracy = float((logits.argmax(axis=1) == labels).mean())
        warning = agreement.no_better_than_chance(accuracy, labels)
        return {"accuracy": accuracy, "samples": len(where), "agrees": None, "warnings": [warning] if warning else []}
    found = agreement.compare(logits, labels, given)
    result = {"accuracy": found.accuracy, "samples": len(where), "agrees": found.agrees, "said": found.sentence}
    if not found.agrees:
        tried = agreement.tried(len(where))
        images = gather(samples.images, rows[tried.tolist()])
        result["causes"] = agreement.causes(build, contract, images, labels[tried], given.part(tried))
    return result


def _where(raw: RawData, stated: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    if "sample_ids" not in stated:
        held = np.flatnonzero(raw.holdout)
        return held if len(held) else np.arange(len(raw.labels))
    position = {name: place for place, name in enumerate(raw.ids)}
    if unknown := sum(name not in position for name in stated["sample_ids"]):
        raise SourceError(f"{unknown} of the `sample_ids` are not in the data")
    return np.array([position[name] for name in stated["sample_ids"]], dtype=np.int64)


def _logits(stated: dict[str, Any], order: list[int] | None) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    if "logits" not in stated:
        return None
    logits = np.array(stated["logits"], dtype=np.float64)
    return logits if order is None else logits[:, order]


if __name__ == "__main__":
    try:
        print(json.dumps(check(json.load(sys.stdin))))  # noqa: T201
    except (CheckpointError, ContractError, EngineError, SourceError, OSError) as error:
        sys.exit(f"lethe model check: {error}")
    except ValidationError as error:
        sys.exit(f"lethe model check: input: {error.errors()[0]['msg']}")
