"""The blast radius of a set of samples, and recalls: who holds a version that was trained on them (GDPR Art. 19)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from app import events
from app.cases import notices
from app.core import db
from app.core.errors import Conflict
from app.core.ids import new_id
from app.core.positions import Positions, mask_of, unpack
from app.core.tables import Alias, ApiKey, Dataset, DeletionRequest, Download, Model, Notice, Recall, Version
from app.deletions import compliance_rules, views
from app.rules.compliance import Language


@dataclass(frozen=True)
class Fetched:
    """One download. `name`: of the key that fetched it. `reason`: of a version that was withheld."""

    key: str
    name: str | None
    form: str
    at: datetime
    reason: str | None


@dataclass(frozen=True)
class Held:
    """A version that was trained on some of the samples, and who has its bytes. descendants: versions made from it that
    were trained on them, too, are listed themselves; others are not."""

    id: str
    model: str
    number: int
    parent: int | None
    state: str
    digest: str
    samples: int
    aliases: list[str]
    downloads: list[Fetched]


def record_download(session: Session, version: Version, key_id: str, form: str, reason: str | None = None) -> None:
    """Keep who fetched the bytes. A download that goes on where it was cut counts again."""
    session.add(
        Download(
            tenant_id=version.tenant_id,
            version_id=version.id,
            key_id=key_id,
            form=form,
            at=db.now(session),
            reason=reason,
        )
    )


def holding(session: Session, dataset: Dataset, positions: Positions, model_id: str | None = None) -> list[Held]:
    """Every version that was trained on any of the samples, purged ones too, by model and number.

    Of carried data every version counts that was there before the deletion: what it saw is not known.
    """
    query = select(Version).join(Model, Model.id == Version.model_id).order_by(Version.model_id, Version.number)
    if dataset.carried_for is not None:
        query = query.where(Model.id == dataset.carried_for)
    else:
        query = query.where(Model.dataset_id == dataset.id)
    if model_id is not None:
        query = query.where(Model.id == model_id)
    rows = [
        (row, count)
        for row in session.scalars(query.options(undefer(Version.trained_on)))
        if (count := _count(dataset, row, positions))
    ]
    named = select(Alias.model_id, Alias.version, Alias.name).where(
        Alias.model_id.in_({row.model_id for row, _ in rows})
    )
    aliases: dict[tuple[str, int], list[str]] = {}
    for model, number, name in session.execute(named.order_by(Alias.name)):
        aliases.setdefault((model, number), []).append(name)
    fetched: dict[str, list[Fetched]] = {}
    got = select(Download, ApiKey.name).outerjoin(ApiKey, ApiKey.id == Download.key_id)
    these = Download.version_id.in_([row.id for row, _ in rows])
    for download, name in session.execute(got.where(these).order_by(Download.number)):
        one = Fetched(download.key_id, name, download.form, download.at, download.reason)
        fetched.setdefault(download.version_id, []).append(one)
    return [
        Held(
            id=row.id,
            model=row.model_id,
            number=row.number,
            parent=row.parent,
            state=row.state,
            digest=row.digest,
            samples=count,
            aliases=aliases.get((row.model_id, row.number), []),
            downloads=fetched.get(row.id, []),
        )
        for row, count in rows
    ]


def _count(dataset: Dataset, version: Version, positions: Positions) -> int:
    if dataset.carried_for is not None:
        return len(positions) if version.origin != "unlearned" else 0
    return int(np.count_nonzero(mask_of(version.trained_on, dataset.sample_count)[positions]))


def of_request(session: Session, request: DeletionRequest) -> list[Held]:
    dataset = session.get_one(Dataset, request.dataset_id)
    return holding(session, dataset, unpack(request.positions), request.model_id)


def issue(session: Session, request: DeletionRequest, language: Language | None) -> tuple[Recall, Notice]:
    """Recall every version of the request that somebody has fetched: a notice to send, and an event for webhooks.

    Raises:
        Conflict: no affected model has a version in its place yet, or nobody has fetched any.
    """
    details = views.details(session, [request])[request.id]
    if request.fulfilled_at is None and details.replaced_at is None:
        raise Conflict("No version has taken their place yet: recall them once it has.", kind="recall-too-early")
    held = [each for each in of_request(session, request) if each.downloads]
    if not held:
        raise Conflict("Nobody has fetched a version that was trained on these samples.", kind="nothing-to-recall")
    rules = compliance_rules.of(session, request.tenant_id)
    chosen = language or rules.language
    fields = dict.fromkeys(notices.FIELDS, notices.NONE) | {
        "request": request.id,
        "controller": rules.controller or notices.NONE,
        "contact": rules.contact or notices.NONE,
        "today": notices.written(db.now(session).date(), chosen),
        "files": "\n".join(f"{each.model} version {each.number}: {each.digest}" for each in held),
    }
    notice = notices.keep(session, request, "recall", chosen, fields)
    found = [{"model": each.model, "number": each.number, "digest": each.digest} for each in held]
    keys = sorted({fetched.key for each in held for fetched in each.downloads})
    row = Recall(
        id=new_id("rcl"),
        tenant_id=request.tenant_id,
        request_id=request.id,
        versions=found,
        keys=keys,
        created_at=db.now(session),
    )
    session.add(row)
    session.flush()
    about = {"request": request.id, "versions": found}
    events.record_about(session, request.tenant_id, "recall.issued", row.id, about, request=request.id, versions=found)
    events.record(session, request.tenant_id, "request.recalled", request.id, recall=row.id, keys=keys)
    return row, notice
