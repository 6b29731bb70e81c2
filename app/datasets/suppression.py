"""What a tenant has erased and must not take in again: keyed digests of contents, of subjects and of ids.

And digests of checkpoints that were trained on what was erased.
A digest tells nothing without the service's secret. A plain id means something only within the namespace that a dataset
may name, so that somebody else's "17" is not left out.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.tables import Dataset, Suppression
from app.datasets.canaries import SUBJECT as CANARY
from app.formats import marks
from app.formats.names import forms

AT_ONCE = 10_000  # digests of one look-up


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
        """Two of each of `images` (n, H, W, C): by its pixels, and of a grey one as it stands among colours; None for
        one of a single colour, which is nobody's."""
        found = (make(self.key, image) for image in images for make in (marks.of_pixels, marks.as_colour))
        return [mark.hex() if mark else None for mark in found]

    def subjects(self, subjects: Iterable[str | None]) -> list[str | None]:
        """Of each subject; canaries are nobody's."""
        return [
            self._digest("subject", subject.encode()) if subject and subject != CANARY else None for subject in subjects
        ]

    def ids(self, namespace: str | None, ids: Sequence[str]) -> list[str | None]:
        """Of each id within `namespace`; None where the dataset names none."""
        if namespace is None:
            return [None] * len(ids)
        return [self._digest("id", namespace.encode(), name.encode()) for name in ids]


def of_bytes(digest: str) -> str:
    """Of a checkpoint, by the digest of its bytes (`sha256:…`), which tells nothing of anybody."""
    return digest.removeprefix("sha256:")


def add(session: Session, tenant_id: str, digests: Iterable[str | None]) -> None:
    """Keep these digests. In one statement and in their order: others may add the same at the same time."""
    now, fresh = db.now(session), sorted(filter(None, {*digests}))
    rows = [{"tenant_id": tenant_id, "digest": digest, "created_at": now} for digest in fresh]
    if rows:
        session.execute(upsert(Suppression).on_conflict_do_nothing(), rows)


def any_kept(session: Session, tenant_id: str) -> bool:
    query = select(Suppression.digest).where(Suppression.tenant_id == tenant_id).limit(1)
    return session.scalars(query).first() is not None


def known(session: Session, tenant_id: str, digests: Collection[str | None]) -> set[str]:
    """Those of `digests` that the tenant has erased."""
    wanted = sorted({digest for digest in digests if digest})
    found: set[str] = set()
    for start in range(0, len(wanted), AT_ONCE):
        part = wanted[start : start + AT_ONCE]
        query = select(Suppression.digest).where(Suppression.tenant_id == tenant_id, Suppression.digest.in_(part))
        found.update(session.scalars(query))
    return found


class Known:
    """Says which samples of a dataset that is being taken in were erased before.

    None of a carried dataset: it comes to be unlearned, perhaps by a second model, and is erased with its request.
    No transaction is open while digests are made: on SQLite it would keep every writer waiting.
    """

    def __init__(self, database: Database, settings: Settings, dataset: Dataset) -> None:
        self._database, self._tenant_id = database, dataset.tenant_id
        self._namespace = dataset.id_namespace
        self._markers = Marker.each(settings, dataset.tenant_id)
        with database.read() as session:
            self.any = dataset.carried_for is None and any_kept(session, dataset.tenant_id)

    def among(
        self, ids: Sequence[str], subjects: Sequence[str | None], contents: Iterable[Sequence[str | None]]
    ) -> NDArray[np.bool_]:
        """(n,). contents: the marks of their pixels, of each secret (`Marker.contents`)."""
        gone = np.zeros(len(ids), dtype=np.bool_)
        if not self.any:
            return gone
        found = [*contents]
        for marker in self._markers:
            found += [marker.ids(self._namespace, form) for form in forms(ids)]
            found += [marker.subjects(form) for form in forms(subjects)]
        with self._database.read() as session:
            erased = known(session, self._tenant_id, [mark for each in found for mark in each])
        for each in found:
            gone |= np.array([mark in erased for mark in each], dtype=np.bool_)
        return gone
