"""The job *ingest*: data become a file of pictures, of pixels, or of where pictures lie, and a manifest."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from app import jobs
from app.blobs import usage
from app.blobs.folder import BlobMissingError, Stored
from app.catalog import ObjectsSource, UploadSource
from app.core.positions import Positions
from app.core.tables import Dataset
from app.datasets import coin, shards, storage, suppression
from app.datasets import records as datasets
from app.datasets.open_objects import objects_of
from app.datasets.records import Row
from app.datasets.shards import Held
from app.formats.manifest import MAX_ERRORS, SourceError
from app.formats.pictures import REFERENCES, PictureWriter, is_pictures, write_without
from app.formats.references import Reference
from app.rules.states import JobState
from engine import places
from engine.data import decoding, ingest_report
from engine.data.decoding import ADDRESSES, IMAGES
from engine.data.ingest_report import Counts
from engine.data.samples import RawData
from engine.data.upload import Taken, look_over, place_of, refer, take_in
from worker.runtime.run import GaveWayError, Run
from worker.stages import objects
from worker.stages.contents import marks_of

ROWS_AT_ONCE = 10_000
Marks = list[str | None]


class Found(Protocol):
    """What a source gave: a file of images, what was seen of each (`decoding.looked_at`), and what is said of the
    samples, in parts."""

    @property
    def class_names(self) -> list[str] | None: ...
    @property
    def images(self) -> Path: ...
    @property
    def shape(self) -> list[int | None]: ...
    @property
    def looked(self) -> NDArray[np.void]: ...
    def parts(self) -> Iterator[list[Row]]: ...


def ingest(run: Run) -> None:
    """Take a source in; the uploaded bytes are removed afterwards."""
    with run.resources.database.read() as session:
        dataset = session.get_one(Dataset, run.claim.dataset_id)
    # What a source downloads or is unpacked goes with this block: it holds the samples that may have to be erased.
    with _folder(run) as folder:
        with run.stage("decode", 0.0, 0.8) as progress:
            try:
                found = _found(run, dataset, folder, progress.update)
            except SourceError as error:
                _refuse_source(run, dataset.upload, error)
                return
        with run.stage("store", 0.8, 1.0) as progress:
            sent = _store(run, dataset, found)
    _remove_uploads(run, [dataset.upload, *sent])


def _found(run: Run, dataset: Dataset, folder: Path, progress: ingest_report.Progress) -> Found:
    params = places.parse("sources", dataset.source, dataset.source_params)
    keys = [marker.key for marker in suppression.Marker.each(run.resources.settings, dataset.tenant_id)]
    if isinstance(params, UploadSource):
        files, held = _sent(run, dataset, folder)
        return _Uploaded(take_in(folder, files, params, keys, progress), held)
    if isinstance(params, ObjectsSource):
        return _referred(run, dataset, params, folder, keys, progress)
    cache = folder / "cache"
    cache.mkdir()
    return _Built(places.source(dataset.source)(params, cache, None), keys, folder)


def _sent(run: Run, dataset: Dataset, folder: Path) -> tuple[list[dict[str, Any]], list[Held]]:
    """The files of the dataset as `decoding.unpack` wants them, and those that other datasets have."""
    files: list[dict[str, Any]] = []
    found: list[Held] = []
    fetch = run.resources.blobs.fetch
    with run.resources.database.read() as session:
        rows = shards.rows(session, dataset.id)
        if not rows and dataset.upload:
            return [{"path": str(fetch(dataset.upload)), "split": None}], []
        for row in rows:
            if row.held_in is None:
                files.append({"path": str(fetch(row.blob or "")), "split": row.split})
                continue
            held = shards.held(session, row)
            said = folder / f"held-{row.number}"
            with said.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(sample) + "\n" for sample in held.samples)
            if not said.stat().st_size:  # all erased
                raise SourceError(f"shard {row.number} has no samples any more: close the dataset without it")
            files.append({"path": str(fetch(held.images)), "said": str(said), "class_names": held.class_names})
            found.append(held)
    return files, found


def _referred(
    run: Run,
    dataset: Dataset,
    params: ObjectsSource,
    folder: Path,
    keys: Sequence[bytes],
    progress: ingest_report.Progress,
) -> _Referred:
    """Pictures that stay in object storage: fetched once, to look at them, and only their digests kept.

    Raises:
        SourceError: what is wrong with a manifest, or which of its objects cannot be read.
    """
    settings = run.resources.settings
    theirs = objects_of(settings, dataset.tenant_id)
    files = _sent(run, dataset, folder)[0] or [objects.listed(theirs, params, folder)]
    said = refer(folder, files, params, storage.allowed(settings, dataset.tenant_id))
    n = said["samples"]
    digests, sizes = np.zeros((n, 32), dtype=np.uint8), np.zeros(n, dtype=np.int64)
    errors: dict[int, str] = {}
    with PictureWriter(folder / IMAGES) as writer:
        for row, found in enumerate(objects.fetch(theirs, _addresses(folder))):
            if isinstance(found, bytes):
                digests[row] = np.frombuffer(hashlib.sha256(found).digest(), np.uint8)
                sizes[row] = len(found)
            else:
                errors[row] = str(found)
                if len(errors) == MAX_ERRORS:
                    break
            writer.put(found if isinstance(found, bytes) else b"")
            progress(0.5 * row / n)
    if errors:
        lines = [f"{place_of(said, row)}: {text}" for row, text in errors.items()]
        raise SourceError("some objects cannot be read", lines)
    taken = look_over(folder, said, params, keys, lambda done: progress(0.5 + 0.5 * done))
    return _Referred(taken, [], digests, sizes)


def _addresses(folder: Path) -> Iterator[str]:
    with (folder / ADDRESSES).open(encoding="utf-8", newline="\n") as file:
        yield from map(json.loads, file)


@dataclass
class _Uploaded:
    taken: Taken
    held: list[Held]

    @property
    def class_names(self) -> list[str] | None:
        return self.taken.class_names

    @property
    def images(self) -> Path:
        return self.taken.images

    @property
    def shape(self) -> list[int | None]:
        return self.taken.shape

    @property
    def looked(self) -> NDArray[np.void]:
        return self.taken.looked

    def parts(self) -> Iterator[list[Row]]:
        return self.taken.rows(ROWS_AT_ONCE)


@dataclass
class _Referred(_Uploaded):
    """digests: (n, 32), sizes: (n,) bytes, of what lay at the addresses."""

    digests: NDArray[np.uint8]
    sizes: NDArray[np.int64]

    def write(self, target: Path, erased: Positions) -> None:
        """What is kept instead of pictures."""
        gone = np.zeros(len(self.sizes), dtype=np.bool_)
        gone[erased] = True
        with PictureWriter(target, REFERENCES) as writer:
            for row, address in enumerate(_addresses(self.taken.folder)):
                # With the first of the secrets, as a purge makes them.
                both = [self.looked[kind][row, 0] for kind in ("mark", "colour")]
                marks = [mark.tobytes().hex() for mark in both if mark.any()]
                kept = Reference(address, int(self.sizes[row]), self.digests[row].tobytes().hex(), marks)
                writer.put(b"" if gone[row] else kept.encoded())


def _marks(part: NDArray[np.void]) -> list[Marks]:
    """The marks of the contents of some rows, of each secret and kind (`decoding.looked_at`)."""
    return [_hex(made) for kind in ("mark", "colour", "former") for made in part[kind].swapaxes(0, 1)]


def _hex(marks: NDArray[np.uint8]) -> list[str | None]:
    return [mark.tobytes().hex() if mark.any() else None for mark in marks]


class _Built:
    """A built-in source, whose pixels are an array."""

    def __init__(self, raw: RawData, keys: Sequence[bytes], folder: Path) -> None:
        self._raw = raw
        self.class_names = raw.class_names
        self.images, beside = folder / "images", folder / "looked"
        _write_array(raw.images, self.images)
        decoding.look(str(self.images), 0, len(raw.ids), [key.hex() for key in keys], str(beside))
        self.looked: NDArray[np.void] = np.load(beside, allow_pickle=False)

    @property
    def shape(self) -> list[int | None]:
        return list(self._raw.images.shape[1:])

    def parts(self) -> Iterator[list[Row]]:
        raw = self._raw
        subjects = raw.subjects or [None] * len(raw.ids)
        for start in range(0, len(raw.ids), ROWS_AT_ONCE):
            yield [
                (raw.ids[row], subjects[row], int(raw.labels[row]), bool(raw.holdout[row]))
                for row in range(start, min(len(raw.ids), start + ROWS_AT_ONCE))
            ]


def _store(run: Run, dataset: Dataset, found: Found) -> list[str]:
    """Store samples and images without what was erased before: in this dataset, before a backup was restored, or in
    another one of the tenant. Digests of uploaded bytes that are needed no more."""
    settings, database = run.resources.settings, run.resources.database
    with database.read() as session:
        restored = datasets.suppressed(session, dataset.id)
    known = suppression.Known(database, settings, dataset)
    known.look(partial(_contents, run))
    kept: list[list[Row]] = []
    counts, gone = Counts(), []
    for given in found.parts():
        start, rows = counts.samples, _with_coin(dataset.coin, given)
        ids, subjects = [row[0] for row in rows], [row[1] for row in rows]
        contents = _marks(found.looked[start : start + len(rows)]) if known.any else []
        lost = known.among(ids, subjects, contents)
        if restored:
            marks = ({*datasets.suppressions(settings, dataset.id, name)} for name in ids)
            lost |= np.array([not restored.isdisjoint(each) for each in marks])
        for place in np.flatnonzero(lost).tolist():
            name, _, label, held = rows[place]
            rows[place] = datasets.suppression(settings, dataset.id, name), None, label, held
        counts.add(rows)
        gone += (start + np.flatnonzero(lost)).tolist()
        # What a restored backup has left stands for the samples until all of them are stored at once.
        if restored:
            kept.append(rows)
            continue
        with database.write() as session:
            datasets.write_samples(session, run.claim, start, rows)
        run.heartbeat.moved()
    erased: Positions = np.array(gone, dtype=np.int64)
    if isinstance(found, _Referred):
        images = run.put(partial(found.write, erased=erased))
    else:
        images = run.put(partial(_write_images, found.images, erased))
    while True:
        _require_none(known.look(partial(_contents, run)), known, found, erased)
        with database.write() as session:
            jobs.fenced(session, run.claim)
            if known.is_behind(session):
                continue
            return _finish(session, run, dataset, found, kept, counts, images, erased)


def _contents(run: Run, asked: suppression.Asked) -> Sequence[str | None]:
    """Marks of the pixels that open requests ask for.

    Raises:
        GaveWayError: they were erased at this moment, and are suppressed now.
    """
    try:
        return marks_of(run, asked.images, asked.positions)
    except BlobMissingError:
        raise GaveWayError("samples of another dataset were erased while they were looked at") from None


def _require_none(fresh: set[str], known: suppression.Known, found: Found, erased: Positions) -> None:
    """Raises:
    GaveWayError: a sample that was let in is erased, or asked for, since: another attempt leaves it out.
    """
    start = 0
    for rows in found.parts() if fresh else ():
        contents = _marks(found.looked[start : start + len(rows)])
        own = known.among([row[0] for row in rows], [row[1] for row in rows], contents, fresh)
        if len(np.setdiff1d(start + np.flatnonzero(own), erased)):
            raise GaveWayError("samples were erased, or asked for, while the dataset was taken in")
        start += len(rows)


def _finish(
    session: Session,
    run: Run,
    dataset: Dataset,
    found: Found,
    kept: list[list[Row]],
    counts: Counts,
    images: Stored,
    erased: Positions,
) -> list[str]:
    """The dataset is ready, and the job done; digests of uploaded bytes that are needed no more."""
    start = 0
    for rows in kept:
        datasets.write_samples(session, run.claim, start, rows)
        start += len(rows)
    report = ingest_report.of(found.taken, counts, erased) if isinstance(found, _Uploaded) else None
    usage.pin(session, run.resources.blobs, images.digest)
    datasets.write_manifest(
        session,
        run.claim,
        labels=counts.labels,
        holdout=counts.holdout,
        class_names=found.class_names,
        shape=found.shape,
        images=images,
        erased=erased,
        report=report,
        duplicates=ingest_report.duplicates(found.looked, erased),
    )
    sent = []
    if isinstance(found, _Uploaded):
        shards.require_same(session, found.held)
        whole = dataset.upload if dataset.carried_for is None and dataset.source == "upload" else None
        size = run.resources.blobs.size(whole) if whole else 0
        sent = shards.taken_in(session, dataset, whole, found.taken.parts, size)
    job = jobs.fenced(session, run.claim)
    result = {"samples": counts.samples, "left_out": len(erased)}
    jobs.finish(session, job, JobState.SUCCEEDED, result=result)
    return sent


def _with_coin(drawn: str | None, rows: list[Row]) -> list[Row]:
    """The rows with the canaries among them in the split that the dataset's coin, if it has one, decides."""
    if drawn is None:
        return rows
    ids, subjects, labels, held = zip(*rows, strict=True)
    return list(zip(ids, subjects, labels, coin.assign(drawn, ids, subjects, held), strict=True))


@contextmanager
def _folder(run: Run) -> Iterator[Path]:
    """An empty folder of the job, which goes afterwards: what a killed attempt left in it, too."""
    path = run.resources.settings.sources_dir / run.claim.id
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _refuse_source(run: Run, upload: str | None, error: SourceError) -> None:
    problem = jobs.problem("dataset-content", error.detail, errors=[{"detail": line} for line in error.errors])
    with run.resources.database.write() as session:
        job = jobs.fenced(session, run.claim)
        datasets.fail(session, run.claim, problem)
        jobs.finish(session, job, JobState.FAILED, problem=problem)
    _remove_uploads(run, [upload])  # shards stay: one of them may be sent anew


def _remove_uploads(run: Run, digests: Sequence[str | None]) -> None:
    for digest in filter(None, digests):
        usage.remove(run.resources.database, run.resources.blobs, digest)


def _write_images(source: Path, erased: Positions, target: Path) -> None:
    if not len(erased):
        shutil.move(source, target)
    elif is_pictures(source):
        write_without(source, target, erased)
    else:
        shutil.move(source, target)
        images = np.load(target, mmap_mode="r+", allow_pickle=False)
        images[erased] = 0
        images.flush()


def _write_array(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
