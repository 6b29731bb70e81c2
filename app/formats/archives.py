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
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.formats import depth
from app.formats.manifest import (
    HOLDOUT,
    MAX_BYTES,
    MAX_ID_LENGTH,
    MAX_ROWS,
    MAX_SIDE,
    MULTI_LABEL,
    Columns,
    SourceError,
    check_columns,
    require_form,
)
from app.formats.names import normal
from app.formats.options import Options

MAX_MEMBERS = 500_000
MAX_DIRECTORY = 64 * 2**20  # bytes; it is read whole
MAX_RATIO = 200  # of what all members unpack to and the archive's size; images hardly shrink
FREE_OF_RATIO = 64 * 2**20  # bytes that any archive may unpack to
MAX_IMAGE_BYTES = 16 * 2**20
MAX_COLUMN_BYTES = 512 * 2**20  # of an array other than images
MAX_ARRAY_HEADER = 10_000
CHUNK = 2**20
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".tif", ".tiff")
SPLIT_FOLDERS = {name: "holdout" if held else "train" for name, held in HOLDOUT.items()} | {
    "training": "train", "testing": "holdout", "dev": "holdout", "eval": "holdout", "evaluation": "holdout"
}  # fmt: skip
_SPLIT = re.compile(rf"({'|'.join(SPLIT_FOLDERS)})([ _-]?(set|split|data|images?))?[ _-]?\d{{0,4}}")
LAYOUT = (
    "an image lies at <split>/<class>/<name>, or <class>/<name> in all of the archive; folders of splits are called "
    f"{', '.join(SPLIT_FOLDERS)}"
)
SPLIT_WITHIN = (
    "a folder within that of the class is called as a split is; the split comes first: <split>/<class>/<name>, in one "
    "folder for all"
)
SAME_FOLDERS = (
    "each of the folders that should be classes has the same folders within it, and no pictures beside them, so that "
    "either may be the classes: leave one level out, or send labels in a table or a manifest"
)
NO_IMAGE = f"it is no image by its name, which ends in {', '.join(SUFFIXES)}"
CLUTTER = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "thumbs.db", "desktop.ini")
BUT_CLUTTER = ", but for names that begin with a dot and what file managers leave"
UNICODE_PATH = 0x7075  # the extra field of Info-ZIP with a member's name in UTF-8
UTF8 = 0x800  # flag: the name is UTF-8
ENCRYPTED = 0x1 | 0x40 | 0x2000  # flags: encrypted, strongly so, directory too
PLAIN_KINDS = (0, stat.S_IFREG, stat.S_IFDIR)
COLUMNS = {
    "labels": "integers, strings or booleans",
    "ids": "strings or integers",
    "holdout": "booleans",
    "split": "strings",
    "subject": "strings or integers",
}
KINDS = {"labels": "iuUb", "ids": "Uiu", "holdout": "b", "split": "U", "subject": "Uiu"}
BY_SPLIT = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))
"""Names of images and labels in an npz that has two arrays for each split, as Keras and MedMNIST have them."""
ARRAYS = (
    "an npz has the arrays images and labels and, optionally, ids, subject and one of holdout and split; or, for each "
    "split, x_train and y_train, or train_images and train_labels"
)
PIXELS = {"uint8": "", "uint16": "16-bit", "float16": "floats", "float32": "floats", "float64": "floats"}
"""Types of pixels that are taken, with what is told of them."""


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


def read(path: Path, options: Options, forms: Sequence[str]) -> Columns:
    """Check an npz or an image folder, whichever it is.

    Raises:
        SourceError: what is wrong with it.
    """
    with opened(path) as file:
        found, passed_over = members(file, path.stat().st_size, options.names_encoding)
        if all(member.name.endswith(".npy") for member in found):
            require_form("npz", forms)
            return _read_npz(file, found, passed_over)
        require_form("image folder", forms)
        return _read_image_folder(found, passed_over)


# -- the directory ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """One member of an archive. number: its place in the listing. name: its path in one form (NFC)."""

    number: int
    name: str
    info: zipfile.ZipInfo
    composed: bool  # whether the name was written in another form

    @property
    def size(self) -> int:
        return self.info.file_size


class Named(Protocol):
    """A file of an image folder, wherever it lies. name: its path; number: its place in the listing."""

    @property
    def number(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...


File = TypeVar("File", bound=Named)


def members(file: zipfile.ZipFile, size: int, encoding: str | None = None) -> tuple[list[Member], int]:
    """All members but folders and clutter, and how many are clutter. size: the archive's, bytes. encoding: the code
    page of names that do not say that they are UTF-8; None: they are UTF-8.

    Raises:
        SourceError: names, kinds or sizes that no archive of samples has.
    """
    infos = file.infolist()
    if len(infos) > MAX_MEMBERS:
        raise SourceError(f"the archive has {len(infos):,} members; at most {MAX_MEMBERS:,} are taken")
    errors: list[str] = []
    seen: dict[str, int] = {}
    found: list[Member] = []
    passed_over = 0
    for number, info in enumerate(infos):
        name = _name(info, encoding)
        if fault := _fault(info, name):
            errors.append(f"entry {number}: {fault}")
            continue
        folded = normal(name).casefold().rstrip("/")
        if seen.setdefault(folded, number) != number:
            errors.append(f"entry {number}: the name of entry {seen[folded]}, but for its case at most")
        elif name.endswith("/"):
            continue
        elif is_clutter(name):
            passed_over += 1
        else:
            found.append(Member(number, normal(name), info, normal(name) != name))
    if errors:
        raise SourceError(lines_of(errors, "with the archive's members"), errors)
    total = sum(info.file_size for info in infos)
    if total > MAX_BYTES:
        raise SourceError(f"the archive unpacks to more than {MAX_BYTES // 2**30} GiB")
    if total > max(FREE_OF_RATIO, MAX_RATIO * size):
        raise SourceError(f"the archive unpacks to more than {MAX_RATIO} times its size")
    if not found:
        raise SourceError(f"the archive is empty{BUT_CLUTTER if passed_over else ''}")
    return found, passed_over


def lines_of(errors: Sequence[str], where: str) -> str:
    return f"{len(errors)} problem{'s' * (len(errors) > 1)} {where}"


def _name(info: zipfile.ZipInfo, encoding: str | None) -> str:
    """The name that was meant; with U+FFFD where it is not in the code page that is stated, or in one that nobody has.

    Python reads a name without the flag of UTF-8 in the code page 437, which loses nothing. Many programs, those of a
    Mac among them, write UTF-8 there and set no flag.
    """
    name = info.orig_filename  # with what follows a NUL
    if info.flag_bits & UTF8 or name.isascii():
        return name
    written = name.encode("cp437")
    if (meant := _unicode_path(info.extra, written)) is not None:
        return meant
    # A name in a code page may be valid UTF-8 by chance, and would be another name: what is stated holds for all.
    return written.decode(encoding or "utf-8", errors="replace")


def _unicode_path(extra: bytes, written: bytes) -> str | None:
    """The name in Info-ZIP's extra field, if that is of the name that is written."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and field[:5] == struct.pack("<BI", 1, zlib.crc32(written)):
            return field[5:].decode(errors="replace")
    return None


def _fault(info: zipfile.ZipInfo, name: str) -> str:
    if "\ufffd" in name:
        return "the name is in a code page that it does not state; state it as the source's `names_encoding`"
    if fault := fault_of_name(name):
        return fault
    if info.flag_bits & ENCRYPTED:
        return "it is encrypted"
    if stat.S_IFMT(info.external_attr >> 16) not in PLAIN_KINDS:
        return "it is a link or a special file"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "it is compressed in another way than deflate"
    return ""


def fault_of_name(name: str) -> str:
    """What is wrong with a member's name; nothing where it is a plain relative path."""
    if re.search(r"[\x00-\x1f\x7f\\]", name) or re.match(r"/|[A-Za-z]:", name):
        return "the name is not a plain relative path"
    if {"", ".", ".."} & set(name.removesuffix("/").split("/")):
        return "the name is not a plain relative path"
    if len(name) > MAX_ID_LENGTH:
        return f"the name has more than {MAX_ID_LENGTH} characters"
    return ""


def is_clutter(name: str) -> bool:
    """Whether a file manager or an editor left it, or the folder that it lies in."""
    return any(
        part.lower() in CLUTTER or (part.startswith(".") and part not in (".", "..")) for part in name.split("/")
    )


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


@dataclass(frozen=True)
class Images:
    """The pixels of an npz, of one or several arrays. channels_first: (N, C, H, W), else (N, H, W) or (N, H, W, C)."""

    arrays: Sequence[Array]
    channels_first: bool

    @property
    def rows(self) -> int:
        return sum(array.shape[0] for array in self.arrays)

    @property
    def could_be_either(self) -> bool:
        """Whether (N, C, H, W) has this shape as well as (N, H, W, C), and other pictures."""
        shape = self.arrays[0].shape
        return len(shape) == 4 and shape[1] in (1, 3) and shape[3] in (1, 3) and shape[1:] != (1, 1, 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image as it is kept."""
        sides = self.arrays[0].shape[1:]
        if len(sides) == 2:
            return sides[0], sides[1], 1
        return (sides[1], sides[2], sides[0]) if self.channels_first else (sides[0], sides[1], sides[2])


def arrays(file: zipfile.ZipFile, found: Sequence[Member]) -> tuple[Images, dict[str, list[Array]], list[str] | None]:
    """The images of an npz, its other arrays by the name of their column, and the split of each where there are arrays
    for each: their headers, held against their sizes.

    Raises:
        SourceError: other arrays than these, one that is missing, or one of another shape or type.
    """
    by_name = {member.name.removesuffix(".npy"): member.info for member in found}
    splits, names = _splits_of(by_name), by_name.keys()
    if splits is None and not (
        {"images", "labels"} <= names <= {"images", *COLUMNS} and not {"holdout", "split"} <= names
    ):
        raise SourceError(ARRAYS)
    read = {name: header(file, info, name) for name, info in by_name.items()}
    if splits is None:
        images, columns = _images([read.pop("images")]), {name: [array] for name, array in read.items()}
    else:
        images = _images([read[pixels] for _, pixels, _ in splits])
        columns = {"labels": [read[labels] for _, _, labels in splits]}
    for name, parts in columns.items():
        for array, pixels in zip(parts, images.arrays, strict=True):
            rows = pixels.shape[0]
            if name == "labels" and len(array.shape) == 2 and array.shape[1] > 1:
                raise SourceError(f"labels is of the shape {list(array.shape)}: {MULTI_LABEL}")
            shapes = [(rows,), (rows, 1)] if name == "labels" else [(rows,)]
            if array.dtype.kind not in KINDS[name] or array.shape not in shapes:
                raise SourceError(f"{name} must hold {COLUMNS[name]}, one for each image")
            if array.info.file_size > MAX_COLUMN_BYTES:
                raise SourceError(f"{name} is over {MAX_COLUMN_BYTES // 2**20} MiB")
        if len({array.dtype.kind.replace("u", "i") for array in parts}) > 1:
            raise SourceError(f"{name} must hold values of one type in all arrays")
    if splits is None:
        return images, columns, None
    counted = zip(splits, images.arrays, strict=True)
    return images, columns, [split for (split, *_), array in counted for _ in range(array.shape[0])]


def _splits_of(names: Collection[str]) -> list[tuple[str, str, str]] | None:
    """(split, images, labels) of an npz that has two arrays for each split; None: it is no such."""
    for pixels, labels in BY_SPLIT:
        found = [(split, pixels.format(split), labels.format(split)) for split in HOLDOUT]
        found = [each for each in found if {*each[1:]} <= {*names}]
        if found and {name for each in found for name in each[1:]} == {*names}:
            return found
    return None


def _images(parts: Sequence[Array]) -> Images:
    shape = parts[0].shape
    last = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    first = len(shape) == 4 and not last and shape[1] in (1, 3)
    if any(array.dtype.name not in PIXELS for array in parts) or not (last or first):
        raise SourceError(
            "images must be uint8, uint16 or floats in [0, 1], of the shape (N, H, W), (N, H, W, C) or (N, C, H, W), "
            "with 1 or 3 channels"
        )
    if len({array.shape[1:] for array in parts}) > 1:
        raise SourceError("the images of all arrays must be of one shape")
    found = Images(parts, first)
    if not 0 < found.rows <= MAX_ROWS:
        raise SourceError(f"there are {found.rows} images; there must be 1 to {MAX_ROWS:,}")
    if not 0 < min(found.shape[:2]) <= max(found.shape[:2]) <= MAX_SIDE:
        raise SourceError(f"images must have sides of 1 to {MAX_SIDE} pixels")
    return found


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


def _read_npz(file: zipfile.ZipFile, found: Sequence[Member], passed_over: int) -> Columns:
    images, others, splits = arrays(file, found)
    rows = images.rows
    columns = {
        name: [value for array in parts for value in values(file, array, name).reshape(-1).tolist()]
        for name, parts in others.items()
    }
    labels, names = columns["labels"], None
    if others["labels"][0].dtype.kind == "b":
        labels, names = [int(label) for label in labels], ["false", "true"]
    splits = splits or columns.get("split")
    if "holdout" in columns:
        splits = ["holdout" if held else "train" for held in columns["holdout"]]
    subjects = columns.get("subject") and [None if name == "" else name for name in columns["subject"]]
    notes = Counter({"channels-first": rows * images.channels_first, "axes-either": rows * images.could_be_either})
    for array in images.arrays:
        notes[PIXELS[array.dtype.name]] += array.shape[0]
    notes.update({"ids-made": rows * ("ids" not in columns), "passed-over": passed_over})
    told = {code: count for code, count in notes.items() if code and count}
    return check_columns(columns.get("ids"), labels, splits, subjects, form="npz", label_names=names, notes=told)


def values(file: zipfile.ZipFile, array: Array, name: str) -> NDArray[Any]:
    """Of the array `name`.

    Raises:
        SourceError: they are cut off, or texts that are none.
    """
    data = b"".join(pieces(file, array.info))
    values = np.frombuffer(data, array.dtype, offset=array.offset).reshape(array.shape)
    if array.dtype.kind == "U":
        try:
            "".join(values.reshape(-1).tolist()).encode()
        except (ValueError, UnicodeError) as error:
            raise SourceError(f"{name} holds what is no text") from error
    return values


def shape_of(path: Path) -> tuple[int, int, int]:
    """(H, W, C) of the images of an npz that was read."""
    with opened(path) as file:
        return arrays(file, members(file, path.stat().st_size)[0])[0].shape


def pixels(path: Path, told: Counter[str]) -> Iterator[NDArray[np.uint8]]:
    """The images of an npz that was read, in blocks (n, H, W, C) of its order. told: counts what there is to tell of
    them (`NOTES`).

    Raises:
        SourceError: it is damaged, or holds floats outside [0, 1].
    """
    with opened(path) as file:
        images, *_ = arrays(file, members(file, path.stat().st_size)[0])
        for array in images.arrays:
            row = array.dtype.itemsize * prod(array.shape[1:])
            rest, skip = bytearray(), array.offset  # the header comes first
            for piece in pieces(file, array.info):
                rest += piece[skip:]
                skip = max(0, skip - len(piece))
                whole = len(rest) // row * row
                if whole:
                    block = np.frombuffer(bytes(rest[:whole]), array.dtype).reshape(-1, *array.shape[1:])
                    del rest[:whole]
                    if block.dtype.kind == "u" and block.dtype.itemsize == 2:
                        told["few-levels"] += depth.of_few_levels(block)
                    yield _kept(block, images)


def _kept(block: NDArray[Any], images: Images) -> NDArray[np.uint8]:
    if block.dtype.kind == "f":
        try:
            block = depth.of_floats(block)
        except ValueError as error:
            raise SourceError(f"images holds {error}; send them as uint8, or divide them") from None
    elif block.dtype.itemsize == 2:
        block = depth.of_integers(block)
    if images.channels_first:
        block = np.moveaxis(block, 1, 3)
    return np.ascontiguousarray(block, dtype=np.uint8).reshape(-1, *images.shape)


# -- image folder ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture(Generic[File]):
    """One image of a folder. path: its id, without a root folder. split: train or holdout; None where classes lie at
    the top. within: whether it lies in a folder within that of its class."""

    member: File
    path: str
    split: str | None
    class_name: str
    within: str | None

    @property
    def notes(self) -> Iterator[str]:
        """What is told of it, by codes of `NOTES`."""
        if self.path != self.member.name:
            yield "root-folder"
        if self.within is not None:
            yield "folders-within-classes"


def images_of(found: Sequence[File]) -> list[Picture[File]]:
    """The images in the order of the listing.

    Either all lie at <split>/<class>/…, or all at <class>/…; a folder around all of them is left out.

    Raises:
        SourceError: something lies elsewhere, is no image by its name, or is too large; or which folders are the
            classes cannot be told.
    """
    root = _root([member.name.split("/") for member in found])
    by_split = any(_split(member.name.split("/")[root:]) for member in found)
    errors: list[str] = []
    images: list[Picture[File]] = []
    for member in found:
        parts = member.name.split("/")[root:]
        split = _split(parts)
        folders = parts[1 if by_split else 0 : -1]  # of the class, and within it
        if not parts[-1].lower().endswith(SUFFIXES):
            errors.append(f"entry {member.number}: {NO_IMAGE}")
        elif (by_split and split is None) or not folders:
            errors.append(f"entry {member.number}: {LAYOUT}")
        elif any(map(split_of, folders if folders[1:] else ())):  # alone it may be a class: a train is one
            errors.append(f"entry {member.number}: {SPLIT_WITHIN}")
        elif member.size > MAX_IMAGE_BYTES:
            errors.append(f"entry {member.number}: the file is over {MAX_IMAGE_BYTES // 2**20} MiB")
        else:
            images.append(Picture(member, "/".join(parts), split, folders[0], folders[1] if folders[1:] else None))
    if errors:
        raise SourceError(f"{len(errors)} members are no images of an image folder", errors)
    if _is_crossed(images):
        raise SourceError(SAME_FOLDERS)
    return images


def _is_crossed(images: Sequence[Picture[Any]]) -> bool:
    """Whether all classes have the same folders, several, and nothing else: then these may be the classes."""
    within: dict[str, set[str | None]] = {}
    for image in images:
        within.setdefault(image.class_name, set()).add(image.within)
    first, *others = within.values()
    return None not in first and len(first) > 1 and bool(others) and all(each == first for each in others)


def split_of(folder: str) -> str | None:
    """The split that a folder of this name is: `Training`, `val2017`, `test_images`; None: it is none."""
    match = _SPLIT.fullmatch(folder.lower())
    return SPLIT_FOLDERS[match[1]] if match else None


def _split(parts: Sequence[str]) -> str | None:
    return split_of(parts[0]) if len(parts) > 1 else None


def _root(paths: Sequence[Sequence[str]]) -> int:
    """How many folders lie around all classes or splits."""
    depth = 0
    while True:
        shared = {parts[depth] if len(parts) > depth + 2 else "" for parts in paths}
        if len(shared) > 1 or "" in shared or split_of(next(iter(shared))):
            return depth
        depth += 1


def notes_of(images: Sequence[Picture[Any]]) -> dict[str, int]:
    """How many images there is something to tell of, by codes of `NOTES`."""
    return dict(Counter(code for image in images for code in image.notes))


def splits_of(images: Sequence[Picture[Any]]) -> list[str] | None:
    """The split of each; None where all are for training, which says nothing of what is held out."""
    splits = [image.split for image in images if image.split is not None]
    return splits if any(HOLDOUT[split] for split in splits) else None


def _read_image_folder(found: Sequence[Member], passed_over: int) -> Columns:
    images = images_of(found)
    composed = sum(image.member.composed for image in images)
    notes = notes_of(images) | {"ids-composed": composed, "passed-over": passed_over}
    return check_columns(
        [image.path for image in images],
        [image.class_name for image in images],
        splits_of(images),
        None,
        form="image folder",
        notes={code: count for code, count in notes.items() if count},
        entries=[image.member.number for image in images],
    )


def pictures(path: Path, options: Options) -> Iterator[tuple[str, bytes | SourceError]]:
    """(entry, encoded picture) of each image of a folder that was read, one at a time."""
    with opened(path) as file:
        for picture in images_of(members(file, path.stat().st_size, options.names_encoding)[0]):
            try:
                data: bytes | SourceError = b"".join(pieces(file, picture.member.info))
            except MemoryError:
                raise
            except Exception:  # a wrong checksum, a stream that breaks off
                data = SourceError("the member is damaged")
            yield f"entry {picture.member.number}", data
