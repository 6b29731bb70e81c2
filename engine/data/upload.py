"""Source `upload`: files that a client has sent, in any of the forms of `app.formats.uploads`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.catalog import ObjectsSource, UploadSource
from app.formats import sandbox
from app.formats.input_contract import InputContract
from app.formats.manifest import MAX_ERRORS, SourceError
from app.formats.pictures import PictureFile, is_pictures
from app.formats.sandbox import Limits
from engine import host
from engine.data import decoding, geometry
from engine.data.decoding import IMAGES, ROWS, WIDENED, looked_at
from engine.data.samples import RawData

sandbox.preload("engine.data.decoding")
HOURS = 6  # of the clock and of a processor, for the largest datasets
MOST_MEMORY = 8 * 2**30  # bytes of one child
MOST_FILE = 2**44  # bytes; the disk ends before
ROWS_OF_A_PART = 20_000
BYTES_OF_A_PART = 2**27  # encoded
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Taken:
    """Content that was read and looked at, in files of `folder`.

    looked: `looked_at` for each sample. notes: what was made of them, modes: what they were, counted. channels: of all;
    grey ones fit three. parts: samples of each file.
    """

    folder: Path
    samples: int
    class_names: list[str] | None
    form: str
    notes: dict[str, int]
    looked: NDArray[np.void]
    modes: dict[str, int]
    channels: int
    parts: list[int]

    @property
    def images(self) -> Path:
        return self.folder / IMAGES

    @property
    def shape(self) -> list[int | None]:
        """[height, width, channels]; no height and width where the pictures differ."""
        height, width = self.looked["height"], self.looked["width"]
        if (height == height[0]).all() and (width == width[0]).all():
            return [int(height[0]), int(width[0]), self.channels]
        return [None, None, self.channels]

    def rows(self, at_once: int) -> Iterator[list[tuple[str, str | None, int, bool]]]:
        """(id, subject, label, holdout) of the samples, in parts."""
        with (self.folder / ROWS).open(encoding="utf-8", newline="\n") as file:
            part: list[tuple[str, str | None, int, bool]] = []
            for line in file:
                sample, subject, label, held = json.loads(line)
                part.append((str(sample), None if subject is None else str(subject), int(label), bool(held)))
                if len(part) == at_once:
                    yield part
                    part = []
            if part:
                yield part


def take_in(
    folder: Path,
    files: Sequence[Mapping[str, Any]],
    params: UploadSource,
    keys: Sequence[bytes],
    progress: Progress = lambda _: None,
) -> Taken:
    """Read files in a child behind walls, and decode their pictures once, in as many children as there are cores.

    folder: an empty one, which the caller removes. files: as in `decoding.unpack`. keys: of `app.formats.marks`, one or
    more: each picture is marked with each.

    Raises:
        SourceError: what is wrong with them, naming files, rows or entries (counted from 0, at most 20), never ids.
        SandboxError: the machine kept the child from it.
    """
    said = call("engine.data.decoding:unpack", str(folder), list(files), params.model_dump(mode="json"))
    progress(0.2)
    return look_over(folder, said, params, keys, progress)


def refer(
    folder: Path, files: Sequence[Mapping[str, Any]], params: ObjectsSource, allowed: Sequence[str]
) -> dict[str, Any]:
    """Read manifests of addresses in a child; what `look_over` wants to be told once their pictures are fetched.

    allowed: storage that addresses may lie in (`app.formats.addresses`).

    Raises:
        SourceError, SandboxError: as `take_in`.
    """
    told = params.model_dump(mode="json") | {"allowed": list(allowed)}
    said: dict[str, Any] = call("engine.data.decoding:refer", str(folder), list(files), told)
    return said


def look_over(
    folder: Path,
    said: Mapping[str, Any],
    params: UploadSource | ObjectsSource,
    keys: Sequence[bytes],
    progress: Progress,
) -> Taken:
    """Decode the pictures in `folder` once; said: what was read of their files."""
    images, n = folder / IMAGES, said["samples"]
    parts, secrets = spans(images, n), [key.hex() for key in keys]
    widened = not WIDENED.isdisjoint(said["notes"])
    answers = each_part(
        [
            ("engine.data.decoding:look", str(images), *part, secrets, str(_beside(folder, part)), widened)
            for part in parts
        ],
        lambda done: progress(0.2 + 0.8 * done),
    )
    errors = {int(row): text for answer in answers for row, text in answer["errors"]}
    errors |= {int(row): text for row, text in said["damaged"].items()}
    if errors:
        lines = [f"{place_of(said, row)}: {errors[row]}" for row in sorted(errors)[:MAX_ERRORS]]
        raise SourceError("some images cannot be taken", lines)
    looked = np.concatenate([_looked(_beside(folder, part), part[1] - part[0], len(keys)) for part in parts])
    modes, notes = Counter[str](), Counter[str](said["notes"])
    for answer in answers:
        modes.update(answer["modes"])
        notes.update(answer["did"])
    channels = int(looked["channels"].max())
    if params.shape is not None and is_pictures(images):
        channels = max(channels, params.shape[2])
    taken = Taken(
        folder, n, said["class_names"], said["form"], dict(notes), looked, dict(modes), channels, said["rows"]
    )
    if params.shape is not None:
        _require_shape(taken, said, params.shape)
    return taken


def _require_shape(taken: Taken, said: Mapping[str, Any], shape: tuple[int, int, int]) -> None:
    height, width, channels = shape
    looked = taken.looked
    wrong = (looked["height"] != height) | (looked["width"] != width) | (taken.channels != channels)
    if wrong.any():
        lines = [
            f"{place_of(said, row)}: the image has {looked['height'][row]} x {looked['width'][row]} pixels"
            for row in np.flatnonzero(wrong)[:MAX_ERRORS].tolist()
        ]
        raise SourceError(f"{int(wrong.sum())} images are not of the dataset's shape {list(shape)}", lines)


def _beside(folder: Path, part: tuple[int, int]) -> Path:
    return folder / f"looked-{part[0]}"


def _looked(path: Path, n: int, keys: int) -> NDArray[np.void]:
    found: NDArray[np.void] = np.load(path, allow_pickle=False)
    if found.dtype != looked_at(keys) or found.shape != (n,):
        raise SourceError(f"{sandbox.UNREADABLE}: the program that looked at it gave no answer")
    return found


def place_of(said: Mapping[str, Any], row: int) -> str:
    """How an error names a sample: by its entry in an archive or its row, and its shard where there are several."""
    for number, (entries, rows) in enumerate(zip(said["entries"], said["rows"], strict=True)):
        if row < rows:
            own = f"row {row}" if entries is None else f"entry {entries[row]}"
            return own if len(said["rows"]) == 1 else f"shard {number}, {own}"
        row -= rows
    raise IndexError(row)


def spans(images: Path, n: int) -> list[tuple[int, int]]:
    """(start, stop) of parts that take a child some seconds."""
    rows = ROWS_OF_A_PART
    if is_pictures(images):
        rows = max(1, min(rows, n * BYTES_OF_A_PART // max(1, images.stat().st_size)))
    rows = min(rows, max(1, -(-n // host.cores())))
    return [(start, min(n, start + rows)) for start in range(0, n, rows)]


def each_part(calls: Sequence[tuple[Any, ...]], progress: Progress) -> list[Any]:
    """Do these calls in children, as many at once as there are cores; their results in order."""
    results = []
    with ThreadPoolExecutor(host.cores(), thread_name_prefix="children") as pool:
        futures = [pool.submit(call, *each) for each in calls]
        try:
            for done, future in enumerate(futures, 1):
                results.append(future.result())
                progress(done / len(futures))
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return results


def call(place: str, *arguments: Any) -> Any:
    """One call in a child behind walls."""
    seconds = HOURS * 3600
    limits = Limits(memory=min(MOST_MEMORY, host.free_bytes()), cpu_seconds=seconds, file_bytes=MOST_FILE)
    return sandbox.call(place, *arguments, limits=limits, seconds=seconds)


def write_copy(
    images: Path, target: Path, contract: InputContract, shape: tuple[int, int, int], channels: int, progress: Progress
) -> list[tuple[int, str]]:
    """Write what `contract` makes of a file of pictures to `target`, as .npy (N, H, W, C): decoded in children.

    shape: (h, w, c) of what it makes. channels: of the dataset.

    Returns:
        position and reason of each picture of which nothing can be made, at most 20; then the copy is not whole.

    Raises:
        SourceError: a child needed more than its limits.
    """
    n = len(PictureFile(images))
    with target.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + n * int(np.prod(shape)))
    place, said = "engine.data.decoding:copy_rows", contract.model_dump_json()
    calls = [(place, str(images), str(target), *part, said, channels) for part in spans(images, n)]
    return [(row, text) for part in each_part(calls, progress) for row, text in part][:MAX_ERRORS]


def marks_of(images: Path, positions: NDArray[np.int64], key: bytes) -> list[str]:
    """The marks of these pictures (`app.formats.marks`), decoded in children."""
    parts = np.array_split(positions, max(1, -(-len(positions) // ROWS_OF_A_PART)))
    calls = [("engine.data.decoding:marks_of", str(images), part.tolist(), key.hex()) for part in parts]
    return [mark for part in each_part(calls, lambda _: None) for mark in part]


def upload(params: UploadSource, cache: Path | None, content: Path | None) -> RawData:  # noqa: ARG001
    """Nothing: what was uploaded is taken in by `take_in`.

    Raises:
        SourceError: always.
    """
    raise SourceError("nothing has been uploaded")


def objects(params: ObjectsSource, cache: Path | None, content: Path | None) -> RawData:  # noqa: ARG001
    """Nothing: the service itself reads its operator's storage.

    Raises:
        SourceError: always.
    """
    raise SourceError("no storage is open here")


def load_content(
    content: Path,
    holdout_fraction: float,
    seed: int,
    class_names: Sequence[str] | None = None,
    contract: InputContract | None = None,
) -> RawData:
    """The samples of one file that is trusted, in this process. Where it says nothing of splits, a share of them,
    drawn from `seed`, is kept as holdout. contract: what makes the images one size; None: they are of one.

    Raises:
        SourceError: see `decoding.decode`; or the images are of different sizes.
    """
    manifest, images = decoding.decode(content, class_names)
    if contract is not None:
        images = [geometry.prepared(image, contract) for image in images]
    if len({image.shape for image in images}) > 1:
        raise SourceError("the images are of different sizes; an input contract with a geometry makes them one size")
    held = decoding.holdout(manifest, {"holdout_fraction": holdout_fraction, "seed": seed})
    labels = np.array(manifest.labels, dtype=np.int64)
    holdout = np.array(held, dtype=np.bool_)
    return RawData(manifest.ids or [], np.stack(images), labels, holdout, manifest.subjects, manifest.class_names)
