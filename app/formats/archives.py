"""The cheap checks of an uploaded zip archive, an npz or an image folder, by its directory and its small arrays.

Nothing is ever unpacked to a file, and no name of a member becomes a path. What a member unpacks to is bounded by
what the directory says, and that by what an upload may hold. Faults name entries of the listing, counted from 0
(`unzip -Z1` shows them in that order), never their names: those are the ids of samples.
"""

from __future__ import annotations

import io
import os
import re
import stat
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.formats.manifest import (
    HOLDOUT,
    MAX_BYTES,
    MAX_CLASSES,
    MAX_ID_LENGTH,
    MAX_ROWS,
    MAX_SIDE,
    Manifest,
    SourceError,
    check_columns,
    require_form,
)

MAX_MEMBERS = 500_000
MAX_DIRECTORY = 64 * 2**20  # bytes; it is read whole
MAX_RATIO = 200  # of what all members unpack to and the archive's size; images hardly shrink
FREE_OF_RATIO = 64 * 2**20  # bytes that any archive may unpack to
MAX_IMAGE_BYTES = 16 * 2**20
MAX_COLUMN_BYTES = 512 * 2**20  # of an array other than images
MAX_ARRAY_HEADER = 10_000
CHUNK = 2**20
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
LAYOUT = f"an image lies at train/<class>/<name> or holdout/<class>/<name> and ends in {', '.join(SUFFIXES)}"
ENCRYPTED = 0x1 | 0x40 | 0x2000  # flags: encrypted, strongly so, directory too
PLAIN_KINDS = (0, stat.S_IFREG, stat.S_IFDIR)
COLUMNS = {"labels": "integers", "ids": "strings or integers", "holdout": "booleans", "subject": "strings"}
KINDS = {"labels": "iu", "ids": "Uiu", "holdout": "b", "subject": "U"}


class _Bounded(io.BufferedReader):
    """A file of which nobody reads more at once than the longest directory that is taken."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = os.fstat(self.fileno()).st_size - self.tell()
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > MAX_DIRECTORY:
            raise SourceError(f"the archive's directory is over {MAX_DIRECTORY // 2**20} MiB")
        return super().read(max(wanted, 0))


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive at `path`. Any fault of its bytes inside becomes a SourceError."""
    try:
        with _Bounded(io.FileIO(path)) as raw, zipfile.ZipFile(raw) as file:
            yield file
    except (SourceError, MemoryError):
        raise
    except Exception as error:  # on bad bytes zipfile raises what its parts raise: struct.error, zlib.error and more
        raise SourceError("the archive is damaged or cut off") from error


def check(path: Path, class_names: Sequence[str] | None, forms: Sequence[str]) -> Manifest:
    """Check an npz or an image folder, whichever it is.

    Raises:
        SourceError: what is wrong with it.
    """
    with opened(path) as file:
        found = members(file, path.stat().st_size)
        if all(info.filename.endswith(".npy") for _, info in found):
            require_form("npz", forms)
            return _check_npz(file, found)
        require_form("image folder", forms)
        return _check_image_folder(found, class_names)


# -- the directory ---------------------------------------------------------------------------------


def members(file: zipfile.ZipFile, size: int) -> list[tuple[int, zipfile.ZipInfo]]:
    """(place in the listing, member) of all but folders and what file managers leave. `size`: the archive's, bytes.

    Raises:
        SourceError: names, kinds or sizes that no archive of samples has.
    """
    infos = file.infolist()
    if len(infos) > MAX_MEMBERS:
        raise SourceError(f"the archive has {len(infos):,} members; at most {MAX_MEMBERS:,} are taken")
    errors: list[str] = []
    seen: dict[str, int] = {}
    for number, info in enumerate(infos):
        if fault := _fault(info):
            errors.append(f"entry {number}: {fault}")
        folded = unicodedata.normalize("NFC", info.filename).casefold().rstrip("/")
        if seen.setdefault(folded, number) != number:
            errors.append(f"entry {number}: the name of entry {seen[folded]}, but for its case at most")
    if errors:
        raise SourceError(f"{len(errors)} problem{'s' * (len(errors) > 1)} with the archive's members", errors)
    total = sum(info.file_size for info in infos)
    if total > MAX_BYTES:
        raise SourceError(f"the archive unpacks to more than {MAX_BYTES // 2**30} GiB")
    if total > max(FREE_OF_RATIO, MAX_RATIO * size):
        raise SourceError(f"the archive unpacks to more than {MAX_RATIO} times its size")
    found = [pair for pair in enumerate(infos) if not (pair[1].is_dir() or _is_clutter(pair[1].filename))]
    if not found:
        raise SourceError("the archive is empty")
    return found


def _fault(info: zipfile.ZipInfo) -> str:
    name = info.orig_filename  # with what follows a NUL
    if re.search(r"[\x00-\x1f\x7f\\]", name) or re.match(r"/|[A-Za-z]:", name):
        return "the name is not a plain relative path"
    if {"", ".", ".."} & set(name.removesuffix("/").split("/")):
        return "the name is not a plain relative path"
    if len(name) > MAX_ID_LENGTH:
        return f"the name has more than {MAX_ID_LENGTH} characters"
    if info.flag_bits & ENCRYPTED:
        return "it is encrypted"
    if stat.S_IFMT(info.external_attr >> 16) not in PLAIN_KINDS:
        return "it is a link or a special file"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "it is compressed in another way than deflate"
    return ""


def _is_clutter(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith(".")


def pieces(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """A member's bytes, as many as the directory says, their checksum verified.

    Raises:
        SourceError: there are fewer.
    """
    left = info.file_size
    with file.open(info) as member:
        while piece := member.read(CHUNK):
            left -= len(piece)
            yield piece
    if left:
        raise SourceError("a member is shorter than the archive's directory says")


# -- npz -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Array:
    """One `.npy` member. offset: where its values begin, bytes."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int


def arrays(file: zipfile.ZipFile, found: Sequence[tuple[int, zipfile.ZipInfo]]) -> dict[str, Array]:
    """The arrays of an npz by name: their headers, held against their sizes.

    Raises:
        SourceError: another array than the five, one that is missing, or one of another shape or type.
    """
    by_name = {info.filename.removesuffix(".npy"): info for _, info in found}
    if not {"images", "labels", "ids"} <= by_name.keys() <= {"images", *COLUMNS}:
        raise SourceError("an npz has the arrays images, labels and ids and, optionally, holdout and subject")
    read = {name: header(file, info, name) for name, info in by_name.items()}
    images = read["images"]
    if images.dtype != np.uint8 or len(images.shape) not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)):
        raise SourceError("images must be uint8 of the shape (N, H, W), (N, H, W, 1) or (N, H, W, 3)")
    if not 0 < images.shape[0] <= MAX_ROWS:
        raise SourceError(f"there are {images.shape[0]} images; there must be 1 to {MAX_ROWS:,}")
    if not 0 < min(images.shape[1:3]) <= max(images.shape[1:3]) <= MAX_SIDE:
        raise SourceError(f"images must have sides of 1 to {MAX_SIDE} pixels")
    for name in by_name.keys() - {"images"}:
        if read[name].dtype.kind not in KINDS[name] or read[name].shape != images.shape[:1]:
            raise SourceError(f"{name} must hold {COLUMNS[name]}, one for each image")
        if read[name].info.file_size > MAX_COLUMN_BYTES:
            raise SourceError(f"{name} is over {MAX_COLUMN_BYTES // 2**20} MiB")
    return read


def header(file: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Array:
    """Of the member `info`, which holds the array `name`.

    Raises:
        SourceError: it is no plain array, or not as long as its shape says.
    """
    with file.open(info) as member:
        start = io.BytesIO(member.read(MAX_ARRAY_HEADER))
    try:
        version = np.lib.format.read_magic(start)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(start)
    except Exception as error:  # numpy parses a literal there, and raises what that raises
        raise SourceError(f"{name} is no array that can be read") from error
    if dtype.hasobject or dtype.names or not dtype.itemsize:
        raise SourceError(f"{name} holds objects or records; no such array is taken")
    if fortran and len(shape) > 1:
        raise SourceError(f"{name} is in Fortran order; save np.ascontiguousarray({name})")
    if any(type(side) is not int or side < 0 for side in shape):
        raise SourceError(f"{name} is no array that can be read")
    if info.file_size != start.tell() + dtype.itemsize * prod(shape):
        raise SourceError(f"{name} does not have as many bytes as its shape says")
    return Array(info, shape, dtype, start.tell())


def _check_npz(file: zipfile.ZipFile, found: Sequence[tuple[int, zipfile.ZipInfo]]) -> Manifest:
    read = arrays(file, found)
    columns = {name: values(file, array, name).tolist() for name, array in read.items() if name != "images"}
    splits = columns.get("holdout") and ["holdout" if held else "train" for held in columns["holdout"]]
    subjects = columns.get("subject") and [name or None for name in columns["subject"]]
    checked = check_columns(columns["ids"], columns["labels"], splits, subjects)
    return replace(checked, form="npz")


def values(file: zipfile.ZipFile, array: Array, name: str) -> NDArray[Any]:
    """Of the array `name`.

    Raises:
        SourceError: they are cut off, or texts that are none.
    """
    data = b"".join(pieces(file, array.info))
    values = np.frombuffer(data, array.dtype, offset=array.offset).reshape(array.shape)
    if array.dtype.kind == "U":
        try:
            "".join(values.tolist()).encode()
        except (ValueError, UnicodeError) as error:
            raise SourceError(f"{name} holds what is no text") from error
    return values


# -- image folder ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """One image of a folder: train/<class>/<name>. number: its place in the listing."""

    number: int
    info: zipfile.ZipInfo
    split: str
    class_name: str


def pictures(found: Sequence[tuple[int, zipfile.ZipInfo]]) -> list[Picture]:
    """The images in the order of the listing.

    Raises:
        SourceError: something lies elsewhere, is no image by its name, or is too large.
    """
    errors: list[str] = []
    images: list[Picture] = []
    for number, info in found:
        parts = info.filename.split("/")
        if len(parts) != 3 or parts[0] not in HOLDOUT or not parts[2].lower().endswith(SUFFIXES):
            errors.append(f"entry {number}: {LAYOUT}")
        elif info.file_size > MAX_IMAGE_BYTES:
            errors.append(f"entry {number}: the file is over {MAX_IMAGE_BYTES // 2**20} MiB")
        else:
            images.append(Picture(number, info, parts[0], parts[1]))
    if errors:
        raise SourceError(f"{len(errors)} members are no images of an image folder", errors)
    return images


def _check_image_folder(found: Sequence[tuple[int, zipfile.ZipInfo]], class_names: Sequence[str] | None) -> Manifest:
    images = pictures(found)
    names = list(class_names or sorted({image.class_name for image in images if not HOLDOUT[image.split]}))
    label_of = {name: label for label, name in enumerate(names)}
    unknown = [image.number for image in images if image.class_name not in label_of]
    if unknown:
        whose = "the dataset's class names" if class_names else "the folders of train"
        raise SourceError(
            f"{len(unknown)} images are of a class that is not among {whose}",
            [f"entry {number}: the class is not among {whose}" for number in unknown],
        )
    if len(names) > MAX_CLASSES:
        raise SourceError(f"there are more than {MAX_CLASSES:,} classes")
    splits = [image.split for image in images]
    checked = check_columns(
        [image.info.filename for image in images],
        [label_of[image.class_name] for image in images],
        splits if any(HOLDOUT[split] for split in splits) else None,
        None,
    )
    return replace(checked, class_names=names, form="image folder")
