"""What must hold at the end of a run, from the database and the blobs alone, and what clients were promised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from sqlalchemy import func, select

from app.core.config import Settings
from app.core.db import Database
from app.core.positions import mask_of
from app.core.tables import Dataset, DeletionRequest, Idempotency, Job, JobEvent, OutcomeRow, Sample, Version
from app.recovery import checker
from app.rules.states import JobKind, JobState
from faults.clients import Clients


def broken(settings: Settings, clients: Clients, *, at_rest: bool = True) -> list[str]:
    """Everything that does not hold, in words; none if all is well."""
    found = [f"{each.rule} {each.object}: {each.detail}" for each in checker.check_service(settings, at_rest=at_rest)]
    database = Database(settings)
    try:
        return [*found, *promises(database, clients), *overlaps(database), *versions(database), *clients.wrong]
    finally:
        database.close()


def promises(database: Database, clients: Clients) -> Iterator[str]:
    """Whatever was answered with 202 is there once, is fulfilled, and its samples are erased; nothing else is."""
    with database.read() as session:
        kept = set(session.scalars(select(DeletionRequest.id)))
        fulfilled = set(session.scalars(select(DeletionRequest.id).where(DeletionRequest.fulfilled_at.is_not(None))))
        replies = session.scalars(select(func.count()).select_from(Idempotency)).one()
        erased = {row.id: mask_of(row.erased, row.sample_count) for row in session.scalars(select(Dataset))}
        left = set(session.execute(select(Sample.dataset_id, Sample.sample_id)).all())
    promised = [each for each in clients.promises if each.request]
    ids = {each.request for each in promised}
    if len(ids) != len(promised):
        yield f"{len(promised)} promises were given for {len(ids)} requests"
    for each in promised:
        if each.request not in kept:
            yield f"{each.request} was promised and is lost"
        elif each.request not in fulfilled:
            yield f"{each.request} is not fulfilled"
        elif still := sum((each.dataset, name) in left for name in each.ids):
            yield f"{each.request} is fulfilled, and {still} of its samples have their ids"
    for request in kept - ids:
        yield f"{request} is there, and nobody was promised it"
    if replies < len(promised):
        yield f"{len(promised)} promises, {replies} kept replies"
    asked = {shop.dataset: sum(len(p.ids) for p in promised if p.dataset == shop.dataset) for shop in clients.shops}
    for dataset, count in asked.items():
        if (gone := int(erased[dataset].sum())) != count:
            yield f"{dataset}: {gone} samples are erased, {count} were asked for"


@dataclass(frozen=True)
class Span:
    """A time in which a job ran, by its events."""

    job: str
    begin: datetime
    end: datetime


def spans(database: Database) -> dict[str, list[Span]]:
    """When jobs ran, by lane."""
    found: dict[str, list[Span]] = {}
    with database.read() as session:
        lanes = dict(session.execute(select(Job.id, Job.lane)).all())
        events = session.execute(
            select(JobEvent.job_id, JobEvent.data, JobEvent.at)
            .where(JobEvent.kind == "state")
            .order_by(JobEvent.job_id, JobEvent.number)
        ).all()
    running: dict[str, datetime] = {}
    for job, data, at in events:
        if data["state"] == JobState.RUNNING:
            running.setdefault(job, at)
        elif (begin := running.pop(job, None)) is not None:
            found.setdefault(lanes[job], []).append(Span(job, begin, at))
    return found


def overlaps(database: Database) -> Iterator[str]:
    """In one lane, no job began before the one before it had ended."""
    for lane, times in spans(database).items():
        ordered = sorted(times, key=lambda span: (span.begin, span.end))
        for first, second in pairwise(ordered):
            if second.begin < first.end and first.job != second.job:
                yield f"{lane}: {second.job} began at {second.begin}, {first.job} ended at {first.end}"


def versions(database: Database) -> Iterator[str]:
    """A job made at most one version; numbers have no gaps; each job that succeeded in unlearning made one."""
    with database.read() as session:
        rows = session.execute(select(Version.model_id, Version.number, Version.job_id)).all()
        done = set(session.scalars(select(Job.id).where(Job.kind == JobKind.UNLEARN, Job.state == JobState.SUCCEEDED)))
        moved = dict(session.execute(select(OutcomeRow.job_id, func.count()).group_by(OutcomeRow.job_id)).all())
    numbers: dict[str, list[int]] = {}
    for model, number, _ in rows:
        numbers.setdefault(model, []).append(number)
    for model, found in numbers.items():
        if sorted(found) != list(range(1, len(found) + 1)):
            yield f"{model}: its versions are {sorted(found)}"
    made = [job for *_, job in rows if job]
    if len(made) != len(set(made)):
        yield "a job made two versions"
    for job in sorted(done - set(made)):
        if moved.get(job):
            yield f"{job} succeeded and made no version"
