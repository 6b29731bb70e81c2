"""A few pictures of a dataset, to be shown to a person: fetched by their spans here, decoded in a child."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from app.formats import sandbox
from app.formats.pictures import MAGIC, TRAILER, PictureFile, PictureWriter, decode, encode
from app.formats.sandbox import Limits

MOST_SIDE = 1024  # pixels; a larger picture is shown smaller
SECONDS = 60
LIMITS = Limits(memory=2 * 2**30, cpu_seconds=SECONDS, file_bytes=2**28)
Read = Callable[[int, int], bytes]
"""Bytes of a stored file from a start to a stop."""


def pngs(read: Read, size: int, positions: Sequence[int]) -> list[dict[str, Any]]:
    """`height`, `width` and `png` (base64) of each picture at `positions`, of a file of pictures or of an array.

    Raises:
        SandboxError: the child could not look at them just now.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pictures"
        with PictureWriter(path) as writer:
            for encoded in _encoded(read, size, positions):
                writer.put(encoded)
        found: list[dict[str, Any]] = sandbox.call(
            "app.formats.previews:shown", str(path), limits=LIMITS, seconds=SECONDS
        )
    return found


def shown(path: str) -> list[dict[str, Any]]:
    """In the child: the pictures of a file as PNG."""
    from PIL import Image

    found = []
    there = PictureFile(Path(path))
    for row in range(len(there)):
        pixels = decode(there[row]).pixels
        image = Image.fromarray(pixels)
        image.thumbnail((MOST_SIDE, MOST_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        height, width = pixels.shape[:2]
        found.append({"height": height, "width": width, "png": base64.b64encode(buffer.getvalue()).decode()})
    return found


def _encoded(read: Read, size: int, positions: Sequence[int]) -> list[bytes]:
    if read(0, len(MAGIC)) != MAGIC:
        header = io.BytesIO(read(0, 1024))
        np.lib.format.read_magic(header)
        (_, *shape), _, _ = np.lib.format.read_array_header_1_0(header)
        row, start = int(np.prod(shape)), header.tell()
        spans = [read(start + position * row, start + (position + 1) * row) for position in positions]
        return [encode(np.frombuffer(data, np.uint8).reshape(shape)) for data in spans]
    count, _ = TRAILER.unpack(read(size - TRAILER.size, size))
    index = size - TRAILER.size - 8 * (count + 1)
    found = []
    for position in positions:
        start, stop = np.frombuffer(read(index + 8 * position, index + 8 * position + 16), "<u8").tolist()
        found.append(read(start, stop))
    return found
