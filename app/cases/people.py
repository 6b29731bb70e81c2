"""Looking people up: what the tenant holds of some subjects, in every dataset, and what has been requested of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import and_, exists, or_, select
from sqlalchemy.orm import Session, undefer

from app.core.config import Settings
from app.core.positions import Positions, mask_of, unpack
from app.core.tables import Dataset, DeletionRequest, Model, Sample, Shard, Version
from app.datasets import suppression
from app.formats.names import forms, normal, normal_all, other_forms
from app.rules.states import Decision, VersionState

AT_ONCE = 500


@dataclass
class Held:
    """What one dataset has of one subject. trained: samples that a model's current version was trained on, by model.
    requests: samples that a request has taken, by request."""

    subject: int
    dataset: str
    name: str
    samples: int
    requested: int
    trained: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)


@dataclass
class Found:
    """By the place of a subject in the list. erased: samples of these were erased before, somewhere in the tenant.
    not_read: datasets that hold what was sent and are not ready: nobody can look into them."""

    held: list[Held]
    erased: list[int]
    not_read: list[str]


def find(session: Session, settings: Settings, tenant_id: str, subjects: Sequence[str]) -> Found:
    """What is held of each subject, and which of them had been erased before."""
    places = _positions(session, tenant_id, subjects)
    said = list(forms(normal_all(subjects)))
    markers = suppression.Marker.each(settings, tenant_id)
    marks = [make(form) for each in markers for form in said for make in (each.subjects, each.seen)]
    known = suppression.known(session, tenant_id, [mark for each in marks for mark in each])
    held: list[Held] = []
    by_dataset: dict[str, list[tuple[int, Positions]]] = defaultdict(list)
    for (number, dataset_id), positions in sorted(places.items()):
        by_dataset[dataset_id].append((number, positions))
    for dataset_id, rows in by_dataset.items():
        held += _of_dataset(session, dataset_id, rows)
    return Found(
        sorted(held, key=lambda each: (each.subject, each.dataset)),
        [number for number, each in enumerate(zip(*marks, strict=True)) if not known.isdisjoint(each)],
        not_read(session, tenant_id),
    )


def not_read(session: Session, tenant_id: str) -> list[str]:
    """Datasets that may hold somebody's samples and are not ready, so that nobody can look into them. What is asked for
    or erased by then is left out when they are taken in."""
    received = exists().where(Shard.dataset_id == Dataset.id)
    there = or_(Dataset.state.in_(["ingesting", "failed"]), and_(Dataset.state == "awaiting-content", received))
    query = select(Dataset.id).where(Dataset.tenant_id == tenant_id, there)
    return list(session.scalars(query.order_by(Dataset.id)))


def _positions(session: Session, tenant_id: str, subjects: Sequence[str]) -> dict[tuple[int, str], Positions]:
    found: dict[tuple[int, str], list[int]] = defaultdict(list)
    listed = reversed(list(enumerate(subjects)))
    number = {form: place for place, name in listed for form in (normal(name), *other_forms(name))}
    asked = list(number)
    ready = select(Dataset.id).where(Dataset.tenant_id == tenant_id, Dataset.state == "ready")
    mine = list(session.scalars(ready))
    for start in range(0, len(asked), AT_ONCE):
        part = asked[start : start + AT_ONCE]
        query = select(Sample.subject, Sample.dataset_id, Sample.position).where(
            Sample.dataset_id.in_(mine), Sample.subject.in_(part)
        )
        for subject, dataset_id, position in session.execute(query):
            found[number[str(subject)], dataset_id].append(position)
    return {key: np.array(sorted(values), dtype=np.int64) for key, values in found.items()}


def _of_dataset(session: Session, dataset_id: str, rows: Sequence[tuple[int, Positions]]) -> list[Held]:
    dataset = session.get_one(Dataset, dataset_id, options=[undefer(Dataset.requested)], populate_existing=True)
    asked = mask_of(dataset.requested, dataset.sample_count)
    current = (
        select(Version.model_id, Version.trained_on)
        .join(Model, Model.id == Version.model_id)
        .where(Model.dataset_id == dataset_id, Version.state == VersionState.CURRENT)
    )
    trained = {model: mask_of(bits, dataset.sample_count) for model, bits in session.execute(current)}
    open_ = select(DeletionRequest.id, DeletionRequest.positions).where(
        DeletionRequest.dataset_id == dataset_id, DeletionRequest.decision.in_([Decision.ACCEPTED, Decision.HELD])
    )
    taken = [(request, unpack(packed)) for request, packed in session.execute(open_.order_by(DeletionRequest.id))]
    found = []
    for number, positions in rows:
        each = Held(number, dataset.id, dataset.name, len(positions), int(asked[positions].sum()))
        each.trained = {model: count for model, mask in trained.items() if (count := int(mask[positions].sum()))}
        each.requests = {request: count for request, own in taken if (count := int(np.isin(positions, own).sum()))}
        found.append(each)
    return found


def datasets_of(session: Session, tenant_id: str, subjects: Sequence[str]) -> dict[str, list[str]]:
    """By dataset, those of the subjects that have samples there which nobody has requested yet."""
    found: dict[str, list[str]] = defaultdict(list)
    for (number, dataset_id), positions in sorted(_positions(session, tenant_id, subjects).items()):
        dataset = session.get_one(Dataset, dataset_id, options=[undefer(Dataset.requested)], populate_existing=True)
        if not mask_of(dataset.requested, dataset.sample_count)[positions].all():
            found[dataset_id].append(subjects[number])
    return dict(found)
