"""Pictures of a dataset, decoded in a child: a few to be shown to a person, and some as arrays.

The few are fetched by their spans here.
"""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.formats import sandbox
from app.formats.pictures import MAGIC, REFERENCES, TRAILER, PictureFile, PictureWriter, decode, encode
from app.formats.references import Reference
from app.formats.sandbox import Limits

MOST_SIDE = 1024  # pixels; a larger picture is shown smaller
SECONDS = 60
LIMITS = Limits(memory=2 * 2**30, cpu_seconds=SECONDS, file_bytes=2**28)
SECONDS_OF_MANY = 600
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
    with sandbox.folder() as folder:
        path = folder / "pictures"
        _write(path, encoded_at(read, size, positions, fetch))
        found: list[dict[str, Any]] = sandbox.call(
            "app.formats.previews:shown", str(path), limits=LIMITS, seconds=SECONDS
        )
    return found


def _write(path: Path, pictures: Iterator[bytes]) -> None:
    with PictureWriter(path) as writer:
        for encoded in pictures:
            writer.put(encoded)


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


def as_npz(
    pictures: Iterator[bytes], folder: Path, rows: Sequence[tuple[str, int]], shape: Sequence[int | None], most: int
) -> Path:
    """An npz in `folder`, of at most `most` bytes, with the pixels of encoded pictures.

    rows: (id, label) of each. shape: (H, W, C) of the dataset. Where H and W are None each picture is an array of its
    own, `image_0` and so on, else all are `images`.

    Raises:
        SourceError: the child needed more than its limits.
        SandboxError: the child could not look at them just now.
    """
    source, target = folder / "pictures", folder / "canaries.npz"
    _write(source, pictures)
    limits = Limits(memory=2 * 2**30, cpu_seconds=SECONDS_OF_MANY, file_bytes=most)
    call = "app.formats.previews:write_npz", str(source), str(target), list(rows), list(shape)
    sandbox.call(*call, limits=limits, seconds=SECONDS_OF_MANY)
    return target


def write_npz(source: str, target: str, rows: Sequence[tuple[str, int]], shape: Sequence[int | None]) -> None:
    """In the child: `as_npz`. One picture is in memory at a time."""
    seen = _pixels(Path(source), shape[2] or 1)
    with zipfile.ZipFile(target, "w") as file:

        def put(name: str, array: NDArray[Any]) -> None:
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)

        put("labels", np.array([label for _, label in rows], dtype=np.int64))
        put("ids", np.array([name for name, _ in rows], dtype=np.str_))
        if shape[0] is None:
            for number, pixels in enumerate(seen):
                put(f"image_{number}", pixels)
            return
        with file.open("images.npy", "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *shape)}
            np.lib.format.write_array_header_1_0(member, header)
            for pixels in seen:
                member.write(pixels.tobytes())


def _pixels(source: Path, channels: int) -> Iterator[NDArray[np.uint8]]:
    """(H, W, channels) of each."""
    there = PictureFile(source)
    for row in range(len(there)):
        pixels = decode(there[row]).pixels
        yield pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], channels, axis=2)


def encoded_at(read: Read, size: int, positions: Sequence[int], fetch: Fetch) -> Iterator[bytes]:
    """The encoded pictures at `positions`."""
    file = Spans(read, size)
    for position in positions:
        entry = read(*file.of(position))
        if file.shape:
            yield encode(np.frombuffer(entry, np.uint8).reshape(file.shape))
            continue
        reference = Reference.of(entry) if file.refers else None
        yield fetch(reference) if reference else entry


class Spans:
    """Where the bytes of each sample lie in a stored file of pictures, of references to them, or of an array.

    shape: of a sample of an array; empty otherwise. refers: it is a file of references.
    """

    def __init__(self, read: Read, size: int) -> None:
        self._read, magic = read, read(0, len(MAGIC))
        self.refers = magic == REFERENCES
        self.shape: tuple[int, ...] = ()
        if magic in (MAGIC, REFERENCES):
            count, _ = TRAILER.unpack(read(size - TRAILER.size, size))
            self._index = size - TRAILER.size - 8 * (count + 1)
            return
        header = io.BytesIO(read(0, min(1024, size)))
        np.lib.format.read_magic(header)
        (_, *shape), _, _ = np.lib.format.read_array_header_1_0(header)
        self.shape, self._start = tuple(shape), header.tell()
        self._row = int(np.prod(shape))

    def of(self, position: int) -> tuple[int, int]:
        """Start and stop; the same where the sample of a file of pictures was erased."""
        if self.shape:
            start = self._start + position * self._row
            return start, start + self._row
        at = self._index + 8 * position
        start, stop = np.frombuffer(self._read(at, at + 16), "<u8").tolist()
        return start, stop
