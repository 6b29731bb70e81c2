"""Versions as folders: what their own library loads answers as the service does."""

from __future__ import annotations

import importlib.util
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.core.tables import Model as ModelRow
from engine import evaluation
from engine.data.samples import to_float
from tests.helpers import is_problem
from tests.support import QUICK_MODEL, QUICK_POLICY
from tests.trained import Trained
from worker.stages.loaded import LoadedModel

NORMALISED = {"channels": 3, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
CONFIG = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
}  # fmt: skip


def trained_model(trained: Trained, architecture: Any, given: Any) -> str:
    body = {"name": "own *model*", "dataset": trained.dataset, **QUICK_MODEL, "policy": QUICK_POLICY}
    made = trained.account.post("/v1/models", body | {"architecture": architecture, "input": given})["id"]
    job = trained.account.post(f"/v1/models/{made}:train")["id"]
    trained.account.work()
    assert trained.account.get(f"/v1/jobs/{job}")["state"] == "succeeded", trained.account.get(f"/v1/jobs/{job}")
    return str(made)


def exported(trained: Trained, model: str, form: str, folder: Path) -> Path:
    response = trained.account.http.get(f"/v1/models/{model}/versions/1/export", params={"form": form})
    assert response.status_code == 200, response.text
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        archive.extractall(folder)
    return folder


def ours(trained: Trained, model: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of the model's copy of the dataset, and the service's logits of them."""
    with trained.account.database.read() as session:
        row = session.get_one(ModelRow, model)

    class Claim:
        id, model_id, dataset_id = "job_x", model, row.dataset_id

    loaded = LoadedModel.load(trained.account.resources, Claim())  # type: ignore[arg-type]
    digest = trained.account.get(f"/v1/models/{model}/versions/1")["digest"]
    images = to_float(loaded.samples.images[:64])
    return images, evaluation.logits(loaded.restore(digest), images)


def loader(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("exported_loader", folder / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def agrees(theirs: torch.Tensor, wanted: torch.Tensor) -> None:
    assert np.allclose(theirs.detach(), wanted, atol=1e-4), (theirs - wanted).abs().max()


@pytest.mark.parametrize(
    ("architecture", "given"),
    [
        ({"name": "torchvision", "params": {"name": "resnet18"}}, {**NORMALISED, "geometry": {"resize": 32}}),
        pytest.param(
            {"name": "timm", "params": {"name": "test_vit"}},
            {**NORMALISED, "geometry": {"resize": 160}},
            marks=pytest.mark.libraries,
        ),
        (QUICK_MODEL["architecture"], {"geometry": {"resize": 12}, "mean": [0.3]}),
    ],
)
def test_plain_weights_come_with_the_code_that_loads_them(
    trained: Trained, tmp_path: Path, architecture: Any, given: Any
) -> None:
    model = trained_model(trained, architecture, given)
    folder = exported(trained, model, "plain", tmp_path / "out")
    assert {path.name for path in folder.iterdir()} - {"config.json"} == {
        "README.md",
        "lethe.json",
        "load.py",
        "model.safetensors",
    }
    module, (images, wanted) = loader(folder), ours(trained, model)
    agrees(module.load()(module.prepare(images)), wanted)
    readme = (folder / "README.md").read_text()
    assert "own \\*model\\*" in readme
    assert "def load():" in readme
    hub = trained.account.http.get(f"/v1/models/{model}/versions/1/export?form=hugging-face")
    if architecture["name"] == "timm":
        assert hub.status_code == 200  # its own form of the same hub
    else:
        is_problem(hub, 422, "export-form")


@pytest.mark.libraries
@pytest.mark.parametrize("form", ["hugging-face", "plain"])
def test_a_folder_of_hugging_face_is_loaded_by_the_library(trained: Trained, tmp_path: Path, form: str) -> None:
    transformers = pytest.importorskip("transformers")
    names = [f"digit {number}" for number in range(10)]
    given = {**NORMALISED, "geometry": {"resize": [32, 32]}, "class_names": names}
    model = trained_model(trained, {"name": "hugging_face", "params": {"config": CONFIG}}, given)
    folder = exported(trained, model, form, tmp_path / "out")
    images, wanted = ours(trained, model)
    if form == "plain":
        module = loader(folder)
        agrees(module.load()(module.prepare(images)).logits, wanted)
        return
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    assert theirs.config.id2label[3] == "digit 3"
    config = json.loads((folder / "preprocessor_config.json").read_text())
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("image_mean", "image_std"))
    agrees(theirs((images.expand(-1, 3, -1, -1) - mean) / std).logits, wanted)
    assert config["size"] == {"height": 32, "width": 32}


@pytest.mark.libraries
def test_a_folder_of_timm_is_loaded_by_the_library(trained: Trained, tmp_path: Path) -> None:
    from engine.data.torchvision_ops import import_torchvision

    import_torchvision()
    timm = importlib.import_module("timm")
    given = {**NORMALISED, "geometry": {"resize": 36, "crop": 32}}
    model = trained_model(trained, {"name": "timm", "params": {"name": "test_resnet"}}, given)
    folder = exported(trained, model, "hugging-face", tmp_path / "out")
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images, wanted = ours(trained, model)
    config = timm.data.resolve_model_data_config(theirs)
    assert tuple(config["input_size"]) == (3, 32, 32)
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    agrees(theirs((images.expand(-1, 3, -1, -1) - mean) / std), wanted)


def test_what_may_not_leave_is_not_exported(trained: Trained) -> None:
    trained.forget(trained.ids[:2])
    response = trained.account.http.get(f"{trained.where}/versions/1/export")
    is_problem(response, 409, "version-withheld")
    assert trained.account.http.get(f"{trained.where}/versions/2/export").status_code == 200
