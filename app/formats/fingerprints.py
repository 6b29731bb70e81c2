"""Fingerprints of weights: of one checkpoint in any file, under any names, whole or in half the precision.

A file of float32, and the same as float16 or bfloat16, have no value in common but what rounding leaves. So each tensor
has two digests: of its values as bfloat16, and of its float16 values as bfloat16. A cast file has one of the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.formats.checkpoint_header import TensorSpec, read_header

DIGEST = 8  # bytes
WHOLE = 32
AT_ONCE = 2**20  # values
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def of_file(path: Path, without: Collection[str] = ()) -> bytes:
    """Two digests of each tensor of floating numbers in the safetensors file at `path`, in no order that names give.

    without: names of tensors that belong to no network.

    Raises:
        CheckpointError: it is not such a file.
    """
    with path.open("rb") as file:
        tensors = read_header(file).tensors
        file.seek(0)
        start = 8 + int.from_bytes(file.read(8), "little")
    digests = [
        _digests(path, start, tensor)
        for name, tensor in tensors.items()
        if tensor.dtype in FLOATS and name not in without
    ]
    return b"".join(sorted(digests))


def alike(one: bytes, other: bytes) -> bool:
    """Whether every tensor of one is one of the other, in one of their forms."""
    return bool(one) and len(one) == len(other) and _within(one, other) and _within(other, one)


def digests(fingerprint: bytes) -> list[str]:
    """Two digests of all the weights, hexadecimal. A whole file that was cast to half the precision shares one."""
    pairs = np.frombuffer(fingerprint, "<u8").reshape(-1, 2)
    return [hashlib.blake2b(np.sort(form).tobytes(), digest_size=WHOLE).hexdigest() for form in pairs.T]


def _within(one: bytes, other: bytes) -> bool:
    forms = np.isin(np.frombuffer(one, "<u8"), np.frombuffer(other, "<u8")).reshape(-1, 2)
    return bool(forms.any(axis=1).all())


def _digests(path: Path, start: int, tensor: TensorSpec) -> bytes:
    plain, by_half = (hashlib.blake2b(repr(tensor.shape).encode(), digest_size=DIGEST) for _ in range(2))
    for values in _values(path, start, tensor):
        plain.update(_rounded(values))
        with np.errstate(over="ignore"):
            by_half.update(_rounded(values.astype(np.float16).astype(np.float32)))
    return plain.digest() + by_half.digest()


def _values(path: Path, start: int, tensor: TensorSpec) -> Iterator[NDArray[np.float32]]:
    kind = np.dtype(FLOATS[tensor.dtype])
    with path.open("rb") as file:
        file.seek(start + tensor.start)
        left = tensor.end - tensor.start
        while left:
            part = np.frombuffer(file.read(min(left, AT_ONCE * kind.itemsize)), kind)
            if not len(part):
                raise OSError("the file has become shorter")
            left -= part.nbytes
            if tensor.dtype == "BF16":
                yield (part.astype(np.uint32) << np.uint32(16)).view(np.float32)
            else:
                with np.errstate(over="ignore"):
                    yield part.astype(np.float32)


def _rounded(values: NDArray[np.float32]) -> bytes:
    """The values as bfloat16, to nearest, ties to even."""
    bits = values.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype("<u2").tobytes()
