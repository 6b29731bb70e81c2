"""Families of torchvision, timm and Hugging Face through the service: imported as its library saved them, measured to
1e-4 of the library's own logits, and exported as what the library loads."""

from __future__ import annotations

import importlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from app.core.config import Settings
from app.formats.input_contract import Geometry, InputContract
from engine.data import geometry
from engine.data.torchvision_ops import import_torchvision
from tests.app.releases.test_export import loader
from tests.engine.architectures.test_libraries import HUGGING_FACE, TIMM, TORCHVISION, size_of, trained_a_step
from tests.helpers import SAFETENSORS, digest_of
from tests.support import Account, Document
from tests.trained import open_account

pytestmark = [
    pytest.mark.validation,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]
LARGE = {"vgg11_bn", "swin_tiny_patch4_window7_224", "vit_b_32", "convnext_tiny"}
"""Whose checkpoints are over 100 MB. `tests/engine/architectures/test_libraries.py` has them."""
QUICK = {"shufflenet_v2_x0_5", "ghostnet_050", "resnet"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IDS = [f"p{number}" for number in range(6)]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Account, Any]]:
    """An account with a dataset of six pictures, and the pictures."""
    images = np.random.default_rng(0).integers(0, 256, (len(IDS), 64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    held = np.arange(len(IDS)) % 3 == 0
    np.savez(buffer, images=images, labels=np.arange(len(IDS)) % 5, ids=np.array(IDS), holdout=held)
    with open_account(Settings(data_dir=tmp_path_factory.mktemp("families") / "data")) as account:
        made = account.post("/v1/datasets", {"name": "pictures", "source": {"name": "upload"}})["id"]
        kind = {"Content-Type": "application/x-npz"}
        assert account.http.put(f"/v1/datasets/{made}/content", content=buffer.getvalue(), headers=kind).is_success
        account.work()
        yield account, images


def families() -> Iterator[Any]:
    for library, names in (
        ("torchvision", (*TORCHVISION, "googlenet", "mobilenet_v2")),
        ("timm", TIMM),
        ("hugging_face", HUGGING_FACE),
    ):
        for name in names:
            if name not in LARGE:
                marks = [] if library == "torchvision" else [pytest.mark.libraries]
                marks += [] if name in QUICK else [pytest.mark.slow]
                yield pytest.param(library, name, id=f"{library}-{name}", marks=marks)


def built(library: str, name: str, side: int, folder: Path) -> tuple[nn.Module, Any, Document, Document]:
    """A network of the library's, what gives its logits, the architecture, and the model's `input`."""
    named: Document = {"name": library, "params": {"name": name}}
    given: Document = {"geometry": {"resize": [side, side]}, "mean": MEAN, "std": STD}
    if library == "torchvision":
        more = {"init_weights": False} if name == "googlenet" else {}
        network = import_torchvision().models.get_model(name, weights=None, num_classes=5, **more)
        return network, network, named, given
    if library == "timm":
        timm = importlib.import_module("timm")
        sized = {"img_size": (side, side)} if timm.get_pretrained_cfg(name).fixed_input_size else {}
        network = timm.create_model(name, pretrained=False, num_classes=5, **sized)
        return network, network, named, given
    transformers = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.for_model(name, num_labels=5, architectures=[], **HUGGING_FACE[name])
    network = transformers.AutoModelForImageClassification.from_config(config)
    network.save_pretrained(folder)
    transformers.ViTImageProcessor(
        size={"height": side, "width": side}, image_mean=list(MEAN), image_std=list(STD)
    ).save_pretrained(folder)
    files = {file: json.loads((folder / file).read_text()) for file in ("config.json", "preprocessor_config.json")}
    both = {"config": files["config.json"], "preprocessor": files["preprocessor_config.json"]}
    return network, lambda pixels: network(pixels).logits, {"name": library}, {"hugging_face": both}


def again(library: str, folder: Path) -> Any:
    if library == "torchvision":
        return loader(folder).load()
    if library == "timm":
        return importlib.import_module("timm").create_model(f"local-dir:{folder}", pretrained=True).eval()
    network = importlib.import_module("transformers").AutoModelForImageClassification.from_pretrained(folder).eval()
    return lambda pixels: network(pixels).logits


def seen(images: Any, side: int) -> Tensor:
    """As the contract says it; `engine.data.geometry` is held against the libraries elsewhere."""
    contract = InputContract(geometry=Geometry(resize=(side, side)))
    pixels = torch.from_numpy(np.stack([geometry.prepared(image, contract) for image in images]))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous()


@pytest.mark.parametrize(("library", "name"), list(families()))
def test_a_family_comes_in_and_goes_out(theirs: tuple[Account, Any], tmp_path: Path, library: str, name: str) -> None:
    account, images = theirs
    import_torchvision()
    torch.manual_seed(0)
    side = 32 if library == "hugging_face" else size_of(name, 64)[0]
    network, logits, named, given = built(library, name, side, tmp_path)
    pixels = seen(images, side)
    trained_a_step(_Answers(network, logits), pixels[:3])
    with torch.no_grad():
        wanted = logits(pixels)
    if library == "hugging_face":
        network.save_pretrained(tmp_path)
    else:
        state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
        save_file(state, tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()

    dataset = account.get("/v1/datasets")["items"][0]["id"]
    model = account.post("/v1/models", {"name": name, "dataset": dataset, "architecture": named, "input": given})["id"]
    stated = {"logits": wanted.double().tolist(), "sample_ids": IDS, "tolerance": 1e-4}
    where = f"/v1/models/{model}/versions"
    account.post(where, {"digest": digest_of(data), "trained_on": "train-split", "stated": stated})
    job = account.http.put(f"{where}/1/checkpoint", content=data, headers={"Content-Type": SAFETENSORS}).json()["id"]
    account.work()
    found = account.get(f"/v1/jobs/{job}")
    assert found["state"] == "succeeded", found["problem"]

    form = "plain" if library == "torchvision" else "hugging-face"
    content = account.http.get(f"{where}/1/export", params={"form": form}).content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(tmp_path / "out")
    with torch.no_grad():
        assert torch.allclose(again(library, tmp_path / "out")(pixels), wanted, atol=1e-5)


class _Answers(nn.Module):
    """A network whose logits are taken out of what it answers with."""

    def __init__(self, network: nn.Module, logits: Any) -> None:
        super().__init__()
        self.network, self.logits = network, logits

    def forward(self, pixels: Tensor) -> Any:
        found = self.logits(pixels)
        return getattr(found, "logits", found)  # googlenet in training answers with three
