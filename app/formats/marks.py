"""The keyed digest of a picture's pixels, by which a picture is known again: erased before, or there twice."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

SIZE = 32  # bytes


def digest(key: bytes, kind: str, *parts: bytes | memoryview) -> bytes:
    mark = hashlib.blake2b(key=key, person=kind.encode(), digest_size=SIZE)
    for part in parts:
        mark.update(len(part).to_bytes(8, "little"))
        mark.update(part)
    return mark.digest()


def _of_content(key: bytes, shape: tuple[int, ...], flat: NDArray[np.uint8]) -> bytes:
    """The same of `content`, a shape and pixels, without a copy of them."""
    said = repr(shape).encode()
    start = len(said).to_bytes(8, "little") + said + len(flat).to_bytes(8, "little")
    mark = hashlib.blake2b(start, key=key, person=b"content", digest_size=SIZE)
    mark.update(flat.data)
    return mark.digest()


def of_pixels(key: bytes, pixels: NDArray[np.uint8]) -> bytes | None:
    """Of (H, W, C) by its shape and pixels; None for a single colour, which is nobody's."""
    flat = pixels.reshape(-1)
    if not len(flat):
        return None
    if flat[0] == flat[-1] and (flat == flat[0]).all():
        return None
    return _of_content(key, pixels.shape, flat)


def as_colour(key: bytes, pixels: NDArray[np.uint8]) -> bytes | None:
    """Of a grey picture (H, W, 1) as it stands among colours, or was saved in colour; None of any other."""
    return of_pixels(key, np.repeat(pixels, 3, axis=2)) if pixels.shape[2] == 1 else None


def of_erased(key: bytes, pixels: NDArray[np.uint8]) -> list[bytes]:
    """All marks of a picture (H, W, C) that is erased: as it is, and as it may come again without the loss of a pixel:
    turned or mirrored, as an orientation that was stripped leaves it; with its colours the other way round; a grey one
    among colours."""
    orders = [pixels, pixels[..., ::-1]] if pixels.shape[2] > 1 else [pixels, np.repeat(pixels, 3, axis=2)]
    made = [
        of_pixels(key, np.ascontiguousarray(np.rot90(side, quarter)))
        for each in orders
        for side in (each, each[:, ::-1])
        for quarter in range(4)
    ]
    return list(dict.fromkeys(mark for mark in made if mark))
