"""Pictures of a dataset, decoded in a child: a few to be shown to a person, and some as arrays.

The few are fetched by their spans here.
"""

from __future__ import annotations

import base64
import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.formats import sandbox
from app.formats.pictures import MAGIC, REFERENCES, TRAILER, PictureFile, PictureWriter, decode, encode, is_pictures
from app.formats.references import Reference
from app.formats.sandbox import Limits

MOST_SIDE = 1024  # pixels; a larger picture is shown smaller
SECONDS = 60
LIMITS = Limits(memory=2 * 2**30, cpu_seconds=SECONDS, file_bytes=2**28)
OF_MANY = Limits(memory=2 * 2**30, cpu_seconds=600, file_bytes=2**40)
Read = Callable[[int, int], bytes]
"""Bytes of a stored file from a start to a stop."""
Fetch = Callable[[Reference], bytes]
"""The encoded picture that a reference names."""


def pngs(read: Read, size: int, positions: Sequence[int], fetch: Fetch) -> list[dict[str, Any]]:
    """`height`, `width` and `png` (base64) of each picture at `positions`, of a file of pictures, of references to them
    or of an array.

    Raises:
        SandboxError: the child could not look at them just now.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pictures"
        with PictureWriter(path) as writer:
            for encoded in encoded_at(read, size, positions, fetch):
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


def as_npz(images: Path, target: Path, rows: Sequence[tuple[int, str, int]], shape: Sequence[int | None]) -> None:
    """Write the pixels of some pictures of a file of pictures or of an array, with ids and labels, as an npz.

    rows: (position, id, label). shape: (H, W, C) of the dataset. Where H and W are None each picture is an array of its
    own, `image_0` and so on, else all are `images`.

    Raises:
        SourceError: the child needed more than its limits.
        SandboxError: the child could not look at them just now.
    """
    call = "app.formats.previews:write_npz", str(images), str(target), list(rows), list(shape)
    sandbox.call(*call, limits=OF_MANY, seconds=OF_MANY.cpu_seconds)


def write_npz(images: str, target: str, rows: Sequence[tuple[int, str, int]], shape: Sequence[int | None]) -> None:
    """In the child: `as_npz`. One picture is in memory at a time."""
    seen = _pixels(Path(images), [position for position, *_ in rows], shape[2] or 1)
    with zipfile.ZipFile(target, "w") as file:

        def put(name: str, array: NDArray[Any]) -> None:
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)

        put("labels", np.array([label for *_, label in rows], dtype=np.int64))
        put("ids", np.array([name for _, name, _ in rows], dtype=np.str_))
        if shape[0] is None:
            for number, pixels in enumerate(seen):
                put(f"image_{number}", pixels)
            return
        with file.open("images.npy", "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *shape)}
            np.lib.format.write_array_header_1_0(member, header)
            for pixels in seen:
                member.write(pixels.tobytes())


def _pixels(images: Path, positions: Sequence[int], channels: int) -> Iterator[NDArray[np.uint8]]:
    """(H, W, channels) of each."""
    if not is_pictures(images):
        array = np.load(images, mmap_mode="r", allow_pickle=False)
        yield from (np.asarray(array[position]) for position in positions)
        return
    there = PictureFile(images)
    for position in positions:
        pixels = decode(there[position]).pixels
        yield pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], channels, axis=2)


def encoded_at(read: Read, size: int, positions: Sequence[int], fetch: Fetch) -> Iterator[bytes]:
    """The encoded pictures at `positions`."""
    magic = read(0, len(MAGIC))
    if magic not in (MAGIC, REFERENCES):
        header = io.BytesIO(read(0, 1024))
        np.lib.format.read_magic(header)
        (_, *shape), _, _ = np.lib.format.read_array_header_1_0(header)
        row, start = int(np.prod(shape)), header.tell()
        spans = [read(start + position * row, start + (position + 1) * row) for position in positions]
        yield from (encode(np.frombuffer(data, np.uint8).reshape(shape)) for data in spans)
        return
    count, _ = TRAILER.unpack(read(size - TRAILER.size, size))
    index = size - TRAILER.size - 8 * (count + 1)
    for position in positions:
        start, stop = np.frombuffer(read(index + 8 * position, index + 8 * position + 16), "<u8").tolist()
        entry = read(start, stop)
        reference = Reference.of(entry) if magic == REFERENCES else None
        yield fetch(reference) if reference else entry
