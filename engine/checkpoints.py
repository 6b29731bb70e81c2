"""Checkpoints: safetensors files of a model's parameters and buffers."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from app.formats.checkpoint_header import CheckpointError, read_header
from app.formats.checkpoint_names import Match, match

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}

FILE_NAMES = "file_names"
"""Attribute of a network whose library writes its tensors under other names than it has them: from own to written."""
IGNORED = "ignored_names"
"""Attribute of a network with beginnings of names of tensors that its library's files may have and that it goes
without, such as those of a second head for training."""


@dataclass(frozen=True)
class Expected:
    """What a checkpoint of a network has. tensors: dtype and shape by the name in the file. aliases: other names.
    ignored: see `IGNORED`."""

    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
    aliases: Mapping[str, str]
    ignored: tuple[str, ...] = ()


def expected_tensors(model: nn.Module) -> Expected:
    """Return dtype and shape of every tensor that a checkpoint of `model` must hold."""
    names = _file_names(model)
    tensors = {names.get(name, name): tensor for name, tensor in model.state_dict().items()}
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    return Expected(shapes, names, tuple(getattr(model, IGNORED, ())))


def _file_names(model: nn.Module) -> Mapping[str, str]:
    found: Mapping[str, str] = getattr(model, FILE_NAMES, {})
    return found


def save(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the parameters and buffers of `model` to `path`. Equal content gives equal bytes.

    The library's own writer orders metadata at random, so that digests would differ from run to run.
    """
    names = _file_names(model)
    state = {names.get(name, name): tensor for name, tensor in model.state_dict().items()}
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in sorted(state.items(), key=lambda item: (-item[1].itemsize, item[0]))
    }
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    at = 0
    for name, tensor in tensors.items():
        span = [at, at := at + tensor.nbytes]
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(_bytes(tensor))


def load(path: Path, model: nn.Module) -> nn.Module:
    """Check the file at `path` against `model`, load it in place and return the model.

    Its names may have the prefixes of `app.formats.checkpoint_names`, its numbers half the precision, and counters of
    batches may be missing: they are 0 then.

    Raises:
        CheckpointError: see `check`.
    """
    found = check(path, expected_tensors(model)).names
    names = _file_names(model)
    state: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as file:
        for name, tensor in model.state_dict().items():
            there = found.get(names.get(name, name))
            state[name] = torch.zeros_like(tensor) if there is None else file.get_tensor(there).to(tensor.dtype)
    return fill(model, state)


def load_body(path: Path, model: nn.Module, head: Collection[str]) -> nn.Module:
    """Load all of the file at `path` but the tensors `head` of `model`, which stay as they are.

    Raises:
        CheckpointError: see `check`.
    """
    whole = expected_tensors(model)
    names = _file_names(model)
    written = {names.get(name, name) for name in head}
    body = {name: spec for name, spec in whole.tensors.items() if name not in written}
    found = check(path, Expected(body, whole.aliases, (*whole.ignored, *head, *written))).names
    state = model.state_dict()
    with safe_open(path, framework="pt") as file:
        for name, tensor in state.items():
            if name not in head:
                there = found.get(names.get(name, name))
                state[name] = torch.zeros_like(tensor) if there is None else file.get_tensor(there).to(tensor.dtype)
    return fill(model, state)


def file_names(path: Path, model: nn.Module) -> dict[str, str | None]:
    """By the names of tensors in the file at `path` those that `save` writes, where they differ; None: `model` has no
    such tensor.

    Raises:
        CheckpointError: see `check`.
    """
    with path.open("rb") as raw:
        there = read_header(raw).tensors
    found = check(path, expected_tensors(model)).names
    own = {file: name for name, file in found.items()}
    return {file: own.get(file) for file in there if own.get(file) != file}


def fill(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load all tensors of `model` by name, in place. Some modules want the version of theirs beside the tensors."""
    whole = model.state_dict()
    if whole.keys() != state.keys():
        raise ValueError("these are not the tensors of the model")
    whole.update(state)
    model.load_state_dict(whole)
    return model


def check(path: Path, expected: Expected) -> Match:
    """Check that the file at `path` holds the tensors of `expected` and no others, all finite, and say under which
    names.

    The structure is checked before the safetensors library sees the file.

    Raises:
        CheckpointError: what is wrong, in words a client can act on.
    """
    with path.open("rb") as raw:
        tensors = read_header(raw).tensors
    wanted = {name: (NAMES[dtype], shape) for name, (dtype, shape) in expected.tensors.items()}
    found = match(tensors, wanted, expected.aliases, expected.ignored)
    with safe_open(path, framework="pt") as file:
        for name, there in found.names.items():
            tensor = file.get_tensor(there)
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"tensor {name}: it holds NaN or infinite values")
            if name.endswith("running_var") and tensor.numel() and tensor.min() < 0:
                raise CheckpointError(f"tensor {name}: a variance in it is negative, so the file is damaged")
    return found


def _bytes(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
