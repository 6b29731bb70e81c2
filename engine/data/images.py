"""Decoding images one by one into one array."""

from __future__ import annotations

import io
import warnings
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.formats.manifest import MAX_BYTES, MAX_ERRORS, MAX_SIDE, SourceError
from engine import host

MEMORY_SHARE = 0.5  # of what is free, for one dataset that is taken in: it is written out from there
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM")


class Stack:
    """Room for `n` images of the same size: that of `shape` (H, W, C), else the first one's.

    Grey images stay grey where all are and `shape` does not say otherwise; else all become RGB. Faults are collected,
    each named by `what` it is; after 20 `full` says that no more need be found.
    """

    def __init__(self, n: int, shape: tuple[int, int, int] | None = None) -> None:
        self.n = n
        self.shape = shape
        self.images: NDArray[np.uint8] | None = None
        self.colour = False
        self.errors: list[str] = []

    def put(self, row: int, encoded: Any, what: str) -> None:
        """Decode one image into `row`.

        Raises:
            SourceError: that number of images of this size is more than the service takes.
        """
        try:
            pixels = _pixels(encoded)
            if self.images is None:
                self.images = self._room(*(self.shape or pixels.shape)[:2])
            height, width = self.images.shape[1:3]
            if pixels.shape[:2] != (height, width):
                whose = "the dataset's shape" if self.shape else "the first one"
                raise ValueError(f"the image has {_size(pixels.shape)} pixels, {whose} {height} x {width}")
            self.images[row] = pixels if pixels.ndim == 3 else pixels[..., None]
            self.colour |= pixels.ndim == 3
        except ValueError as error:
            self.errors.append(f"{what}: {error}")

    @property
    def full(self) -> bool:
        return len(self.errors) >= MAX_ERRORS

    def result(self) -> NDArray[np.uint8]:
        """The images (n, H, W, C) uint8.

        Raises:
            SourceError: some could not be taken.
        """
        if self.errors or self.images is None:
            raise SourceError("some images cannot be taken", self.errors)
        colour = self.colour or (self.shape is not None and self.shape[2] == 3)
        return self.images if colour else self.images[..., :1].copy()

    def _room(self, height: int, width: int) -> NDArray[np.uint8]:
        return room_for((self.n, height, width, 3))


def room_for(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An array of that shape (n, H, W, C), to be filled.

    Raises:
        SourceError: a dataset of that size is never taken, or this worker's memory does not hold it.
    """
    size, what = prod(shape), f"{shape[0]} images of {shape[1]} x {shape[2]} pixels"
    if size > MAX_BYTES:
        raise SourceError(f"{what} are more than {MAX_BYTES // 2**30} GiB")
    if size > MEMORY_SHARE * host.free_bytes():
        raise SourceError(f"{what} take {size / 2**30:.1f} GiB, more than the worker that takes them in has free")
    return np.empty(shape, dtype=np.uint8)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _pixels(encoded: Any) -> NDArray[np.uint8]:
    """Decode one image to (H, W) or (H, W, 3). The size in its header is checked before any pixel is."""
    from PIL import Image

    if not encoded:
        raise ValueError("there is no image")
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(encoded), formats=FORMATS) as image,
        ):
            if max(image.size) > MAX_SIDE:
                raise _TooLargeError(f"the image has a side of more than {MAX_SIDE} pixels")
            return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    except _TooLargeError:
        raise
    except Exception as error:  # decoders raise SyntaxError, struct.error, IndexError and more on bad bytes
        raise ValueError("the image cannot be decoded") from error


class _TooLargeError(ValueError):
    pass
