"""Checkpoints: safetensors files of a model's parameters and buffers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from app.formats.checkpoint_header import CheckpointError, read_header

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MOST_NAMED = 5

Expected = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


def expected_tensors(model: nn.Module) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Return dtype and shape of every tensor that a checkpoint of `model` must hold."""
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in model.state_dict().items()}


def save(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the parameters and buffers of `model` to `path`. Equal content gives equal bytes.

    The library's own writer orders metadata at random, so that digests would differ from run to run.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in sorted(model.state_dict().items(), key=lambda item: (-item[1].itemsize, item[0]))
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


def _bytes(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def load(path: Path, model: nn.Module) -> nn.Module:
    """Check the file at `path` against `model`, load it in place and return the model.

    Raises:
        CheckpointError: see `check`.
    """
    check(path, expected_tensors(model))
    with safe_open(path, framework="pt") as file:
        model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return model


def check(path: Path, expected: Expected) -> None:
    """Check that the file at `path` holds exactly the tensors of `expected`, all finite.

    The structure is checked before the safetensors library sees the file.

    Raises:
        CheckpointError: the first thing that is wrong, in words a client can act on.
    """
    with path.open("rb") as raw:
        tensors = read_header(raw).tensors
    if missing := sorted(expected.keys() - tensors.keys()):
        raise CheckpointError(f"the architecture's tensors are missing: {_some(missing)}")
    if extra := sorted(tensors.keys() - expected.keys()):
        raise CheckpointError(f"the architecture has no such tensors: {_some(extra)}")
    for name, (dtype, shape) in expected.items():
        if tensors[name].shape != shape:
            raise CheckpointError(f"tensor {name}: its shape is {list(tensors[name].shape)}, not {list(shape)}")
        if DTYPES[tensors[name].dtype] != dtype:
            raise CheckpointError(f"tensor {name}: its dtype is {tensors[name].dtype}, not {NAMES[dtype]}")
    with safe_open(path, framework="pt") as file:
        for name in expected:
            if not torch.isfinite(file.get_tensor(name)).all():
                raise CheckpointError(f"tensor {name}: it holds NaN or infinite values")


def _some(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
