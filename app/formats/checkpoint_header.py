"""A strict reader of safetensors headers, standard library only.

The library accepts duplicate names, path-like names and a million tensors; this refuses them before any
of it is parsed by code that trusts it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_HEADER_BYTES = 4 * 2**20
MAX_TENSORS = 20_000
MAX_DIMENSIONS = 8
NAME = re.compile(r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*")
MAX_NAME_LENGTH = 256
DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
CONVERT = "only safetensors is accepted; `lethe convert` turns a PyTorch file into one on your own machine"
OTHER_FORMATS = (
    (b"PK", f"this is a zip archive, as torch.save and TorchScript write: {CONVERT}"),
    (b"\x80", f"this is a Python pickle: {CONVERT}"),
    (b"\x89HDF", "this is an HDF5 file: only safetensors is accepted"),
    (b"GGUF", "this is a GGUF file: only safetensors is accepted"),
)


class CheckpointError(Exception):
    """A checkpoint that cannot be taken; the reason is for the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class TensorSpec:
    """One tensor as the header declares it; `start` and `end` count bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    tensors: Mapping[str, TensorSpec]
    metadata: Mapping[str, str]


def read_header(file: BinaryIO) -> Header:
    """Read and check the header of the safetensors file `file`; the tensors' bytes are not read.

    Raises:
        CheckpointError: it is not safetensors, or breaks a rule: header of at most 4 MiB, 1 to 20,000
            tensors with plain unique names, known dtypes, spans that fit the shapes and cover the rest of
            the file exactly.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > MAX_HEADER_BYTES:
        for magic, reason in OTHER_FORMATS:
            if start.startswith(magic):
                raise CheckpointError(reason)
        raise CheckpointError("this is not a safetensors file: it does not begin with a header of at most 4 MiB")
    if 8 + length > size:
        raise CheckpointError("the file is cut off inside its header")
    entries = _parse(file.read(length))
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("the header's metadata must map strings to strings")
    if not 1 <= len(entries) <= MAX_TENSORS:
        raise CheckpointError(f"the file declares {len(entries)} tensors; it must be 1 to {MAX_TENSORS}")
    tensors = {name: _tensor(name, entry) for name, entry in entries.items()}
    _check_cover(tensors, size - 8 - length)
    return Header(tensors, metadata)


def _parse(raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise CheckpointError("the header is not a JSON object")
    try:
        return _object(json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError("the header is not valid JSON") from error


def _object(pairs: Any) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise CheckpointError("the header names something twice")
    return result


def _refuse(constant: str) -> None:
    raise CheckpointError(f"the header contains {constant}")


def _tensor(name: str, entry: Any) -> TensorSpec:
    if len(name) > MAX_NAME_LENGTH or not NAME.fullmatch(name):
        raise CheckpointError("a tensor's name is not made of letters, digits, _, - and dots")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"tensor {name}: must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise CheckpointError(f"tensor {name}: its dtype is not one of {', '.join(DTYPE_BYTES)}")
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(f"tensor {name}: its shape must be at most {MAX_DIMENSIONS} sizes of 0 or more")
    if not _counts(span) or len(span) != 2 or span[0] > span[1]:
        raise CheckpointError(f"tensor {name}: its data_offsets must be a start and an end")
    if math.prod(shape) * DTYPE_BYTES[dtype] != span[1] - span[0]:
        raise CheckpointError(f"tensor {name}: its shape and dtype do not fit its data_offsets")
    return TensorSpec(dtype, tuple(shape), span[0], span[1])


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**53 for value in values)


def _check_cover(tensors: Mapping[str, TensorSpec], size: int) -> None:
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != at:
            raise CheckpointError(f"tensor {name}: its bytes overlap others or leave a hole")
        at = tensor.end
    if at > size:
        raise CheckpointError("the file is cut off inside its tensors")
    if at < size:
        raise CheckpointError("the file has bytes after its last tensor")
