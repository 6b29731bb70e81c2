"""Models of torchvision, timm and Hugging Face from their own training to an unlearned folder that they load again.

A base is trained on five classes in the library's own usual way, and fine-tuned on the other five. The pictures are
those of CIFAR-10 where its folder lies beside the checkout, else the digits.
"""

from __future__ import annotations

import importlib
import io
import itertools
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from app import catalog
from app.core.tables import Model as ModelRow
from engine import evaluation, places
from engine.data.samples import to_float
from engine.data.torchvision_ops import import_torchvision
from tests.helpers import SAFETENSORS, digest_of
from tests.support import Account, Document
from worker.stages.loaded import LoadedModel

pytestmark = pytest.mark.validation
CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar10" / "train.parquet"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIRST = tuple(f"class {number}" for number in range(5))
OTHERS = tuple(f"class {number}" for number in range(5, 10))


def pictures(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 32, 32, 3) and labels of ten classes, `count` of each."""
    if CIFAR.exists():
        import pyarrow.parquet as parquet

        table = parquet.ParquetFile(CIFAR).read_row_group(0)
        own = {name.lower(): name for name in table.column_names}
        labels = np.array(table[own.get("label", table.column_names[-1])].to_pylist())
        rows = np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(10)])
        cells = table[own.get("image", own.get("img", table.column_names[0]))].take(rows).to_pylist()
        files = [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells]
        return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]), labels[rows]
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = np.concatenate([np.flatnonzero(digits.target == label)[:count] for label in range(10)])
    images = np.kron(np.uint8(digits.images[rows] * 15.9)[..., None], np.ones((1, 4, 4, 3), np.uint8))
    return images, digits.target[rows].astype(np.int64)


@dataclass(frozen=True)
class Library:
    """How one library builds, prepares and loads.

    build: a network of five classes. prepare: images to what the network takes, from the folder of its files.
    write: what its user saves beside the weights, and the model's `input` of that; classes have the given names.
    again: the network of an exported folder.
    """

    architecture: Document
    build: Callable[[int], nn.Module]
    prepare: Callable[[NDArray[np.uint8], Path], Tensor]
    write: Callable[[nn.Module, Path, int, tuple[str, ...]], Any]
    again: Callable[[Path, int], nn.Module]
    form: str


def timm() -> Any:
    import_torchvision()
    importlib.import_module("timm.data")
    return importlib.import_module("timm")


def transformers() -> Any:
    import_torchvision()
    found = importlib.import_module("transformers")
    found.utils.logging.disable_progress_bar()
    return found


# -- torchvision -----------------------------------------------------------------------------------


def of_torchvision() -> Library:
    def build(_: int) -> nn.Module:
        network: nn.Module = import_torchvision().models.shufflenet_v2_x0_5(num_classes=5)
        return network

    def prepare(images: NDArray[np.uint8], folder: Path) -> Tensor:
        import_torchvision()
        transforms = importlib.import_module("torchvision.transforms")
        side = json.loads((folder / "side.json").read_text())
        steps = [transforms.Resize(side), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        return torch.stack([transforms.Compose(steps)(Image.fromarray(image)) for image in images])

    def write(_: nn.Module, folder: Path, side: int, names: tuple[str, ...]) -> Any:
        (folder / "side.json").write_text(json.dumps(side))
        return {"geometry": {"resize": side}, "mean": MEAN, "std": STD, "class_names": names}

    def again(folder: Path, side: int) -> nn.Module:
        network = build(side)
        state = network.state_dict() | load_file(folder / "model.safetensors")
        network.load_state_dict(state)
        return network

    named = {"name": "torchvision", "params": {"name": "shufflenet_v2_x0_5"}}
    return Library(named, build, prepare, write, again, "plain")


# -- timm ------------------------------------------------------------------------------------------


def of_timm() -> Library:
    def build(side: int) -> nn.Module:
        config = {"input_size": (3, side, side), "crop_pct": 0.875, "interpolation": "bicubic"}
        network: nn.Module = timm().create_model("test_byobnet", num_classes=5, pretrained_cfg_overlay=config)
        return network

    def prepare(images: NDArray[np.uint8], folder: Path) -> Tensor:
        own = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
        named = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
        transform = timm().data.create_transform(**{name: own[name] for name in named})
        return torch.stack([transform(Image.fromarray(image)) for image in images])

    def write(network: nn.Module, folder: Path, _: int, names: tuple[str, ...]) -> Any:
        hub = importlib.import_module("timm.models._hub")
        hub.save_config_for_hf(network, folder / "config.json", model_config={"label_names": list(names)})
        return {"timm": json.loads((folder / "config.json").read_text())}

    def again(folder: Path, side: int) -> nn.Module:
        network: nn.Module = timm().create_model(f"local-dir:{folder}", pretrained=True)
        return network

    return Library({"name": "timm"}, build, prepare, write, again, "hugging-face")


# -- Hugging Face ----------------------------------------------------------------------------------


class _Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(pixel_values=pixels).logits
        return logits


def of_hugging_face() -> Library:
    def own(side: int) -> dict[str, Any]:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        return {"model_type": "vit", "image_size": side, "patch_size": side // 8, **sizes}

    def build(side: int) -> nn.Module:
        config = transformers().AutoConfig.for_model(**own(side), num_labels=5)
        return _Logits(transformers().AutoModelForImageClassification.from_config(config))

    def prepare(images: NDArray[np.uint8], folder: Path) -> Tensor:
        # Pillow resizes, as it decodes: the other implementation of the processor differs by a grey level.
        processor = transformers().AutoImageProcessor.from_pretrained(folder, backend="pil")
        pixels: Tensor = processor(images=list(images), return_tensors="pt")["pixel_values"]
        return pixels

    def write(network: nn.Module, folder: Path, side: int, names: tuple[str, ...]) -> Any:
        network.network.config.id2label = dict(enumerate(names))  # type: ignore[union-attr]
        network.network.config.label2id = {name: number for number, name in enumerate(names)}  # type: ignore[union-attr]
        transformers().ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
        network.network.save_pretrained(folder)  # type: ignore[operator, union-attr]
        files = ("config.json", "preprocessor_config.json")
        config, processor = (json.loads((folder / name).read_text()) for name in files)
        return {"hugging_face": {"config": config, "preprocessor": processor}}

    def again(folder: Path, side: int) -> nn.Module:
        return _Logits(transformers().AutoModelForImageClassification.from_pretrained(folder))

    return Library({"name": "hugging_face"}, build, prepare, write, again, "hugging-face")


# -- the whole way ---------------------------------------------------------------------------------


def fit(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    network.train()
    for rows in torch.randperm(len(images)).split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
        optimizer.step()
    network.eval()


def with_a_new_head(network: nn.Module) -> None:
    """As fine-tuning begins: a head of random weights on the base's body."""
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    head.reset_parameters()


@torch.no_grad()
def answers(network: nn.Module, pixels: Tensor) -> Tensor:
    return torch.cat([network(part) for part in pixels.split(64)])


def upload(account: Account, images: NDArray[np.uint8], labels: NDArray[np.int64], held: NDArray[np.bool_]) -> str:
    made = account.post("/v1/datasets", {"name": "theirs", "source": {"name": "upload"}})["id"]
    buffer = io.BytesIO()
    ids = np.array([f"p{number}-{images[number].sum()}" for number in range(len(labels))])
    np.savez(buffer, images=images, labels=labels, ids=ids, holdout=held)
    headers = {"Content-Type": "application/x-npz"}
    assert account.http.put(f"/v1/datasets/{made}/content", content=buffer.getvalue(), headers=headers).is_success
    account.work()
    return str(made)


def imported(account: Account, model: str, file: Path, stated: Document | None) -> Document:
    data = file.read_bytes()
    body = {"digest": digest_of(data), "trained_on": "train-split"} | ({"stated": stated} if stated else {})
    account.post(f"/v1/models/{model}/versions", body)
    sent = account.http.put(
        f"/v1/models/{model}/versions/1/checkpoint", content=data, headers={"Content-Type": SAFETENSORS}
    )
    assert sent.is_success, sent.text
    account.work()
    job = account.get(f"/v1/jobs/{sent.json()['id']}")
    assert job["state"] == "succeeded", job["problem"]
    return account.get(f"/v1/models/{model}/versions/1")


def weights_of(network: nn.Module, folder: Path) -> Path:
    if (folder / "model.safetensors").exists():
        return folder / "model.safetensors"  # the library wrote it
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "model.safetensors"
    )
    return folder / "model.safetensors"


def loaded(account: Account, model: str) -> LoadedModel:
    with account.database.read() as session:
        row = session.get_one(ModelRow, model)

    class Claim:
        id, model_id, dataset_id = "job_x", model, row.dataset_id

    return LoadedModel.load(account.resources, Claim())  # type: ignore[arg-type]


LIBRARIES = {"torchvision": of_torchvision, "timm": of_timm, "hugging_face": of_hugging_face}
QUICK = ("hugging_face", 64)  # the others are held by the same lines, and take longer


def ways() -> Iterator[Any]:
    for name, (side, each) in itertools.product(LIBRARIES, ((64, 52), (224, 8))):
        marks = [] if name == "torchvision" else [pytest.mark.libraries]
        marks += [] if (name, side) == QUICK else [pytest.mark.slow]
        yield pytest.param(LIBRARIES[name], side, each, id=f"{name}-{side}", marks=marks)


@pytest.mark.parametrize(("library", "side", "each"), list(ways()))
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_from_the_librarys_training_to_an_unlearned_folder_that_it_loads(
    account: Account, tmp_path: Path, library: Callable[[], Library], side: int, each: int
) -> None:
    own = library()
    torch.manual_seed(0)
    images, labels = pictures(each)
    held = np.arange(len(labels)) % 2 == 0 if each > 50 else np.arange(len(labels)) % 4 == 0
    first = labels < 5
    base_folder, folder = tmp_path / "base", tmp_path / "tuned"
    base_folder.mkdir()
    folder.mkdir()

    network = own.build(side)
    own.write(network, base_folder, side, FIRST)
    pixels = own.prepare(images, base_folder)
    fit(network, pixels[first & ~held], torch.from_numpy(labels[first & ~held]))
    given_base = own.write(network, base_folder, side, FIRST)  # a library's own file of weights is written again
    base_file = weights_of(network, base_folder)
    with_a_new_head(network)
    others, their_labels, their_held = images[~first], labels[~first] - 5, held[~first]
    fit(network, pixels[~first & ~held], torch.from_numpy(their_labels[~their_held]))
    given = own.write(network, folder, side, OTHERS)
    file = weights_of(network, folder)
    theirs = answers(network, own.prepare(others, folder))
    accuracy = float((theirs.argmax(1).numpy() == their_labels)[their_held].mean())

    # In: the same logits on up to 256 samples, the same accuracy.
    dataset = upload(account, others, their_labels, their_held)
    recipe = {"name": "fine_tuned", "params": {"epochs": 1, "warmup_epochs": 0.5, "learning_rate": 0.001}}
    policy = {
        "method": {"name": "amun", "params": {"epochs": 1, "learning_rate": 0.0005}},
        "attack": {"name": "pgd_l2", "params": {"steps": 10}},
        "utility_floor": 0.9,
        "grace_seconds": 0,
        "on_inconclusive": "publish",
    }
    before = account.post(
        "/v1/models",
        {
            "name": "base",
            "dataset": upload(account, images[first], labels[first], held[first]),
            "architecture": own.architecture,
            "input": given_base,
        },
    )
    imported(account, before["id"], base_file, None)
    body = {"name": "tuned", "dataset": dataset, "architecture": own.architecture, "input": given}
    body |= {"base": {"model": "base"}, "recipe": recipe, "policy": policy}
    model = account.post("/v1/models", body)["id"]
    rows = np.arange(len(others))[:256]
    ids = [f"p{row}-{others[row].sum()}" for row in rows]
    stated = {"logits": theirs[rows].double().tolist(), "sample_ids": ids, "tolerance": 1e-4}
    version = imported(account, model, file, stated)
    assert version["metrics"]["stated"]["difference"] < 1e-4
    assert abs(version["metrics"]["accuracy_test"] - accuracy) < 1e-3

    # An adversarial example fools the library's network, after its normalisation and nothing else.
    service = loaded(account, model)
    where = service.on_device(np.flatnonzero(~their_held)[:12])
    seen, truth = to_float(service.samples.images[where]), service.samples.labels[where]
    entry = catalog.parse("attacks", "pgd_l2", {"steps": 10})
    result = places.attack("pgd_l2")(service.restore(version["digest"]), seen, truth, entry)
    assert result.found.any()
    mean, std = service.contract.mean, service.contract.std
    shaped = [torch.tensor(values or default).view(1, -1, 1, 1) for values, default in ((mean, (0.0,)), (std, (1.0,)))]
    fooled = answers(network, (result.images[result.found] - shaped[0]) / shaped[1]).argmax(1)
    assert (fooled != truth[result.found]).all()
    assert (fooled == result.labels[result.found]).all()

    # References and a deletion start from the base; the audit has RMIA on all four.
    job = account.post(f"/v1/models/{model}:references", {"count": 4})["id"]
    account.work()
    assert account.get(f"/v1/jobs/{job}")["state"] == "succeeded", account.get(f"/v1/jobs/{job}")["problem"]
    request = account.delete(dataset, [ids[row] for row in rows if not their_held[row]][:10], allow_data_loss=True)
    account.work()
    final = account.get(f"/v1/deletion-requests/{request['id']}")
    assert final["status"] == "fulfilled", (final, account.get("/v1/jobs", kind="unlearn")["items"][0]["problem"])
    report = account.get(f"/v1/models/{model}/versions/2/audit")["report"]
    assert report["references"]["models"] == 4
    assert report["judgement"]["verdict"] in ("pass", "fail", "inconclusive")

    # Out: the library loads the folder, and it scores what the service says.
    content = account.http.get(f"/v1/models/{model}/versions/2/export", params={"form": own.form}).content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(tmp_path / "unlearned")
    if own.form == "plain":
        own.write(network, tmp_path / "unlearned", side, OTHERS)
    again = own.again(tmp_path / "unlearned", side).eval()
    scored = answers(again, own.prepare(others[their_held], tmp_path / "unlearned")).argmax(1).numpy()
    said = account.get(f"/v1/models/{model}/versions/2")["metrics"]["accuracy_test"]
    assert abs(float((scored == their_labels[their_held]).mean()) - said) < 1e-3
    assert not torch.equal(
        evaluation.logits(service.restore(version["digest"]), seen), answers(again, (seen - shaped[0]) / shaped[1])
    )
