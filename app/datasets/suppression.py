"""What a tenant has erased and must not take in again: keyed digests of contents, of subjects and of ids.

And digests of checkpoints that were trained on what was erased; and of people of whom samples were erased by id, which
keep nothing out, and are known when somebody looks them up.
A digest tells nothing without the service's secret. A plain id means something only within the namespace that a dataset
may name, so that somebody else's "17" is not left out.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.positions import Positions, distinct, mask_of, unpack
from app.core.tables import Dataset, DeletionRequest, Sample, Suppression
from app.datasets.canaries import SUBJECT as CANARY
from app.formats import fingerprints, marks
from app.formats.names import forms
from app.rules.states import Decision

AT_ONCE = 10_000  # digests of one look-up
ROWS_AT_ONCE = 1000
SLOW_COMMIT = timedelta(hours=1)  # a suppression may be dated so long before it is seen


@dataclass(frozen=True)
class Marker:
    """Makes the digests of one tenant."""

    key: bytes

    @classmethod
    def of(cls, settings: Settings, tenant_id: str) -> Marker:
        return cls.each(settings, tenant_id)[0]

    @classmethod
    def each(cls, settings: Settings, tenant_id: str) -> list[Marker]:
        """One for each of the service's secrets; new digests are of the first."""
        name = f"suppressions:{tenant_id}".encode()
        return [cls(hmac.new(secret, name, hashlib.sha256).digest()) for secret in settings.every_secret()]

    def _digest(self, kind: str, *parts: bytes) -> str:
        return marks.digest(self.key, kind, *parts).hex()

    def contents(self, images: Iterable[NDArray[np.uint8]]) -> list[str | None]:
        """Of each of `images` (n, H, W, C), however it comes again; none of a single colour, which is nobody's."""
        return [mark.hex() for image in images for mark in marks.of_erased(self.key, image)]

    def subjects(self, subjects: Iterable[str | None]) -> list[str | None]:
        """Of each subject; canaries are nobody's."""
        return [
            self._digest("subject", subject.encode()) if subject and subject != CANARY else None for subject in subjects
        ]

    def seen(self, subjects: Iterable[str | None]) -> list[str | None]:
        """Of each subject of whom samples were erased by id: it keeps nothing out, and says that some were there."""
        return [
            self._digest("seen", subject.encode()) if subject and subject != CANARY else None for subject in subjects
        ]

    def ids(self, namespace: str | None, ids: Sequence[str]) -> list[str | None]:
        """Of each id within `namespace`; None where the dataset names none."""
        if namespace is None:
            return [None] * len(ids)
        return [self._digest("id", namespace.encode(), name.encode()) for name in ids]


def of_weights(digest: str, fingerprint: bytes | None) -> list[str]:
    """Of a checkpoint, by the digest of its bytes (`sha256:…`) and its fingerprint, which tell nothing of anybody."""
    return [digest.removeprefix("sha256:"), *(fingerprints.digests(fingerprint) if fingerprint else ())]


def add(session: Session, tenant_id: str, digests: Iterable[str | None]) -> None:
    """Keep these digests. In one statement and in their order: others may add the same at the same time."""
    now, fresh = db.now(session), sorted(filter(None, {*digests}))
    rows = [{"tenant_id": tenant_id, "digest": digest, "created_at": now} for digest in fresh]
    if rows:
        session.execute(upsert(Suppression).on_conflict_do_nothing(), rows)


def known(session: Session, tenant_id: str, digests: Collection[str | None]) -> set[str]:
    """Those of `digests` that the tenant has erased."""
    wanted = sorted({digest for digest in digests if digest})
    found: set[str] = set()
    for start in range(0, len(wanted), AT_ONCE):
        part = wanted[start : start + AT_ONCE]
        query = select(Suppression.digest).where(Suppression.tenant_id == tenant_id, Suppression.digest.in_(part))
        found.update(session.scalars(query))
    return found


@dataclass(frozen=True)
class Asked:
    """What open requests ask for of one dataset. marks: of its ids, and of persons where the request is of a person."""

    images: str | None
    positions: Positions
    marks: set[str]


def _open(session: Session, tenant_id: str) -> set[str]:
    """Accepted requests that erase from a dataset and are not carried out yet."""
    query = select(DeletionRequest.id).join(Dataset, Dataset.id == DeletionRequest.dataset_id)
    return set(
        session.scalars(
            query.where(
                DeletionRequest.tenant_id == tenant_id,
                DeletionRequest.fulfilled_at.is_(None),
                DeletionRequest.model_id.is_(None),
                DeletionRequest.decision.in_([Decision.ACCEPTED, Decision.HELD]),
                Dataset.carried_for.is_(None),
            )
        )
    )


def _asked(session: Session, marker: Marker, requests: Collection[str]) -> list[Asked]:
    """By dataset, what these requests ask for, without what is erased already."""
    wanted: dict[str, list[Positions]] = {}
    people: dict[str, list[Positions]] = {}
    listed = sorted(requests)
    for start in range(0, len(listed), ROWS_AT_ONCE):
        part = DeletionRequest.id.in_(listed[start : start + ROWS_AT_ONCE])
        query = select(DeletionRequest.dataset_id, DeletionRequest.by_subject, DeletionRequest.positions).where(part)
        for dataset_id, by_subject, packed in session.execute(query):
            wanted.setdefault(dataset_id, []).append(unpack(packed))
            if by_subject:
                people.setdefault(dataset_id, []).append(wanted[dataset_id][-1])
    found = []
    for dataset_id, parts in sorted(wanted.items()):
        dataset = session.get_one(Dataset, dataset_id)
        positions = distinct(np.concatenate(parts))
        positions = positions[~mask_of(dataset.erased, dataset.sample_count)[positions]]
        of_people = set(np.concatenate([*people.get(dataset_id, []), positions[:0]]).tolist())
        marks: set[str | None] = set()
        for start in range(0, len(positions), ROWS_AT_ONCE):
            place = Sample.position.in_(positions[start : start + ROWS_AT_ONCE].tolist())
            there = select(Sample.position, Sample.sample_id, Sample.subject)
            rows = session.execute(there.where(Sample.dataset_id == dataset_id, place)).all()
            marks.update(marker.ids(dataset.id_namespace, [name for _, name, _ in rows]))
            marks.update(marker.subjects([subject for position, _, subject in rows if position in of_people]))
        found.append(Asked(dataset.images, positions, {mark for mark in marks if mark}))
    return found


class Known:
    """Says which samples of a dataset that is being taken in were erased before, or are asked for now.

    An open request erases from the datasets that were ready when it was accepted. What becomes ready before it is
    carried out must not escape it, so its samples count as erased here. Nothing is kept of that: of a request that is
    cancelled, they may be sent again.

    None of a carried dataset: it comes to be unlearned, perhaps by a second model, and is erased with its request.
    No transaction is open while digests are made: on SQLite it would keep every writer waiting.
    """

    def __init__(self, database: Database, settings: Settings, dataset: Dataset) -> None:
        self._database, self._tenant_id = database, dataset.tenant_id
        self._namespace, self._carried = dataset.id_namespace, dataset.carried_for is not None
        self._markers = Marker.each(settings, dataset.tenant_id)
        self._kept = 0  # suppressions at the last look
        self._since: datetime | None = None  # the first look, less what a slow commit may take
        self._recent: set[str] = set()  # suppressions of since then
        self._requests: set[str] = set()
        self._marks: set[str] = set()  # of what they ask for

    @property
    def any(self) -> bool:
        return bool(self._kept or self._marks)

    def look(self, contents: Callable[[Asked], Iterable[str | None]]) -> set[str]:
        """Look at what the tenant has erased and asked for; the marks that are new since the last look, if there was
        one. contents: makes the marks of pixels."""
        if self._carried:
            return set()
        with self._database.read() as session:
            first = self._since is None
            self._since = self._since or db.now(session) - SLOW_COMMIT
            self._kept = _count(session, self._tenant_id)
            recent = set(session.scalars(_of(self._tenant_id).where(Suppression.created_at > self._since)))
            requests = _open(session, self._tenant_id)
            asked = _asked(session, self._markers[0], requests - self._requests)
        fresh = set() if first else recent - self._recent
        self._recent, self._requests = recent, requests
        for each in asked:
            found = each.marks.union(filter(None, contents(each))) - self._marks
            self._marks |= found
            fresh |= found
        return fresh

    def is_behind(self, session: Session) -> bool:
        """Whether there is something that no look has seen, and nothing can be added within the transaction: who
        accepts a request or erases its samples locks their dataset. Datasets are locked in the order of their ids."""
        if self._carried:
            return False
        mine = select(Dataset.id).where(Dataset.tenant_id == self._tenant_id, Dataset.carried_for.is_(None))
        session.execute(mine.order_by(Dataset.id).with_for_update(key_share=True)).all()
        if _count(session, self._tenant_id) != self._kept:
            return True
        return not _open(session, self._tenant_id) <= self._requests

    def among(
        self,
        ids: Sequence[str],
        subjects: Sequence[str | None],
        contents: Iterable[Sequence[str | None]],
        fresh: Collection[str] | None = None,
    ) -> NDArray[np.bool_]:
        """(n,). contents: the marks of their pixels, of each secret (`Marker.contents`). fresh: which of these marks
        alone they have."""
        gone = np.zeros(len(ids), dtype=np.bool_)
        if not self.any:
            return gone
        found = [*contents]
        for marker in self._markers:
            found += [marker.ids(self._namespace, form) for form in forms(ids)]
            found += [marker.subjects(form) for form in forms(subjects)]
        erased = fresh
        if erased is None:
            with self._database.read() as session:
                erased = known(session, self._tenant_id, [mark for each in found for mark in each]) | self._marks
        for each in found:
            gone |= np.array([mark in erased for mark in each], dtype=np.bool_)
        return gone


def _of(tenant_id: str) -> Select[str]:
    return select(Suppression.digest).where(Suppression.tenant_id == tenant_id)


def _count(session: Session, tenant_id: str) -> int:
    return session.scalars(select(func.count()).where(Suppression.tenant_id == tenant_id)).one()
