"""From the names a client uses, sample ids and subjects, to positions in a dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.orm import Session

from app import datasets
from app.config import Settings
from app.errors import Conflict, Unprocessable
from app.positions import Positions
from app.tables import Dataset

SHOWN_FAULTS = 100


def resolve(
    session: Session,
    settings: Settings,
    dataset: Dataset,
    ids: Sequence[str],
    pointer: str,
    refused: NDArray[np.bool_] | None = None,
    code: str = "requested",
) -> Positions:
    """Positions of the ids, in no order; a refusal names places in the list `pointer`, never ids.

    `refused`: bool (N,) of positions that may not be named, for the reason that `code` gives.
    """
    found = _lookup(session, dataset.id, ids)
    faults: list[tuple[int, str]] = []
    first: dict[str, int] = {}
    for place, sample_id in enumerate(ids):
        if first.setdefault(sample_id, place) != place:
            faults.append((place, "duplicate"))
    unknown = [sample_id for sample_id in first if sample_id not in found]
    if unknown:
        marks = {datasets.suppression(settings, dataset.id, sample_id): sample_id for sample_id in unknown}
        erased = {marks[mark] for mark in _lookup(session, dataset.id, list(marks))}
        faults += [(first[i], "erased" if i in erased else "unknown") for i in unknown]
    positions = np.fromiter(found.values(), dtype=np.int64)
    if refused is not None and refused[positions].any():
        faults += [(first[i], code) for i, p in found.items() if refused[p]]
    if faults:
        raise _id_problem(sorted(faults), pointer)
    return positions


def _lookup(session: Session, dataset_id: str, ids: Sequence[str]) -> dict[str, int]:
    """Positions by id, in one statement whatever the number of ids."""
    if session.get_bind().dialect.name == "sqlite":
        # CROSS JOIN: by itself SQLite walks all samples and, for each, the whole list.
        sql = (
            "SELECT s.sample_id, s.position FROM json_each(:ids) j "
            "CROSS JOIN samples s ON s.dataset_id = :d AND s.sample_id = j.value"
        )
        given: object = json.dumps(list(ids))
    else:
        sql = "SELECT s.sample_id, s.position FROM samples s WHERE s.dataset_id = :d AND s.sample_id = ANY(:ids)"
        given = list(ids)
    rows = session.execute(text(sql), {"ids": given, "d": dataset_id})
    return dict(rows.all())


ID_KINDS = {
    "duplicate": "sample-duplicated",
    "unknown": "sample-unknown",
    "erased": "sample-erased",
    "requested": "sample-requested",
    "foreign": "sample-foreign",  # not of the request that the list is about
}


def _id_problem(faults: list[tuple[int, str]], pointer: str) -> Conflict | Unprocessable:
    counts = {code: sum(c == code for _, c in faults) for code in ID_KINDS}
    words = ", ".join(f"{n} {code}" for code, n in counts.items() if n)
    worst = next(code for code in ("unknown", "foreign", "duplicate", "erased", "requested") if counts[code])
    error = Conflict if worst in ("erased", "requested") else Unprocessable
    return error(
        f"Some sample ids cannot be accepted: {words}. Nothing was stored.",
        kind=ID_KINDS[worst],
        errors=[{"pointer": f"{pointer}/{place}", "code": code} for place, code in faults[:SHOWN_FAULTS]],
        counts={code: n for code, n in counts.items() if n},
    )


def of_subjects(session: Session, dataset: Dataset, subjects: Sequence[str], requested: NDArray[np.bool_]) -> Positions:
    """Every sample of these subjects that is not requested yet.

    Raises:
        Unprocessable: a subject that has no sample (left); says which place of the list.
    """
    if session.get_bind().dialect.name == "sqlite":
        sql = (
            "SELECT j.key, s.position FROM json_each(:names) j "
            "CROSS JOIN samples s ON s.dataset_id = :d AND s.subject = j.value"
        )
        given: Any = json.dumps(list(subjects))
    else:
        sql = (
            "SELECT n.place - 1, s.position FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS n (name, place) "
            "JOIN samples s ON s.dataset_id = :d AND s.subject = n.name"
        )
        given = list(subjects)
    rows = session.execute(text(sql), {"names": given, "d": dataset.id}).all()
    left = [(place, position) for place, position in rows if not requested[position]]
    missing = sorted(set(range(len(subjects))) - {place for place, _ in left})
    if missing:
        raise Unprocessable(
            f"{len(missing)} of the subjects have no sample that could still be requested. Nothing was stored.",
            kind="subject-unknown",
            errors=[{"pointer": f"/subjects/{place}", "code": "unknown"} for place in missing[:SHOWN_FAULTS]],
        )
    return np.unique(np.array([position for _, position in left], dtype=np.int64))
