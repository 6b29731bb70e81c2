"""The tallies that the database keeps, held to a slow count of the requests after any history."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
from alembic import command
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from app.core import keys
from app.core.db import Database, insert_many
from app.core.ids import new_id
from app.core.tables import Dataset, DeletionRequest, Refusal, Tally, TallyChange
from app.deletions import compliance, figures, tallies
from app.operations import migrate
from app.rules.grounds import law_of
from app.rules.states import Decision
from tests.support import Account

TENANT = keys.FIRST_TENANT
FIRST = datetime(2024, 12, 20)  # noqa: DTZ001  (the database holds UTC)
YEARS = (None, 2024, 2025, 2026)


def some(chance: random.Random, received: datetime) -> dict[str, Any]:
    """Columns of a request in any state, whether or not the service would bring it about."""
    later = received + timedelta(days=chance.randrange(60), seconds=chance.choice([0, 0, 431, 432, 86399]))
    later += timedelta(microseconds=chance.choice([0, 1, 499_999, 999_999]))
    return {
        "jurisdiction": chance.choice(["gdpr", "gdpr:DE", "uk-gdpr", "ccpa"]),
        "ground": chance.choice([None, "17(1)(a)", "1798.105"]),
        "decision": chance.choice(list(Decision)).value,
        "refusal_ground": chance.choice([None, "12(5)"]),
        "refused_count": chance.choice([0, 0, 2]),
        "extended_at": chance.choice([None, received]),
        "received_at": received,
        "due_at": received + timedelta(days=chance.randrange(45)),
        "decided_at": chance.choice([None, later]),
        "fulfilled_at": chance.choice([None, later, later]),
        "answered_at": chance.choice([None, None, later + timedelta(days=chance.randrange(9))]),
        "local_year": chance.choice([None, None, received.year + 1]),
        "sample_count": chance.randrange(1, 9),
    }


def moment(chance: random.Random) -> datetime:
    return FIRST + timedelta(seconds=chance.randrange(400 * 86400), microseconds=chance.choice([0, 0, 999_999]))


def change(database: Database, dataset: str, chance: random.Random, ids: list[str]) -> None:
    """One transaction: requests come, change in one column or in all, go; the transaction may come to nothing."""
    with database.write() as session:
        new = [
            {"id": new_id("del"), "tenant_id": TENANT, "dataset_id": dataset, "basis": "b", "positions": b""}
            | some(chance, moment(chance))
            for _ in range(chance.randrange(6))
        ]
        insert_many(session, DeletionRequest, new)
        changed = chance.sample(ids, min(len(ids), chance.randrange(5)))
        for name in changed:
            values = some(chance, moment(chance))
            if chance.random() < 0.7:
                one = chance.choice(list(values))
                values = {one: values[one]}
            session.execute(update(DeletionRequest).where(DeletionRequest.id == name).values(**values))
        gone = chance.sample(ids, min(len(ids), chance.choice([0, 0, 1])))
        refuse(session, chance, [row["id"] for row in new])
        session.execute(delete(Refusal).where(Refusal.request_id.in_(gone)))
        session.execute(delete(DeletionRequest).where(DeletionRequest.id.in_(gone)))
        if chance.random() < 0.2:
            session.rollback()
            return
    ids[:] = [name for name in ids + [row["id"] for row in new] if name not in gone]


def refuse(session: Session, chance: random.Random, requests: list[str]) -> None:
    for number in session.scalars(select(Refusal.event)).all():
        if chance.random() < 0.1:
            session.execute(update(Refusal).where(Refusal.event == number).values(late=True, ground="12(5)"))
    for name in requests:
        refusal = {
            "event": chance.randrange(10**9),
            "tenant_id": TENANT,
            "request_id": name,
            "year": chance.choice([2024, 2025]),
            "samples": chance.randrange(1, 9),
            "ground": chance.choice([None, "17(3)(e)"]),
            "late": chance.choice([False, False, True]),
        }
        if chance.random() < 0.5:
            session.execute(insert(Refusal), refusal)


def seconds(start: datetime, end: datetime) -> int:
    return int((end.replace(microsecond=0) - start.replace(microsecond=0)).total_seconds())


def counted(database: Database, year: int | None) -> dict[str, Any]:
    """The figures as a loop over all requests finds them."""
    with database.read() as session:
        rows = list(session.scalars(select(DeletionRequest)))
        refused = [each for each in session.scalars(select(Refusal)) if year in (None, each.year)]
    rows = [row for row in rows if year is None or (row.local_year or row.received_at.year) == year]
    ended = [(row, end) for row in rows if (end := row.answered_at or row.fulfilled_at or row.decided_at)]
    days: dict[str, list[int]] = {}
    late: Counter[str] = Counter()
    for row, end in ended:
        days.setdefault(law_of(row.jurisdiction), []).append(int(seconds(row.received_at, end) / 86400))
        late[law_of(row.jurisdiction)] += end > row.due_at

    def length(found: list[int], too_late: int) -> dict[str, Any]:
        middle = float(statistics.median(found)) if found else None
        mean = round(sum(found) / len(found), 2) if found else None
        return {"answered": len(found), "mean": mean, "median": middle, "late": too_late}

    def outcome(row: DeletionRequest) -> str:
        if row.decision in ("refused", "cancelled"):
            return row.decision
        if not (row.fulfilled_at or row.decided_at):
            return "open"
        return "granted-in-part" if row.refused_count else "granted"

    answered = [row for row in rows if row.fulfilled_at and row.decision not in ("refused", "cancelled", "held")]
    ends = [(row, end) for row in answered if (end := row.answered_at or row.fulfilled_at)]
    took = [int((seconds(row.received_at, end) + 432) / 864) for row, end in ends]
    return {
        "received": len(rows),
        "by_law": Counter(law_of(row.jurisdiction) for row in rows),
        "by_ground": Counter(row.ground or "none" for row in rows),
        "by_outcome": Counter(map(outcome, rows)),
        "by_refusal_ground": Counter(each.ground or "none" for each in refused),
        "refused_late": sum(each.late for each in refused),
        "days": length([day for found in days.values() for day in found], late.total()),
        "days_by_law": {law: length(found, late[law]) for law, found in days.items()},
        "samples": sum(row.sample_count for row in rows),
        "extended": sum(row.extended_at is not None for row in rows),
        "answered_late": sum(row.fulfilled_at is not None and end > row.due_at for row, end in ended),
        "mean_days": round(sum(took) / len(took) / 100, 2) if took else None,
        "median_days": round(statistics.median(took) / 100, 2) if took else None,
    }


def agree(database: Database) -> None:
    for year in YEARS:
        expected = counted(database, year)
        found = figures.of(database, TENANT, year)
        found |= {"samples": None} | compliance.summary(database, TENANT, year)
        assert {name: found[name] for name in expected} == expected, year


@pytest.fixture
def dataset(account: Account) -> str:
    name = new_id("dst")
    with account.database.write() as session:
        session.add(
            Dataset(
                id=name,
                tenant_id=TENANT,
                name="d",
                source="upload",
                source_params={},
                state="ready",
                created_at=FIRST,
            )
        )
    return name


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tallies_are_what_a_count_of_all_requests_finds(
    account: Account, dataset: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(tallies, "MOST_CHANGES", 5)
    chance, ids = random.Random(seed), list[str]()
    added = 0
    for step in range(60):
        change(account.database, dataset, chance, ids)
        if chance.random() < 0.2:
            added += tallies.add_up(account.database)
        if step % 10 == 9:
            agree(account.database)
    assert added
    assert len(ids) > 20


def test_an_update_that_changes_nothing_is_not_counted(account: Account, dataset: str) -> None:
    change(account.database, dataset, random.Random(4), [])
    before = rows_of(account.database)
    with account.database.write() as session:
        session.execute(update(DeletionRequest).values(decision=DeletionRequest.decision, reason="again"))
    assert rows_of(account.database) == before


def rows_of(database: Database) -> int:
    with database.read() as session:
        return session.scalars(select(func.count()).select_from(TallyChange)).one()


def test_two_add_up_at_once_and_another_writes(account: Account, dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is added twice, and nothing that is committed meanwhile is lost."""
    monkeypatch.setattr(tallies, "MOST_CHANGES", 0)
    database, chance, ids = account.database, random.Random(5), list[str]()
    for _ in range(10):
        change(database, dataset, chance, ids)
    if not database.is_sqlite:  # it has one writer at a time
        with database.write() as slow:
            row = {"id": new_id("del"), "tenant_id": TENANT, "dataset_id": dataset, "basis": "b", "positions": b""}
            insert_many(slow, DeletionRequest, [row | some(chance, moment(chance))])  # an early number, committed late
            for _ in range(5):
                change(database, dataset, chance, ids)
            assert tallies.add_up(database)
    agree(database)
    tallies.add_up(database)
    assert rows_of(database) == 0
    agree(database)


def test_a_migration_counts_what_is_there(account: Account, dataset: str) -> None:
    database, chance, ids = account.database, random.Random(6), list[str]()
    for _ in range(20):
        change(database, dataset, chance, ids)
    expected = counted(database, None)
    with database.engine.connect().execution_options(lethe_write=True) as connection, connection.begin():
        config = migrate._config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0017-1")
        command.upgrade(config, "head")
    with database.read() as session:
        assert session.scalars(select(func.sum(Tally.requests)).where(Tally.name == "request")).one() == len(ids)
    assert expected["received"] == len(ids)
    agree(database)
    change(database, dataset, chance, ids)
    agree(database)
