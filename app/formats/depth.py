"""Pixels of other types to 8 bits.

What was 8 bits once comes out as it was, however it was widened: else a picture that was erased would come back as
another one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FEW = 4096
"""A picture of 16 bits whose values are all below holds 12 bits or fewer, and hardly a level is left of it."""


def of_integers(pictures: NDArray[np.uint16], bits: int = 16) -> NDArray[np.uint8]:
    """(n, …) of 16 bits, or of `bits` in them: scaled, and the high 8 in pictures whose others are all 0, which were
    shifted."""
    most = 2**bits - 1
    scaled = (pictures.astype(np.uint32) * 255 + most // 2) // most
    return _either(~_any(pictures & (most >> 8)), pictures >> (bits - 8), scaled)


def of_few_levels(pictures: NDArray[np.uint16], limit: int = FEW) -> int:
    """How many pictures (n, …) have no value from `limit` on, and not 0 alone."""
    most = pictures.reshape(len(pictures), -1).max(axis=1)
    return int(((most > 0) & (most < limit)).sum())


def of_floats(pictures: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """(n, …) of [0, 1]: times 255, and times 256 in pictures that were divided by that.

    Raises:
        ValueError: a value lies outside, or is no number.
    """
    with np.errstate(invalid="ignore"):
        if not ((pictures >= 0) & (pictures <= 1)).all():
            raise ValueError("floats outside [0, 1]")
    wide = pictures.astype(np.float64)
    steps = wide * 256
    return _either(~_any((steps != np.rint(steps)) | (steps > 255)), steps, np.rint(wide * 255))


# What the versions before made of 8 bits that were shifted, or divided by 256: all of it was scaled.
_BEFORE = ((np.arange(256, dtype=np.uint32) * 256 * 255 + 32767) // 65535).astype(np.uint8)


def as_before(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels of today as a version before took the same file in, so that what was erased of it then is known again."""
    made: NDArray[np.uint8] = _BEFORE[pixels]
    return made


def _any(found: NDArray[Any]) -> Any:
    """(n, 1, …): whether there is any in each picture."""
    return found.any(axis=tuple(range(1, found.ndim)), keepdims=True)


def _either(which: Any, one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.uint8]:
    return np.where(which, one, other).astype(np.uint8)
