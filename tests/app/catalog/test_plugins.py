"""Plug-ins in the catalog: their schemas as parameters, and one of an own module from registration to a deletion."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app import catalog
from app.catalog.plugins import entry_of
from lethe.plugins import Entry, PluginError
from tests.support import environment


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def plugin(parameters: dict[str, Any], **more: Any) -> Entry:
    return Entry("methods", "mine", "A method of mine.", "mine.torch_part:method", parameters, **more)


def test_a_schema_becomes_parameters() -> None:
    made = entry_of(
        plugin(
            schema(
                epochs={"type": "integer", "minimum": 1, "maximum": 9, "default": 3, "description": "how long"},
                rate={"type": "number", "exclusiveMinimum": 0, "default": 0.5},
                norm={"enum": ["l1", "l2"], "default": "l1"},
                layers={"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2, "default": []},
                seed={"type": ["integer", "null"], "default": None},
                word={"type": "string", "pattern": "^[a-z]+$", "default": "a"},
            ),
            facts={"needs_remain": True},
        )
    )
    assert (made.plugin, made.needs_remain, made.place) == (True, True, "mine.torch_part:method")
    params = made.params.model_validate({"epochs": 5, "layers": ["a"], "seed": 4})
    assert params.model_dump() == {"epochs": 5, "rate": 0.5, "norm": "l1", "layers": ("a",), "seed": 4, "word": "a"}
    shown = made.params.model_json_schema()
    assert shown["properties"]["epochs"] | {"title": ""} == {
        "type": "integer", "minimum": 1, "maximum": 9, "default": 3, "description": "how long", "title": "",
    }  # fmt: skip
    for wrong in (
        {"epochs": 0}, {"epochs": 2.5}, {"epochs": True}, {"rate": 0}, {"rate": float("nan")}, {"norm": "l3"},
        {"layers": ["a", "b", "c"]}, {"layers": ["abcdef"]}, {"word": "A"}, {"other": 1},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            made.params.model_validate(wrong)


def test_a_required_parameter_has_no_default() -> None:
    parameters = {**schema(rate={"type": "number"}), "required": ["rate"]}
    with pytest.raises(ValidationError, match="rate"):
        entry_of(plugin(parameters)).params.model_validate({})


@pytest.mark.parametrize(
    ("parameters", "facts", "reason"),
    [
        (schema(a={"type": "object", "default": {}}), {}, "`a` has the type object, which is not known here"),
        (schema(a={"type": "integer", "default": 1, "format": "x"}), {}, "`a` has format, which is not known here"),
        (schema(), {"needs_luck": True}, "unknown facts needs_luck"),
    ],
)
def test_what_parameters_cannot_hold_is_refused(parameters: Any, facts: Any, reason: str) -> None:
    with pytest.raises(PluginError, match=reason):
        entry_of(plugin(parameters, facts=facts))


# -- an own module ---------------------------------------------------------------------------------

ENTRIES = """
from lethe.plugins import Entry

WIDTH = {"type": "integer", "minimum": 1, "maximum": 64, "default": 8}
NETWORK = Entry(
    "architectures", "own_net", "A network of ours.", "own_parts:build",
    {"type": "object", "properties": {"width": WIDTH}, "additionalProperties": False},
)
RATE = {"type": "number", "exclusiveMinimum": 0, "default": 0.01}
METHOD = Entry(
    "methods", "own_method", "Raises the loss a little.", "own_parts:method",
    {"type": "object", "properties": {"rate": RATE}, "additionalProperties": False},
)
"""
PARTS = """
import torch
from torch import nn

def build(params, channels, num_classes, size):
    layers = nn.Conv2d(channels, params.width, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4 * params.width, num_classes))

def method(model, split, params, adversarial, context):
    images = split.samples.images[split.forget].float() / 255
    loss = nn.functional.cross_entropy(model.eval()(images), split.samples.labels[split.forget])
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter += params.rate * gradient
    return model
"""
RUN = """
import json, sys
from pathlib import Path
from app.core.config import Settings
from tests.support import QUICK_MODEL, QUICK_POLICY
from tests.trained import open_account

with open_account(Settings(data_dir=Path(sys.argv[1]))) as account:
    assert "torch" not in sys.modules
    listed = account.get("/v1/catalog")
    dataset = account.digits()["id"]
    body = {
        "name": "own", "dataset": dataset, "architecture": {"name": "own_net", "params": {"width": 4}},
        "recipe": QUICK_MODEL["recipe"], "policy": QUICK_POLICY | {"method": {"name": "own_method"}},
    }
    model = account.post("/v1/models", body)["id"]
    account.post(f"/v1/models/{model}:train")
    account.work()
    made = account.delete(dataset, account.training_ids(dataset)[:2], allow_data_loss=True)
    account.work()
    wrong = account.http.post("/v1/models", json=body | {"architecture": {"name": "own_net", "params": {"width": 0}}})
    print(json.dumps({
        "network": listed["architectures"]["own_net"], "method": listed["methods"]["own_method"],
        "model": account.get(f"/v1/models/{model}"), "wrong": wrong.json(),
        "version": account.get(f"/v1/models/{model}/versions/2"),
        "request": account.get(f"/v1/deletion-requests/{made['id']}")["status"],
    }))
"""


def install(folder: Path, entries: str, parts: str = PARTS) -> None:
    (folder / "own_entries.py").write_text(entries)
    (folder / "own_parts.py").write_text(parts)
    metadata = folder / "own-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    points = "[lethe.plugins]\nnetwork = own_entries:NETWORK\nmethod = own_entries:METHOD\n"
    (metadata / "entry_points.txt").write_text(points)


def run(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = environment(folder)
    env["PYTHONPATH"] = f"{Path.cwd()}:{folder}:{env.get('PYTHONPATH', '')}"
    return subprocess.run([sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True)


def test_an_own_module_is_listed_trained_and_unlearned(tmp_path: Path) -> None:
    install(tmp_path, ENTRIES)
    done = run(tmp_path, RUN, str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["network"]["plugin"]
    assert found["network"]["params"]["properties"]["width"]["maximum"] == 64
    assert found["method"]["summary"] == "Raises the loss a little."
    assert "width: Input should be greater than or equal to 1" in str(found["wrong"])
    assert found["model"]["architecture"] == {"name": "own_net", "params": {"width": 4}}
    assert found["version"]["origin"] == "unlearned"
    assert found["request"] == "fulfilled"


def test_a_plug_in_with_a_name_of_the_catalogs_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    install(tmp_path, ENTRIES.replace('"own_net"', '"small_cnn"'))
    done = run(tmp_path, "import app.catalog")
    assert done.returncode == 1
    assert "`small_cnn` of architectures has a name of the catalog's own; rename it" in done.stderr


def test_without_plug_ins_only_libraries_are_special() -> None:
    assert {
        catalog.special(kind, name) for kind, table in catalog.KINDS.items() for name in table if table[name].module
    } == {"architectures/timm", "architectures/hugging_face"}
    assert catalog.special("architectures", "small_cnn") is None
