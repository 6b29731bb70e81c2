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
from safetensors.torch import load_file

from app.core.tables import Model as ModelRow
from app.formats import preprocessing
from app.formats.input_contract import Geometry, InputContract
from app.releases import export
from engine import evaluation
from engine.data.samples import to_float
from tests.app.releases.test_imports import announce, good, send
from tests.helpers import digest_of, is_problem, make_safetensors, read_safetensors
from tests.support import QUICK_MODEL, QUICK_POLICY
from tests.trained import Trained
from worker.stages.loaded import LoadedModel

pytestmark = pytest.mark.validation
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
            {**NORMALISED, "geometry": {"resize": 32}},
            marks=pytest.mark.libraries,
        ),
        (QUICK_MODEL["architecture"], {"geometry": {"resize": 12}, "mean": [0.3]}),
        (QUICK_MODEL["architecture"], {"channel_order": "bgr", "mean": [0.3, 0.4, 0.5]}),
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
@pytest.mark.parametrize("params", [{"name": "test_resnet"}, {"name": "test_vit", "global_pool": "avg"}])
def test_a_folder_of_timm_is_loaded_by_the_library(trained: Trained, tmp_path: Path, params: Any) -> None:
    """Also a transformer for another size than its own, which it is built for, and another pooling."""
    from engine.data.torchvision_ops import import_torchvision

    import_torchvision()
    timm = importlib.import_module("timm")
    given = {**NORMALISED, "geometry": {"resize": 36, "crop": 32}}
    model = trained_model(trained, {"name": "timm", "params": params}, given)
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


# -- configurations --------------------------------------------------------------------------------


def test_a_configuration_says_the_geometry_that_it_is_read_as() -> None:
    """Through the file and back, for every size before a crop, which timm has as a fraction of the crop."""
    for shape in ([96, 96, 3], [70, 90, 3]):
        for resize in range(20, 300):
            for crop in (resize, int(resize * 0.875), int(0.95 * resize), 17, resize + 3):
                given = InputContract(geometry=Geometry(resize=resize, crop=crop), channels=3)
                written = export._timm({"name": "resnet18"}, ["a", "b"], given, shape)
                assert written is not None, (resize, crop)
                found = preprocessing.from_timm(written).geometry
                assert found is not None
                assert found.resized(70, 90) == given.geometry.resized(70, 90), (resize, crop)  # type: ignore[union-attr]
                assert found.sides(70, 90) == given.geometry.sides(70, 90)  # type: ignore[union-attr]
                document = export._preprocessor(given, shape)
                assert document is not None
                again = preprocessing.from_hugging_face({}, document)
                assert again.geometry == Geometry(resize=resize, crop=(crop, crop))


def test_a_configuration_without_the_names_of_classifiers_is_written_with_the_member() -> None:
    for config in ({"model_type": "deit"}, {"model_type": "deit", "architectures": None}):
        assert export._hugging_face(config, ["a", "b"], InputContract(), [8, 8, 3])["architectures"] == []


def test_an_order_of_channels_that_a_library_cannot_say_is_not_exported_as_another() -> None:
    turned = InputContract(geometry=Geometry(resize=40, crop=32), channel_order="bgr", channels=3)
    document = export._preprocessor(turned, [64, 64, 3])
    assert document is not None
    again = preprocessing.from_hugging_face({}, document)
    assert again == turned.model_copy(update={"geometry": Geometry(resize=40, crop=(32, 32))})
    assert export._preprocessor(turned.model_copy(update={"mean": (0.5,)}), [64, 64, 3]) is None
    assert export._timm({"name": "resnet18"}, ["a", "b"], turned, [64, 64, 3]) is None


@pytest.mark.parametrize(
    ("geometry", "shape", "timm", "hugging_face"),
    [
        ({"resize": [40, 30]}, [96, 96, 3], True, True),
        ({"resize": 40}, [60, 90, 3], True, True),  # one size of images: as both sides
        ({"resize": [40, 40], "crop": [36, 36]}, [96, 96, 3], True, True),
        ({"resize": [40, 60], "crop": [36, 36]}, [96, 96, 3], False, True),
        ({"resize": 40, "antialias": False}, [96, 96, 3], False, False),
        ({"resize": 40, "antialias": False}, [40, 40, 3], True, True),  # nothing is resized
        ({"resize": 40, "antialias": False, "interpolation": "nearest"}, [96, 96, 3], True, True),
        ({"crop": 30}, [96, 96, 3], True, True),
        # pictures of different sizes
        ({"resize": [40, 30]}, [None, None, 3], True, True),
        ({"resize": 40, "crop": 36}, [None, None, 3], True, True),
        ({"resize": [40, 40], "crop": [36, 36]}, [None, None, 3], True, True),
        ({"resize": 40, "crop": [36, 30]}, [None, None, 3], False, True),
        ({"resize": 40, "crop": 36, "antialias": False}, [None, None, 3], False, False),
        ({"crop": 30}, [None, None, 3], False, True),
    ],
)
def test_a_geometry_that_a_library_cannot_say_is_not_exported_as_another(
    geometry: Any, shape: Any, timm: bool, hugging_face: bool
) -> None:
    contract = InputContract(geometry=Geometry.model_validate(geometry), channels=3)
    wanted = contract.pixels_of(shape)
    written = export._timm({"name": "resnet18"}, ["a", "b"], contract, shape)
    assert (written is not None) == timm
    assert written is None or preprocessing.from_timm(written).pixels_of(shape) == wanted
    document = export._preprocessor(contract, shape)
    assert (document is not None) == hugging_face
    assert document is None or preprocessing.from_hugging_face({}, document).pixels_of(shape) == wanted


# -- imported checkpoints --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "named",
    [
        lambda name: f"net.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"ema_model.module.{name}",
    ],
)
def test_an_imported_checkpoint_leaves_under_the_names_of_its_network(
    shared: Trained, tmp_path: Path, named: Any
) -> None:
    own = read_safetensors(good(shared))
    sent = {named(name): array for name, array in own.items() if not name.endswith("num_batches_tracked")}
    data = make_safetensors({"n_averaged": np.array(3, dtype=np.int64), **sent})
    made = shared.account.post("/v1/models", {"name": "own", "dataset": shared.dataset, **QUICK_MODEL})["id"]
    where = f"/v1/models/{made}/versions"
    announce(shared, where, digest_of(data))
    job = send(shared, where, data).json()["id"]
    shared.account.work()
    assert shared.account.get(f"/v1/jobs/{job}")["state"] == "succeeded", shared.account.get(f"/v1/jobs/{job}")
    folder = exported(shared, made, "plain", tmp_path / "out")
    kept = load_file(folder / "model.safetensors")
    assert kept.keys() == {name for name in own if not name.endswith("num_batches_tracked")}
    assert all(np.array_equal(kept[name].numpy(), own[name]) for name in kept)
    module, (images, wanted) = loader(folder), ours(shared, made)
    agrees(module.load()(module.prepare(images)), wanted)
    checkpoint = shared.account.http.get(f"{where}/1/checkpoint").content
    assert checkpoint == data, "the bytes, and so the digest, stay the owner's"
