"""Sets of sample positions in two packed forms: a sorted uint32 list (few of many), a bitmap (many of many)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]
FEW = 1000  # of which a sort is cheaper than a mask of the whole dataset; of many it takes ten times as long


def pack(positions: Iterable[int] | Positions) -> bytes:
    """Sorted, distinct positions as little-endian uint32."""
    array = distinct(np.asarray(list(positions) if not isinstance(positions, np.ndarray) else positions))
    return array.astype("<u4").tobytes()


def distinct(positions: Positions) -> Positions:
    """Sorted, each once."""
    if len(positions) < FEW:
        return np.unique(positions)
    mask = np.zeros(positions.max() + 1, dtype=bool)
    mask[positions] = True
    return np.flatnonzero(mask)


def unpack(packed: bytes) -> Positions:
    return np.frombuffer(packed, dtype="<u4").astype(np.int64)


def bitmap(positions: Positions, size: int) -> bytes:
    """A bitmap of `size` bits with those of `positions` set."""
    mask = np.zeros(size, dtype=bool)
    mask[positions] = True
    return np.packbits(mask).tobytes()


def mask_of(bits: bytes, size: int) -> NDArray[np.bool_]:
    """Bool (size,) of a bitmap; an empty bitmap is an empty set."""
    if not bits:
        return np.zeros(size, dtype=bool)
    return np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=size).astype(bool)


def members(bits: bytes, size: int) -> Positions:
    return np.flatnonzero(mask_of(bits, size)).astype(np.int64)


def marked(bits: bytes, size: int, positions: Positions, value: bool = True) -> bytes:
    """The bitmap with those of `positions` set, or cleared."""
    mask = mask_of(bits, size)
    mask[positions] = value
    return np.packbits(mask).tobytes()
