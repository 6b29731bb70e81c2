"""Fetching pictures that stay in object storage: in order, by as many threads as make up for its distance."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.catalog import ObjectsSource
from app.core.tables import Dataset
from app.datasets.open_objects import objects_of
from app.datasets.storage import ObjectError
from app.formats import addresses
from app.formats.manifest import MAX_ERRORS
from app.formats.pictures import PictureFile, PictureWriter
from app.formats.references import Reference
from worker.runtime.run import JobError, Resources

if TYPE_CHECKING:
    from app.datasets.objects import Objects

AT_ONCE = 16
AHEAD = 2 * AT_ONCE  # pictures in memory, at most: each may have 16 MiB
LISTED = "listed"


def fetch(theirs: Objects, wanted: Iterator[Reference | str | None]) -> Iterator[bytes | ObjectError | None]:
    """The pictures at addresses, or that references name, in that order; None for None.

    Raises:
        StorageUnavailableError: the storage does not answer.
    """

    def one(what: Reference | str | None) -> bytes | ObjectError | None:
        try:
            if what is None:
                return None
            return theirs.read(what) if isinstance(what, str) else theirs.picture(what)
        except ObjectError as error:
            return error

    waiting: deque[Future[bytes | ObjectError | None]] = deque()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="objects") as pool:
        try:
            waiting.extend(pool.submit(one, what) for what in islice(wanted, AHEAD))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(one, what) for what in islice(wanted, 1))
        finally:
            for future in waiting:
                future.cancel()


def listed(theirs: Objects, params: ObjectsSource, folder: Path) -> dict[str, Any]:
    """A manifest of the image folder under the prefix of the source, as a file of `decoding.refer`.

    Raises:
        SourceError: something else lies there, or nothing does.
    """
    prefix = params.prefix or ""
    _, _, key = prefix.removeprefix("s3://").partition("/")
    found = [(name.removeprefix(key), size) for name, size in theirs.under(prefix)]
    names = {name: params.columns.get(name, name) for name in ("id", "address", "label", "split")}
    target = folder / LISTED
    rows, notes = addresses.of_folder(found)
    with target.open("w", encoding="utf-8") as file:
        for each in rows:
            row = {"address": f"{prefix}{each['path']}", **{name: each[name] for name in ("id", "label", "split")}}
            file.write(json.dumps({names[name]: value for name, value in row.items()}) + "\n")
    return {"path": str(target), "split": None, "notes": notes}


def bring(resources: Resources, dataset: Dataset, references: Path, path: Path, moved: Callable[[float], None]) -> None:
    """Write a file of the pictures that are referred to to `path`; erased ones are empty.

    Raises:
        JobError: some are gone, or are not what was taken in.
    """
    there = PictureFile(references)
    wanted = (Reference.of(there[row]) for row in range(len(there)))
    wrong: list[tuple[int, ObjectError]] = []
    with PictureWriter(path) as writer:
        for row, found in enumerate(fetch(objects_of(resources.settings, dataset.tenant_id), wanted)):
            if isinstance(found, ObjectError):
                wrong.append((row, found))
                if len(wrong) == MAX_ERRORS:
                    break
            writer.put(found if isinstance(found, bytes) else b"")
            moved(row / len(there))
    if wrong:
        raise refusal(wrong[0][1].kind, "cannot be read from where they lie", wrong)


def refusal(kind: str, what: str, wrong: Sequence[tuple[int, object]]) -> JobError:
    """Names samples by their positions: whoever may read the job may see what ids these have, until they are erased.

    wrong: positions and reasons."""
    least = "at least " if len(wrong) == MAX_ERRORS else ""
    detail = f"{least}{len(wrong)} pictures {what}, the first because {wrong[0][1]}"
    lines = [{"position": row, "detail": str(error)} for row, error in wrong]
    return JobError(kind, f"{detail}. `errors` names their samples", errors=lines)
