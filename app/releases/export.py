"""A version as a folder that its own library loads: weights, configuration, preprocessing, a card, and code.

The folder is a zip without compression, made while it is sent. Weights keep the library's names. Normalisation was
never in them, so that the configuration of the preprocessing has it.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.orm import Session

from app.blobs.open import Blobs
from app.catalog.names import timm_sized
from app.core.errors import Unprocessable
from app.core.tables import Dataset, Model, Version
from app.formats.input_contract import ContractError, Geometry, InputContract
from app.formats.preprocessing import RESAMPLE
from app.models import records as models
from app.reports import model_card

Form = Literal["hugging-face", "plain"]
LIBRARIES = ("hugging_face", "timm")
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
DATE = (1980, 1, 1, 0, 0, 0)
PIECE = 2**20


@dataclass(frozen=True)
class Folder:
    """Small files by name, and the weights."""

    files: dict[str, bytes]
    weights: Weights


@dataclass(frozen=True)
class Weights:
    """A safetensors file: its header as it is written, where in the checkpoint the bytes after it are, and the dtype of
    most of its numbers."""

    header: bytes
    digest: str
    spans: list[tuple[int, int]]
    dtype: str


def folder(session: Session, blobs: Blobs, model: Model, version: Version, form: Form) -> Folder:
    """What a version is exported as.

    Raises:
        Unprocessable: the form is not one of the model's library.
    """
    if form == "hugging-face" and model.architecture not in LIBRARIES:
        raise Unprocessable(
            f"{model.architecture} is no architecture that such a folder holds; ask for the form `plain`.",
            kind="export-form",
        )
    dataset = session.get_one(Dataset, model.dataset_id)
    contract = models.input_of(model)
    names = _class_names(contract, dataset)
    shape = dataset.shape or [1, 1, 3]
    weights = _weights(blobs, version)
    files = {"README.md": _readme(session, model, version, contract, names, form)}
    if model.architecture == "hugging_face":
        config = _hugging_face(model.architecture_params["config"], names, contract, shape)
        files["config.json"] = _json({**config, "dtype": weights.dtype})
        if (processor := _preprocessor(contract, shape)) is not None:
            files["preprocessor_config.json"] = _json(processor)
        elif form == "hugging-face":
            raise _unsaid("preprocessor_config.json")
    elif model.architecture == "timm":
        if (made := _timm(model.architecture_params, names, contract, shape)) is not None:
            files["config.json"] = _json(made)
        elif form == "hugging-face":
            raise _unsaid("config.json")
    if form == "plain":
        about = {"architecture": model.architecture, "params": model.architecture_params}
        files["lethe.json"] = _json(
            {
                **about,
                "input": contract.model_dump(mode="json"),
                "shape": list(_seen(contract, shape)),
                "class_names": names,
            }
        )
        files["load.py"] = _code(model, len(names)).encode()
    return Folder(files, weights)


def _unsaid(file: str) -> Unprocessable:
    return Unprocessable(
        f"The library's `{file}` cannot say the geometry of this model's input, or its order of channels; ask for the "
        "form `plain`.",
        kind="export-form",
    )


def write(found: Folder, blobs: Blobs) -> Iterator[bytes]:
    """The zip, piece by piece."""
    room = _Room()
    with zipfile.ZipFile(room, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(found.files):
            archive.writestr(zipfile.ZipInfo(name, DATE), found.files[name])
            yield room.taken()
        with archive.open(zipfile.ZipInfo("model.safetensors", DATE), "w", force_zip64=True) as file:
            file.write(found.weights.header)
            for start, stop in found.weights.spans:
                for piece in blobs.read(found.weights.digest, start, stop):
                    file.write(piece)
                    yield room.taken()
    yield room.taken()


class _Room(io.RawIOBase):
    """What is written, until it is taken; nothing can be sought in it, so that the zip needs no second look."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        found, self._parts = b"".join(self._parts), []
        return found


def _weights(blobs: Blobs, version: Version) -> Weights:
    """The checkpoint under the names of its network, without what no network has.

    An imported one keeps its own names, so those of the network are kept beside it.
    """
    length = int.from_bytes(b"".join(blobs.read(version.digest, 0, 8)), "little")
    entries = json.loads(b"".join(blobs.read(version.digest, 8, 8 + length)))
    entries.pop("__metadata__", None)
    own: dict[str, str | None] = version.file_names or {}
    made: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    spans: list[tuple[int, int]] = []
    numbers: Counter[str] = Counter()
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        written = own.get(name, name)
        if written is None:
            continue
        start, stop = entry["data_offsets"]
        made[written] = {**entry, "data_offsets": [at, at + stop - start]}
        at += stop - start
        numbers[entry["dtype"]] += stop - start
        if spans and spans[-1][1] == 8 + length + start:
            start, _ = spans.pop()
        else:
            start += 8 + length
        spans.append((start, 8 + length + stop))
    text = json.dumps(made, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    kinds = [FLOATS[kind] for kind, _ in numbers.most_common() if kind in FLOATS]
    header = len(text).to_bytes(8, "little") + text
    return Weights(header, version.digest, [span for span in spans if span[0] < span[1]], [*kinds, "float32"][0])


def _class_names(contract: InputContract, dataset: Dataset) -> list[str]:
    """By output of the network."""
    named = contract.class_names or dataset.class_names or [None] * dataset.class_count
    return [name or f"LABEL_{label}" for label, name in enumerate(named)]


def _seen(contract: InputContract, shape: list[Any]) -> tuple[int, int, int]:
    """(H, W, C) that the network takes."""
    height, width, _ = contract.pixels_of(shape)
    return height, width, _channels(contract, shape)


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


# -- configurations --------------------------------------------------------------------------------


def _normalisation(contract: InputContract, channels: int) -> tuple[list[float], list[float]]:
    mean, std = list(contract.mean or (0.0,)), list(contract.std or (1.0,))
    return (mean * channels if len(mean) == 1 else mean), (std * channels if len(std) == 1 else std)


def _channels(contract: InputContract, shape: list[Any]) -> int:
    try:
        return contract.channels_of(int(shape[2]))
    except ContractError:
        return int(shape[2])


GENERAL = ("id2label", "label2id", "num_labels", "dtype", "torch_dtype")
"""Members of a `config.json` that are those of the exported version, not of the file that it came with."""


def _hugging_face(
    config: dict[str, Any], names: list[str], contract: InputContract, shape: list[Any]
) -> dict[str, Any]:
    own = {name: value for name, value in config.items() if name not in GENERAL}
    own["num_channels"] = _channels(contract, shape)
    own["architectures"] = own.get("architectures") or []  # without it the library fails at DeiT
    own["id2label"] = {str(number): name for number, name in enumerate(names)}
    own["label2id"] = {name: number for number, name in enumerate(names)}
    return own


def _pillow_resizes(geometry: Geometry, shape: list[Any]) -> bool:
    """Whether its resize is Pillow's, as those of the libraries are; or none."""
    if geometry.antialias or geometry.interpolation == "nearest" or geometry.resize is None:
        return True
    return _resized(geometry, shape) == tuple(shape[:2])


def _resized(geometry: Geometry, shape: list[Any]) -> tuple[int, int] | None:
    """Height and width before the crop; None where they depend on the picture."""
    if shape[0] is None or shape[1] is None:
        return geometry.resize if isinstance(geometry.resize, tuple) else None
    return geometry.resized(int(shape[0]), int(shape[1]))


def _preprocessor(contract: InputContract, shape: list[Any]) -> dict[str, Any] | None:
    """The contract as `preprocessor_config.json`; None: the library has no such resize, or order of channels."""
    mean, std = _normalisation(contract, _channels(contract, shape))
    found: dict[str, Any] = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
        "do_convert_rgb": len(mean) == 3,
        "do_resize": False,
        "do_center_crop": False,
    }
    geometry, kind = contract.geometry, "ViTImageProcessor"
    if contract.channel_order == "bgr":
        if any(mean) or any(value != 1 for value in std):
            return None  # the processor that turns channels round does not normalise
        found |= {"do_normalize": False, "do_flip_channel_order": True}
    if geometry is not None and not _pillow_resizes(geometry, shape):
        return None
    if geometry is not None and geometry.resize is not None:
        resize = geometry.resize
        exact = not isinstance(resize, int)
        size = {"height": resize[0], "width": resize[1]} if exact else {"shortest_edge": resize}  # type: ignore[index]
        found |= {"do_resize": True, "size": size, "resample": RESAMPLE.index(geometry.interpolation)}
    if geometry is not None and geometry.crop is not None:
        height, width, _ = _seen(contract, shape)
        found |= {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
    if "shortest_edge" in found.get("size", {}) or "crop_size" in found:
        kind = "BitImageProcessor"
    if contract.channel_order == "bgr":
        kind = "MobileViTImageProcessor"
    return {"image_processor_type": kind, **found}


def _timm(params: dict[str, Any], names: list[str], contract: InputContract, shape: list[Any]) -> dict[str, Any] | None:
    """The contract as timm's `config.json`; None: timm has no such resize or crop, or order of channels."""
    if contract.channel_order == "bgr":
        return None
    channels = _channels(contract, shape)
    mean, std = _normalisation(contract, channels)
    geometry = contract.geometry or Geometry(resize=(int(shape[0]), int(shape[1])), interpolation="bicubic")
    height, width, _ = _seen(contract, shape)
    large, fraction = _resized(geometry, shape), 1.0
    # A square crop of the shorter side, or both sides alike: timm has the size before the crop as a fraction of it.
    square = geometry.crop is not None and isinstance(geometry.resize, int) and height == width
    if geometry.crop is not None:
        if square and isinstance(geometry.resize, int):
            pairs = [(height, geometry.resize)]
        elif large is None:
            return None
        else:
            pairs = [(height, large[0]), (width, large[1])]
        found = _fraction(pairs)
        if found is None:
            return None
        fraction = found
    if not _pillow_resizes(geometry, shape):
        return None
    sized = {"fixed_input_size": True} if params["name"] in timm_sized() else {}
    pool: dict[str, Any] = {}
    if params.get("global_pool"):  # timm builds with the arguments, and names the pooling beside them
        pool = {"global_pool": params["global_pool"], "model_args": {"global_pool": params["global_pool"]}}
    return {
        "architecture": params["name"],
        "num_classes": len(names),
        **pool,
        "label_names": names,
        "pretrained_cfg": {
            "input_size": [channels, height, width],
            **sized,
            "interpolation": geometry.interpolation,
            "crop_pct": fraction,
            "crop_mode": "center" if square else "squash",
            "mean": mean,
            "std": std,
            "num_classes": len(names),
        },
    }


def _fraction(pairs: list[tuple[int, int]]) -> float | None:
    """What divides each (side after the crop, side before it) as timm divides them: it cuts to whole pixels."""
    for within in (0.0, 0.5):
        fraction = pairs[0][0] / (pairs[0][1] + within)
        if all(math.floor(after / fraction) == before for after, before in pairs):
            return fraction
    return None


# -- the card and the code -------------------------------------------------------------------------


def _readme(
    session: Session, model: Model, version: Version, contract: InputContract, names: list[str], form: Form
) -> bytes:
    lines = [
        model_card.model_card(session, model, version).rstrip(),
        "",
        "## Input and classes",
        "",
        f"Input contract: `{contract.model_dump_json(exclude={'class_names'}, exclude_none=True)}`",
        "",
        *(f"{number}. {_plain(name)}" for number, name in enumerate(names)),
        "",
        "## Load it",
        "",
        "```python",
        _code(model, len(names)).strip() if form == "plain" else _library_code(model),
        "```",
        "",
    ]
    return "\n".join(lines).encode()


def _plain(name: str) -> str:
    return "".join(f"\\{character}" if character in "\\`*_{}[]()<>#+-!|" else character for character in name)


def _library_code(model: Model) -> str:
    if model.architecture == "timm":
        return 'import timm\n\nmodel = timm.create_model("local-dir:FOLDER", pretrained=True).eval()'
    return (
        "from transformers import AutoImageProcessor, AutoModelForImageClassification\n\n"
        'model = AutoModelForImageClassification.from_pretrained("FOLDER")\n'
        'processor = AutoImageProcessor.from_pretrained("FOLDER")'
    )


CODE = '''"""Loads the weights beside this file into the network that they are of."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parent
ABOUT = json.loads((FOLDER / "lethe.json").read_text())


def load():
    """The network, in eval mode. It takes what `prepare` makes."""
    classes = {classes}
{network}
    state = model.state_dict()
    kept = load_file(FOLDER / "model.safetensors")
    lacking = [name for name in state if name not in kept and not name.endswith("num_batches_tracked")]
    if lacking or kept.keys() - state.keys():
        raise ValueError(f"the weights are of another network: {{[*lacking, *(kept.keys() - state.keys())][:5]}}")
    state.update({{name: tensor.to(state[name].dtype) for name, tensor in kept.items()}})
    model.load_state_dict(state)
    return model.eval()


def prepare(pixels):
    """Pixels (n, C, H, W) of [0, 1], resized and cropped as `input.geometry` says, as the network takes them."""
    mean, std = (torch.tensor(ABOUT["input"][name] or [default]) for name, default in (("mean", 0.0), ("std", 1.0)))
    pixels = pixels.expand(-1, ABOUT["shape"][2], -1, -1)
    if ABOUT["input"].get("channel_order") == "bgr":
        pixels = pixels.flip(1)
    return (pixels - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
'''


def _code(model: Model, classes: int) -> str:
    if model.architecture == "torchvision":
        network = [
            "import torchvision",
            "",
            'name = ABOUT["params"]["name"]',
            'more = {"image_size": ABOUT["shape"][0]} if name.startswith("vit_") else {}',
            'more |= {"input_size": tuple(ABOUT["shape"][:2])} if name.startswith("maxvit_") else {}',
            'more |= {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}',
            "model = torchvision.models.get_model(name, weights=None, num_classes=classes, **more)",
        ]
    elif model.architecture == "timm":
        network = [
            "import timm",
            "",
            'name, (height, width, channels) = ABOUT["params"]["name"], ABOUT["shape"]',
            "sized = timm.get_pretrained_cfg(name, allow_unregistered=True).fixed_input_size",
            'more = {"img_size": (height, width)} if sized else {}',
            'more |= {"global_pool": ABOUT["params"]["global_pool"]} if ABOUT["params"].get("global_pool") else {}',
            "model = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels, **more)",
        ]
    elif model.architecture == "hugging_face":
        network = [
            "from transformers import AutoModelForImageClassification",
            "",
            "return AutoModelForImageClassification.from_pretrained(FOLDER).eval()",
        ]
        return CODE.partition("    state = ")[0].format(classes=classes, network=_indented(network)) + _after_load()
    else:
        network = [
            "from engine import places  # of Lethe's checkout, with its plug-ins",
            "",
            'params = places.parse("architectures", ABOUT["architecture"], ABOUT["params"])',
            'height, width, channels = ABOUT["shape"]',
            'model = places.architecture(ABOUT["architecture"])(params, channels, classes, (height, width))',
        ]
    return CODE.format(classes=classes, network=_indented(network))


def _indented(lines: list[str]) -> str:
    return "\n".join(f"    {line}" if line else "" for line in lines)


def _after_load() -> str:
    return "\n\n" + "def prepare" + CODE.partition("def prepare")[2].format()
