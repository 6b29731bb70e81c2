"""How many requests have which law, ground, decision and length: tallies that the database itself keeps.

To group a million requests takes seconds. So triggers write what each change of a request adds to a tally and takes off
it, in the same transaction: the sum is exact at any time. What was written is added up now and then (`add_up`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import delete, func, select, text, union_all
from sqlalchemy.orm import Session

from app.core.db import Database
from app.core.tables import Tally, TallyChange

REQUEST, ANSWERED, VERDICT, REFUSAL = "request", "answered", "verdict", "refusal"
MOST_CHANGES = 1000  # before they are added up


@dataclass(frozen=True)
class Group:
    """Requests that have all of this in common. `ended`: fulfilled | decided | nothing; `days`: whole ones until the
    answer, which is the letter where one is marked as sent; `late`: after the due date."""

    jurisdiction: str
    ground: str | None
    decision: str
    refusal_ground: str | None
    partly_refused: bool
    extended: bool
    ended: str
    late: bool
    days: int | None
    requests: int
    samples: int


def groups(session: Session, tenant_id: str, year: int | None) -> Iterator[Group]:
    """Of the requests received in that year, where the controller acts, or in all years."""
    for value, requests, samples in _sums(session, tenant_id, REQUEST, year):
        law, ground, decision, refusal, partly, extended, ended, late, days = value.split("|")
        yield Group(
            jurisdiction=law,
            ground=ground or None,
            decision=decision,
            refusal_ground=refusal or None,
            partly_refused=partly == "1",
            extended=extended == "1",
            ended=ended,
            late=late == "1",
            days=int(days) if days else None,
            requests=requests,
            samples=samples,
        )


def answered(session: Session, tenant_id: str, year: int | None) -> Counter[int]:
    """Of those that are fulfilled: how many, by the hundredths of a day that the answer took."""
    return Counter({int(value): count for value, count, _ in _sums(session, tenant_id, ANSWERED, year)})


def refusals(session: Session, tenant_id: str, year: int | None) -> Iterator[tuple[str | None, bool, int]]:
    """Refusals of requests received in that year: the ground, whether they came late, and how many."""
    for value, count, _ in _sums(session, tenant_id, REFUSAL, year):
        ground, _, late = value.partition("|")
        yield ground or None, late == "1", count


def verdicts(session: Session, tenant_id: str, year: int | None) -> dict[str, int]:
    """How many models of requests, by the verdict of the audit that their version was published with in that year."""
    return {value: count for value, count, _ in _sums(session, tenant_id, VERDICT, year)}


def at(counts: Mapping[int, int], place: int) -> int:
    """The value at that place, from 0, of all values in rising order."""
    for value, count in sorted(counts.items()):
        place -= count
        if place < 0:
            return value
    raise ValueError("no such place")


def _sums(session: Session, tenant_id: str, name: str, year: int | None) -> Iterator[tuple[str, int, int]]:
    parts = []
    for table in (Tally, TallyChange):
        part = select(table.value, table.requests, table.samples)
        part = part.where(table.tenant_id == tenant_id, table.name == name)
        parts.append(part if year is None else part.where(table.year == year))
    both = union_all(*parts).subquery()
    query = select(both.c.value, func.sum(both.c.requests), func.sum(both.c.samples)).group_by(both.c.value)
    for value, requests, samples in session.execute(query):
        if requests:
            yield value, int(requests), int(samples)


_KEYS = "tenant_id, year, name, value"
_ADDED = (
    f"INSERT INTO tallies ({_KEYS}, requests, samples) SELECT {_KEYS}, sum(requests), sum(samples) FROM {{}} "  # noqa: S608
    f"WHERE number <= :last GROUP BY {_KEYS} ORDER BY {_KEYS} ON CONFLICT ({_KEYS}) DO UPDATE "
    "SET requests = tallies.requests + excluded.requests, samples = tallies.samples + excluded.samples"
)
_ADD = text(_ADDED.format("tally_changes"))
# One statement: another process adds up only what this one does not, and what is committed meanwhile stays.
_MOVED = (
    "WITH gone AS (DELETE FROM tally_changes WHERE number <= :last RETURNING *), added AS ({}) "
    "SELECT count(*) FROM gone"
)
_MOVE = text(_MOVED.format(_ADDED.format("gone")))


def add_up(database: Database) -> int:
    """Add the changes to the tallies, once there are many; how many. The sweeper's duty."""
    with database.read() as session:
        if session.scalars(select(TallyChange.number).offset(MOST_CHANGES).limit(1)).first() is None:
            return 0
    with database.write() as session:
        last = session.scalars(select(func.max(TallyChange.number))).one()
        if database.is_sqlite:
            session.execute(_ADD, {"last": last})
            gone = session.execute(delete(TallyChange).where(TallyChange.number <= last))
            return int(gone.rowcount)  # type: ignore[attr-defined]
        return int(session.execute(_MOVE, {"last": last}).scalar_one())
