"""Reading uploaded files and decoding their pictures: in children of the worker, behind walls, and without torch.

Taking content in has two parts. `unpack` brings files of any form into one file of pictures as they came (or one array
of pixels, where they came as an array) and one of what is said of the samples. `look` decodes a part of the pictures
once, and says what they are. `copy_rows` decodes a part into the copy that an input contract makes.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.formats import archives, depth, marks, pictures, uploads
from app.formats.input_contract import InputContract
from app.formats.manifest import MAX_ERRORS, Columns, Manifest, SourceError, join
from app.formats.names import normal
from app.formats.options import Options
from app.formats.pictures import Decoded, PictureFile, PictureWriter
from engine.data import geometry

_MADE = re.compile(r"sha256:([0-9a-f]{64})(?:#([1-9]\d{0,6}))?")
NO_MARK = bytes(marks.SIZE)
TOO_LARGE = "the picture, or what the input contract makes of it, takes more memory than there is"
WIDENED = {"16-bit", "floats"}  # what is told of pixels that were not 8 bits
HELD = "held"  # the form of files that another dataset has
IMAGES, ROWS, ADDRESSES = "images", "rows", "addresses"
"""Files of `unpack`: pictures or array, a line of JSON for each sample; and one for where it lies, of `refer`."""


# -- unpacking -------------------------------------------------------------------------------------


def unpack(folder: str, files: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> dict[str, Any]:
    """Write the pictures and the samples of `files` into `folder`; the rest is the answer.

    files: each with `path` and, optionally, the `split` of its samples; or, of a file of pictures or an array that is
    here already, with `said`: a file with a line for each of its samples that is wanted, [position, id, subject, label,
    holdout], and with `class_names` by label, or None. params: of the source `upload`.

    Raises:
        SourceError: what is wrong with them, naming files, rows or entries (counted from 0, at most 20), never ids.
    """
    paths, options = _files(files, params)
    kept = [_said(file) for file in files]
    parts = [
        uploads.read(path, option) if said is None else said[0]
        for path, option, said in zip(paths, options, kept, strict=True)
    ]
    manifest = join(parts, params.get("class_names"))
    held = holdout(manifest, params)
    target = Path(folder)
    shape = _one_array(paths, parts)
    with ExitStack() as stack:
        rows = stack.enter_context((target / ROWS).open("w", encoding="utf-8"))
        keep = _Array(target / IMAGES, len(held), shape) if shape else _Encoded(PictureWriter(target / IMAGES))
        stack.enter_context(keep)
        made, told = _made_before(parts), Counter[str]()
        line = json.JSONEncoder(ensure_ascii=False).encode
        row = 0
        for path, part, option, said in zip(paths, parts, options, kept, strict=True):
            found = uploads.pictures(path, part.form, option, told) if said is None else _there(path, said[1])
            left = max(archives.FREE_OF_RATIO, archives.MAX_RATIO * path.stat().st_size)
            for own in range(part.rows):
                _, picture = next(found, ("", SourceError("the file has fewer pictures than samples")))
                # A file of a few bytes may repeat a long picture in millions of rows.
                left -= len(picture) if isinstance(picture, bytes) and said is None else 0
                if left < 0:
                    raise SourceError(f"the pictures unpack to more than {archives.MAX_RATIO} times the file's size")
                digest = keep.put(picture, part.ids is None)
                sample = part.ids[own] if part.ids is not None else _made(digest, made)
                subject = manifest.subjects[row] if manifest.subjects else None
                rows.write(line([sample, subject, manifest.labels[row], held[row]]) + "\n")
                row += 1
    return _answer(manifest, parts, held, told) | {"damaged": keep.damaged}


def refer(folder: str, files: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> dict[str, Any]:
    """The same of manifests of addresses: their pictures are still to be fetched, in this order.

    files: as in `unpack`; with `notes`, what else there is to tell of one. params: of the source `objects`, with the
    storage that is `allowed`.
    """
    paths, options = _files(files, params)
    parts = [uploads.read(path, option) for path, option in zip(paths, options, strict=True)]
    parts = [replace(part, notes=part.notes | file.get("notes", {})) for part, file in zip(parts, files, strict=True)]
    manifest = join(parts, params.get("class_names"))
    held = holdout(manifest, params)
    addresses = [address for part in parts for address in part.addresses or []]
    if len(set(addresses)) < len(addresses):
        raise SourceError("an address is in two shards")
    target = Path(folder)
    line = json.JSONEncoder(ensure_ascii=False).encode
    with (target / ROWS).open("w", encoding="utf-8") as rows, (target / ADDRESSES).open("w", encoding="utf-8") as where:
        subjects = manifest.subjects or [None] * len(manifest.labels)
        said = zip(manifest.ids or [], subjects, manifest.labels, held, strict=True)
        rows.writelines(line(each) + "\n" for each in said)
        where.writelines(line(address) + "\n" for address in addresses)
    return _answer(manifest, parts, held, {})


def _files(files: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> tuple[list[Path], list[Options]]:
    return [Path(file["path"]) for file in files], [Options.of(params, file.get("split")) for file in files]


def _answer(
    manifest: Manifest, parts: Sequence[Columns], held: Sequence[bool], told: Mapping[str, int]
) -> dict[str, Any]:
    notes = manifest.notes | dict(told) | {"holdout-drawn": sum(held) * (manifest.holdout is None)}
    return {
        "samples": len(manifest.labels),
        "class_names": manifest.class_names,
        "form": manifest.form,
        "notes": {code: count for code, count in notes.items() if count},
        "entries": [part.entries for part in parts],
        "rows": [part.rows for part in parts],
        "damaged": {},
    }


def holdout(manifest: Manifest, params: Mapping[str, Any]) -> list[bool]:
    """Where files say nothing of splits, a share of the samples, drawn from the seed, is kept out of training."""
    if manifest.holdout is not None:
        return manifest.holdout
    n = len(manifest.labels)
    held = np.zeros(n, dtype=np.bool_)
    fraction = params.get("holdout_fraction", 0.0)
    held[np.random.default_rng(params.get("seed", 0)).permutation(n)[: int(n * fraction)]] = True
    drawn: list[bool] = held.tolist()
    return drawn


def _made(digest: str, made: Counter[str]) -> str:
    """An id from a picture's content; the second picture of the same content is `#2`."""
    made[digest] += 1
    return f"sha256:{digest}" + (f"#{made[digest]}" if made[digest] > 1 else "")


def _made_before(parts: Sequence[Columns]) -> Counter[str]:
    """How often each content has an id that was made from it when it was first taken in."""
    made: Counter[str] = Counter()
    for match in (_MADE.fullmatch(name) for part in parts for name in part.ids or []):
        if match:
            made[match[1]] = max(made[match[1]], int(match[2] or 1))
    return made


def _said(file: Mapping[str, Any]) -> tuple[Columns, list[int]] | None:
    """What is said of the samples of a file that is here already, and their positions in it."""
    if "said" not in file:
        return None
    with Path(file["said"]).open(encoding="utf-8", newline="\n") as lines:
        rows = [json.loads(line) for line in lines]
    positions, ids, subjects, labels, held = (list(column) for column in zip(*rows, strict=True))
    names = None
    if file["class_names"]:
        # Erased classes have no name, and no sample here: those that have one move up.
        places = [label for label, name in enumerate(file["class_names"]) if name is not None]
        names = [normal(file["class_names"][label]) for label in places]
        moved = {label: place for place, label in enumerate(places)}
        labels = [moved[label] for label in labels]
    return Columns(len(rows), ids, labels, names, held, subjects if any(subjects) else None, HELD), positions


def _there(images: Path, positions: Sequence[int]) -> Iterator[tuple[str, bytes | NDArray[np.uint8]]]:
    if pictures.is_pictures(images):
        there = PictureFile(images)
        yield from ((f"position {position}", there[position]) for position in positions)
    else:
        array = np.load(images, mmap_mode="r", allow_pickle=False)
        yield from ((f"position {position}", np.asarray(array[position])) for position in positions)


def _one_array(paths: Sequence[Path], parts: Sequence[Columns]) -> tuple[int, int, int] | None:
    """(H, W, C) of all, where all came as arrays of that shape."""
    forms = zip(paths, parts, strict=True)
    if any(part.form != "npz" and (part.form != HELD or pictures.is_pictures(path)) for path, part in forms):
        return None
    shapes = {
        archives.shape_of(path) if part.form == "npz" else np.load(path, mmap_mode="r").shape[1:]
        for path, part in zip(paths, parts, strict=True)
    }
    return shapes.pop() if len(shapes) == 1 else None


class _Encoded:
    """Keeps pictures as they came; pixels of an array become pictures that lose nothing."""

    def __init__(self, writer: PictureWriter) -> None:
        self._writer = writer
        self.damaged: dict[int, str] = {}

    def put(self, picture: Any, wanted: bool) -> str:
        """Keep one; its digest, if wanted. One that is damaged is kept as nothing, and what is wrong with it."""
        if isinstance(picture, SourceError):
            self.damaged[len(self._writer)] = picture.detail
            picture = None
        pixels = isinstance(picture, np.ndarray)
        self._writer.put(pictures.encode(picture) if pixels else picture or b"")
        return hashlib.sha256(picture.tobytes() if pixels else picture or b"").hexdigest() if wanted else ""

    def __enter__(self) -> _Encoded:
        self._writer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer.__exit__(*error)


class _Array:
    """Keeps arrays of one shape as one, .npy. It is whole, or refused."""

    damaged: Mapping[int, str] = {}

    def __init__(self, path: Path, n: int, shape: tuple[int, int, int]) -> None:
        self._file = path.open("wb")
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, *shape)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def put(self, picture: Any, wanted: bool) -> str:
        if isinstance(picture, SourceError):
            raise picture
        data = picture.tobytes()
        self._file.write(data)
        return hashlib.sha256(data).hexdigest() if wanted else ""

    def __enter__(self) -> _Array:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()


# -- looking ---------------------------------------------------------------------------------------


def look(images: str, start: int, stop: int, keys: Sequence[str], target: str, widened: bool = False) -> dict[str, Any]:
    """Decode the pictures from `start` to `stop` once, and say what they are.

    keys: of `app.formats.marks`, hexadecimal. The file `target` gets, for each picture, height, width, channels,
    whether it is of one colour, its mark with each key, that of a grey one among colours, and that of one of 16 bits or
    floats as versions before took it in; zeros where it has none. widened: they came as arrays of such types.

    Returns:
        `errors` ([row, text]), `modes` and `did`, counted.
    """
    seen = array("Q")
    made = {"mark": bytearray(), "colour": bytearray(), "former": bytearray()}
    errors: list[tuple[int, str]] = []
    modes: Counter[str] = Counter()
    did: Counter[str] = Counter()
    secrets = [bytes.fromhex(key) for key in keys]
    for row, picture in enumerate(_decoded(Path(images), range(start, stop))):
        if isinstance(picture, ValueError):
            errors.append((start + row, str(picture)))
            if len(errors) >= MAX_ERRORS:
                break
            continue
        pixels = picture.pixels if picture.pixels.ndim == 3 else picture.pixels[..., None]
        former = _former(picture, pixels, widened)
        constant = True
        for secret in secrets:
            mark = marks.of_pixels(secret, pixels)
            constant = mark is None
            made["mark"] += mark or NO_MARK
            made["colour"] += marks.as_colour(secret, pixels) or NO_MARK
            made["former"] += (marks.of_pixels(secret, former) if former is not None else None) or NO_MARK
        seen.extend((*pixels.shape, constant))
        modes[picture.mode] += 1
        if picture.did:
            did.update(picture.did)
    found = np.zeros(0 if errors else stop - start, dtype=looked_at(len(keys)))
    if not errors:
        for name, column in zip(("height", "width", "channels", "constant"), _table(seen, 4).T, strict=True):
            found[name] = column
        for name, data in made.items():
            found[name] = np.frombuffer(data, np.uint8).reshape(-1, len(keys), marks.SIZE)
    with Path(target).open("wb") as file:
        np.save(file, found, allow_pickle=False)
    return {"errors": errors, "modes": modes, "did": did}


def _former(picture: Decoded, pixels: NDArray[np.uint8], widened: bool) -> NDArray[np.uint8] | None:
    """(H, W, C) as versions before took the same file in; None where that may be the same."""
    if picture.former is not None:
        return picture.former.reshape(pixels.shape)
    return depth.as_before(pixels) if widened or WIDENED & {*picture.did} else None


def looked_at(keys: int) -> np.dtype[np.void]:
    """What `look` says of one picture; the last three have a row for each key."""
    facts = [("height", "<u4"), ("width", "<u4"), ("channels", "u1"), ("constant", "?")]
    return np.dtype([*facts, *((kind, "u1", (keys, marks.SIZE)) for kind in ("mark", "colour", "former"))])


def _table(values: array[int], columns: int) -> NDArray[np.uint64]:
    return np.frombuffer(values, np.uint64).reshape(-1, columns)


def marks_of(images: str, positions: Sequence[int], key: str) -> list[str]:
    """All marks by which these pictures are known again, hexadecimal; none of a single colour, nor of what is
    erased."""
    secret = bytes.fromhex(key)
    found: list[str] = []
    for picture in _decoded(Path(images), positions):
        if isinstance(picture, Decoded):
            pixels = picture.pixels if picture.pixels.ndim == 3 else picture.pixels[..., None]
            found += [mark.hex() for mark in marks.of_erased(secret, pixels)]
    return found


def _decoded(images: Path, rows: Sequence[int]) -> Iterator[Decoded | ValueError]:
    """The pictures of a file of pictures or of an array."""
    if not pictures.is_pictures(images):
        array = np.load(images, mmap_mode="r", allow_pickle=False)
        mode = "L" if array.shape[3] == 1 else "RGB"
        yield from (Decoded(np.asarray(array[row]), mode) for row in rows)
        return
    there = PictureFile(images)
    for row in rows:
        try:
            yield pictures.decode(there[row])
        except ValueError as error:
            yield error


# -- copies ----------------------------------------------------------------------------------------


def copy_rows(images: str, target: str, start: int, stop: int, contract: str, channels: int) -> list[tuple[int, str]]:
    """Write what `contract` (as JSON) makes of the pictures from `start` to `stop` into the array .npy at `target`.

    channels: of the dataset: where some of its pictures have colour, grey ones get three. What is erased is black.

    Returns:
        position and reason of each of which nothing can be made, at most 20.
    """
    made = np.load(target, mmap_mode="r+", allow_pickle=False)
    seen = InputContract.model_validate_json(contract)
    there = PictureFile(Path(images))
    wrong: list[tuple[int, str]] = []
    for row in range(start, stop):
        try:
            if data := there[row]:
                made[row] = geometry.prepared(_with_channels(pictures.decode(data).pixels, channels), seen)
        except ValueError as error:
            wrong.append((row, str(error)))
        except MemoryError:
            wrong.append((row, TOO_LARGE))
        if len(wrong) == MAX_ERRORS:
            break
    made.flush()
    return wrong


def _with_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    if pixels.ndim == 3:
        return pixels
    return np.repeat(pixels[..., None], channels, axis=2)


# -- in this process -------------------------------------------------------------------------------


def decode(content: Path, class_names: Sequence[str] | None = None) -> tuple[Manifest, list[NDArray[np.uint8]]]:
    """A file that is trusted: what it says of its samples, and their images, each (H, W, C).

    Raises:
        SourceError: what is wrong with it.
    """
    columns = uploads.read(content)
    manifest = join([columns], class_names)
    found: list[NDArray[np.uint8]] = []
    errors: list[str] = []
    ids: list[str] = []
    made: Counter[str] = Counter()
    for what, picture in uploads.pictures(content, columns.form):
        try:
            if isinstance(picture, SourceError):
                raise ValueError(picture.detail)
            pixels = picture if isinstance(picture, np.ndarray) else pictures.decode(picture).pixels
        except ValueError as error:
            errors.append(f"{what}: {error}")
            if len(errors) >= MAX_ERRORS:
                break
            continue
        found.append(pixels if pixels.ndim == 3 else pixels[..., None])
        if columns.ids is None:
            data = picture.tobytes() if isinstance(picture, np.ndarray) else picture
            ids.append(_made(hashlib.sha256(data).hexdigest(), made))
    if errors:
        raise SourceError("some images cannot be taken", errors)
    channels = max(image.shape[2] for image in found)
    found = [np.repeat(image, channels, axis=2) if image.shape[2] < channels else image for image in found]
    if columns.ids is None:
        manifest = replace(manifest, ids=ids)
    return manifest, found
