"""From the names a client uses, sample ids and subjects, to positions in a dataset."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.core.config import Settings
from app.core.errors import Conflict, Unprocessable
from app.core.positions import Positions, distinct
from app.core.tables import Dataset, Sample
from app.datasets import canaries
from app.datasets import records as datasets
from app.formats.names import normal, normal_all, other_forms

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
    """Positions of the ids, in any order; a refusal names places in the list `pointer`, never ids.

    `refused`: bool (N,) of positions that may not be named, for the reason that `code` gives.
    """
    found = find(session, dataset, ids)
    banned = () if refused is None else (refused,)
    require_fit(session, settings, dataset, ids, found, pointer, banned, code)
    return found


def require_fit(
    session: Session,
    settings: Settings,
    dataset: Dataset,
    ids: Sequence[str],
    found: Positions,
    pointer: str,
    refused: Sequence[NDArray[np.bool_]],
    code: str = "requested",
) -> None:
    """Refuse ids that are unknown, erased, named twice or in one of `refused`.

    `found`: what `find` or `look_up` says of them.
    """
    if len(found) == len(ids) and _all_fit(found, refused):
        return
    found = look_up(session, dataset, ids)
    first: dict[str, int] = {}
    faults = [
        (place, "duplicate") for place, name in enumerate(normal_all(ids)) if first.setdefault(name, place) != place
    ]
    distinct = sorted(first.values())
    unknown = [place for place in distinct if found[place] < 0]
    if unknown:
        names = [(place, form) for place in unknown for form in (normal(ids[place]), *other_forms(ids[place]))]
        marks = [(place, mark) for place, form in names for mark in datasets.suppressions(settings, dataset.id, form)]
        there = look_up(session, dataset, [mark for _, mark in marks]) >= 0
        erased = {place for (place, _), is_there in zip(marks, there.tolist(), strict=True) if is_there}
        faults += [(place, "erased" if place in erased else "unknown") for place in unknown]
    known = [place for place in distinct if found[place] >= 0]
    faults += [(place, code) for place in known if any(mask[found[place]] for mask in refused)]
    raise _id_problem(sorted(faults), pointer)


def _all_fit(found: Positions, refused: Sequence[NDArray[np.bool_]]) -> bool:
    if len(found) <= 1:  # numpy's calls would be most of such an order's cost
        return all(p >= 0 and not any(mask[p] for mask in refused) for p in found)
    if found.min() < 0 or any(mask[found].any() for mask in refused):
        return False
    return len(distinct(found)) == len(found)


# The outer join keeps SQLite from walking all samples and, for each, the whole list; and it keeps the list's order.
_SQLITE_LOOK_UP = text(
    "SELECT group_concat(coalesce(s.position, -1)) FROM json_each(:ids) j "
    "LEFT JOIN samples s ON s.dataset_id = :d AND s.sample_id = j.value"
)
_POSTGRES_LOOK_UP = text(
    "SELECT string_agg(int8send((n.place - 1) << 32 | s.position), '') "
    # By way of a subquery: a list whose length the planner knew would have it hash the dataset instead of the list.
    "FROM unnest(string_to_array((SELECT CAST(:ids AS text)), :mark)) WITH ORDINALITY AS n (name, place) "
    "JOIN samples s ON s.dataset_id = :d AND s.sample_id = n.name"
)


def look_up(session: Session, dataset: Dataset, ids: Sequence[str]) -> Positions:
    """int64, a position for each id in their order, -1 where there is none: one statement for any number of ids.

    Ids are asked for in the form in which they are stored; such as were stored before there was one form, in any.
    """
    found = _look_up(session, dataset, normal_all(ids))
    missing = [(place, form) for place in np.flatnonzero(found < 0).tolist() for form in other_forms(ids[place])]
    if missing:
        again = _look_up(session, dataset, [form for _, form in missing])
        for (place, _), position in zip(missing, again.tolist(), strict=True):
            found[place] = max(found[place], position)
    return found


def _look_up(session: Session, dataset: Dataset, ids: Sequence[str]) -> Positions:
    if not ids:
        return np.empty(0, dtype=np.int64)
    if session.get_bind().dialect.name == "sqlite":
        listed: str = session.execute(_SQLITE_LOOK_UP, {"ids": to_json(ids).decode(), "d": dataset.id}).scalar_one()
        return np.fromstring(listed, dtype=np.int64, sep=",")
    pairs: bytes | None = session.execute(_POSTGRES_LOOK_UP, _marked(dataset, ids)).scalar_one()
    found = np.full(len(ids), -1, dtype=np.int64)
    if pairs is not None:
        both = np.frombuffer(pairs, dtype=">u4").reshape(-1, 2)
        found[both[:, 0]] = both[:, 1]
    return found


MANY = 1000  # ids from which PostgreSQL had better read a large share of a dataset than probe an index for each
SHARE = 50  # … when they are more than one in fifty of its samples


def is_large(session: Session, dataset: Dataset, ids: Sequence[str]) -> bool:
    """Whether `find` is faster than `look_up` for this number of ids."""
    return session.get_bind().dialect.name != "sqlite" and len(ids) > max(MANY, dataset.sample_count // SHARE)


# PostgreSQL hashes a list that is a constant of the plan: never one of a plan that is kept, which would compare each
# sample with each id. Parallel workers would each hash it again.
_PLAN_ANEW = text(
    "SELECT set_config('plan_cache_mode', 'force_custom_plan', true), "
    "set_config('max_parallel_workers_per_gather', '0', true)"
)
_POSTGRES_FIND = text(
    "SELECT string_agg(int4send(position), '') FROM samples WHERE dataset_id = :d "
    # Not a condition by itself: the planner would weigh each of the ids, which takes as long as to find them.
    "AND CASE WHEN sample_id = ANY (string_to_array(CAST(:ids AS text), :mark)) THEN true END"
)


def find(session: Session, dataset: Dataset, ids: Sequence[str]) -> Positions:
    """int64, positions of the ids in any order. Some id is unknown or named twice if one is -1 or they are fewer."""
    if not is_large(session, dataset, ids):
        return look_up(session, dataset, ids)
    session.execute(_PLAN_ANEW)
    found: bytes | None = session.execute(_POSTGRES_FIND, _marked(dataset, normal_all(ids))).scalar_one()
    positions = np.frombuffer(found or b"", dtype=">u4").astype(np.int64)
    # Fewer: some are unknown, or named twice, or were stored before there was one form of an id.
    return positions if len(positions) == len(ids) else look_up(session, dataset, ids)


def _marked(dataset: Dataset, ids: Sequence[str]) -> dict[str, str]:
    """Parameters: the ids as one text, and what stands between them. A list's values would each be bound by itself."""
    mark = "\x01"
    together = mark.join(ids)
    if together.count(mark) >= len(ids):  # an id has it, too: then one that nobody can guess
        mark = f"\x01{secrets.token_hex(16)}"
        together = mark.join(ids)
    return {"ids": together, "mark": mark, "d": dataset.id}


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
    asked = [(place, form) for place, name in enumerate(subjects) for form in (normal(name), *other_forms(name))]
    places, names = [place for place, _ in asked], [name for _, name in asked]
    if session.get_bind().dialect.name == "sqlite":
        sql = (
            "SELECT j.key, s.position FROM json_each(:names) j "
            "CROSS JOIN samples s ON s.dataset_id = :d AND s.subject = j.value"
        )
        given: Any = json.dumps(list(names))
    else:
        sql = (
            "SELECT n.place - 1, s.position FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS n (name, place) "
            "JOIN samples s ON s.dataset_id = :d AND s.subject = n.name"
        )
        given = list(names)
    found = session.execute(text(sql), {"names": given, "d": dataset.id}).all()
    rows = [(places[place], position) for place, position in found]
    left = [(place, position) for place, position in rows if not requested[position]]
    missing = sorted(set(range(len(subjects))) - {place for place, _ in left})
    if missing:
        raise Unprocessable(
            f"{len(missing)} of the subjects have no sample that could still be requested. Nothing was stored.",
            kind="subject-unknown",
            errors=[{"pointer": f"/subjects/{place}", "code": "unknown"} for place in missing[:SHOWN_FAULTS]],
        )
    return distinct(np.array([position for _, position in left], dtype=np.int64))


def names_at(session: Session, dataset: Dataset, positions: Positions) -> list[str]:
    """The ids of the samples at these positions, which are few, in their order."""
    query = select(Sample.sample_id).where(Sample.dataset_id == dataset.id, Sample.position.in_(positions.tolist()))
    return list(session.scalars(query.order_by(Sample.position)))


def people(session: Session, dataset_id: str, size: int) -> NDArray[np.int64]:
    """(size,) which person each sample belongs to, by a number that means nothing else; -1 where none is known.

    Canaries belong to nobody.
    """
    number = func.dense_rank().over(order_by=Sample.subject)
    known = Sample.dataset_id == dataset_id, Sample.subject.is_not(None), Sample.subject != canaries.SUBJECT
    found = np.full(size, -1, dtype=np.int64)
    for part in session.execute(select(Sample.position, number).where(*known)).partitions(100_000):
        rows = np.array(part, dtype=np.int64)
        found[rows[:, 0]] = rows[:, 1]
    return found
