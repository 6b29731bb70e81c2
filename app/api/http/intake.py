"""Deletion requests on their way in: groups of them are authenticated, recognised and accepted in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, tuple_
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from app.api.http.replies import Reply, fingerprints, replayed, require_same_body
from app.core import crash_points, db, keys
from app.core.config import Settings
from app.core.db import Database
from app.core.errors import AppError, Unprocessable
from app.core.keys import Caller
from app.core.tables import Idempotency
from app.deletions import accept, locking, naming
from app.deletions.locking import LockedDatasets
from app.deletions.orders import Accepted, Impact, Order


@dataclass(frozen=True)
class Posted:
    """One order as it came: the caller's token, the order without its caller, and its idempotency key.

    `show` makes the reply, in the transaction that accepted or assessed the order. The dictionary that it is given is
    its cache for the rest of the group.
    """

    token: str
    order: Callable[[Caller], Order]
    route: str
    key: str | None
    body: bytes
    show: Callable[[Session, Accepted | Impact, dict[Any, Any]], Reply]


IdempotencyName = tuple[str, str, str]
"""Tenant, route and key, which name an idempotency record."""


@dataclass
class _Entry:
    """An order of a group whose caller is known."""

    number: int
    posted: Posted
    order: Order
    name: IdempotencyName | None
    fingerprints: Sequence[str]
    refusal: AppError | None = None  # its dataset or its model has no such name


class Intake:
    """Accepts groups of posted orders; an order that is wrong harms none of its neighbours."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings

    def __call__(self, group: list[Posted]) -> list[Reply | Exception]:
        """A reply or a refusal for each. What the database refuses, it refuses to all of the group.

        Any other failure, such as a key taken by another process meanwhile, is looked for one by one.
        """
        try:
            with self._database.write() as session:
                replies = self._answer(session, group)
                crash_points.point("accept.uncommitted")
            crash_points.point("accept.committed")
        except Exception as error:
            refused = isinstance(error, DBAPIError) and not isinstance(error, (IntegrityError, DataError))
            if refused or len(group) == 1:
                raise
            return [self._alone(posted) for posted in group]
        return replies

    def _alone(self, posted: Posted) -> Reply | Exception:
        try:
            return self([posted])[0]
        except Exception as error:
            return error

    def _answer(self, session: Session, group: Sequence[Posted]) -> list[Reply | Exception]:
        found: dict[int, Reply | Exception] = {}
        callers = keys.authenticate_many(session, {posted.token for posted in group})
        waiting: list[_Entry] = []
        for number, posted in enumerate(group):
            try:
                waiting.append(self._entry(number, posted, callers[posted.token]))
            except AppError as error:
                found[number] = error
        self._resolve(session, waiting)
        locked = locking.lock(session, [entry.order for entry in waiting if entry.refusal is None])
        known = _known(session, [entry.name for entry in waiting if entry.name])
        now = db.now(session)
        while waiting:  # twice only where an order shares its key with one of its group
            waiting = self._round(session, locked, waiting, known, found, now)
        return [found[number] for number in range(len(group))]

    def _entry(self, number: int, posted: Posted, who: Caller | None) -> _Entry:
        if who is None:
            raise keys.refusal()
        keys.require(who, "request")
        name = (who.tenant_id, posted.route, posted.key) if posted.key else None
        marks = fingerprints(self._settings, posted.body) if name else ()
        return _Entry(number, posted, posted.order(who), name, marks)

    def _resolve(self, session: Session, waiting: Sequence[_Entry]) -> None:
        """Put ids in the place of the names of datasets and models; each name is looked up once."""
        known: dict[tuple[str, str, str | None], Order | AppError] = {}
        for entry in waiting:
            order = entry.order
            named = (order.tenant_id, order.dataset_id, order.model_id)
            try:
                found = known.get(named) or naming.with_ids(session, order)
            except AppError as error:
                found = error
            known[named] = found
            if isinstance(found, AppError):
                entry.refusal = found
            else:
                entry.order = replace(order, dataset_id=found.dataset_id, model_id=found.model_id)

    def _round(
        self,
        session: Session,
        locked: LockedDatasets,
        waiting: Sequence[_Entry],
        known: dict[IdempotencyName, Idempotency],
        found: dict[int, Reply | Exception],
        now: datetime,
    ) -> list[_Entry]:
        """Answer what is known already and what can be judged now; the rest is left: twins of what was just judged."""
        fresh: list[_Entry] = []
        left: list[_Entry] = []
        taken: set[IdempotencyName] = set()
        for entry in waiting:
            before = known.get(entry.name) if entry.name else None
            if before is not None:
                found[entry.number] = _again(before, entry.fingerprints)
            elif entry.name in taken:
                left.append(entry)
            elif entry.refusal is not None:
                found[entry.number] = entry.refusal
            else:
                fresh.append(entry)
                if entry.name:
                    taken.add(entry.name)
        made: list[Idempotency] = []
        shared: dict[Any, Any] = {}
        results = accept.accept_many(session, self._settings, locked, [entry.order for entry in fresh], now)
        for entry, result in zip(fresh, results, strict=True):
            if isinstance(result, AppError):
                found[entry.number] = result
                continue
            reply = found[entry.number] = entry.posted.show(session, result, shared)
            if entry.name and isinstance(result, Accepted):
                known[entry.name] = _record(entry.name, entry.fingerprints[0], reply, now)
                made.append(known[entry.name])
        _keep(session, made)
        return left


def _known(session: Session, names: Sequence[IdempotencyName]) -> dict[IdempotencyName, Idempotency]:
    """Records of earlier requests under these names. Looked for under the datasets' locks: a twin that was in flight
    elsewhere has ended."""
    if not names:
        return {}
    these = tuple_(Idempotency.tenant_id, Idempotency.route, Idempotency.key).in_(names)
    rows = {(row.tenant_id, row.route, row.key): row for row in session.scalars(select(Idempotency).where(these))}
    if any(row.status is None for row in rows.values()):  # left by what stored nothing
        session.execute(delete(Idempotency).where(these, Idempotency.status.is_(None)))
    return {name: row for name, row in rows.items() if row.status is not None}


def _again(before: Idempotency, marks: Sequence[str]) -> Reply | AppError:
    """The stored reply; a refusal where the key stands for another body."""
    try:
        require_same_body(before, marks)
    except Unprocessable as refusal:
        return refusal
    return replayed(before)


def _record(name: IdempotencyName, mark: str, reply: Reply, now: datetime) -> Idempotency:
    tenant, route, key = name
    return Idempotency(
        tenant_id=tenant,
        route=route,
        key=key,
        fingerprint=mark,
        status=reply.status,
        headers=dict(reply.headers),
        body=reply.text,
        created_at=now,
    )


def _keep(session: Session, made: Sequence[Idempotency]) -> None:
    columns = [column.key for column in Idempotency.__table__.columns]
    db.insert_many(session, Idempotency, [{name: getattr(row, name) for name in columns} for row in made])
