"""Which worker may run which job: by the job's kind and by the device that its model names.

The claim, the broker's queues, hints sent again and readiness all ask here, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, delete, false, func, or_, select, true
from sqlalchemy.orm import Session

from app.core import db
from app.core.config import Settings
from app.core.tables import Job, Need, Worker
from app.jobs import devices
from app.rules.plugins import offered
from app.rules.states import JobKind, JobState

ALIVE = timedelta(seconds=30)  # a worker without a sign of life for this long does not count


@dataclass(frozen=True)
class Takes:
    """What a worker takes: jobs of these kinds (none named: of every kind) that name no device, or its label.

    label: None takes jobs of every device. A kind of a newer version is nobody's here: its jobs wait for such a worker.
    offers: what it has of plug-ins and libraries that not every worker has; None: all of them.
    """

    kinds: frozenset[str] = frozenset()
    label: str | None = None
    offers: frozenset[str] | None = None

    def fits(self) -> ColumnElement[bool]:
        """The same, as a condition on the rows of jobs."""
        kinds = Job.kind.in_(sorted(self.kinds or JobKind))
        device = true() if self.label is None else or_(Job.device.is_(None), Job.device == self.label)
        return and_(kinds, device, self._has())

    def _has(self) -> ColumnElement[bool]:
        """Whether it has what the job needs. Erasing needs nothing of a model."""
        if self.offers is None:
            return true()
        lacking = select(Need.owner).where(_of_job(), Need.name.not_in(sorted(self.offers)))
        return or_(Job.kind == JobKind.PURGE, ~lacking.correlate(Job).exists())

    def queues(self) -> list[str]:
        """The broker's queues that bring its hints."""
        kinds = sorted(self.kinds or JobKind)
        return [queue(kind, device) for kind in kinds for device in (None, self.label)]


def _of_job() -> ColumnElement[bool]:
    taken_in = and_(Job.kind == JobKind.INGEST, Need.owner == Job.dataset_id)
    return or_(Need.owner == Job.model_id, Need.owner == Job.id, taken_in)


def own(settings: Settings) -> Takes:
    """What the worker of these settings takes."""
    label = settings.device_label or devices.own(settings).partition(":")[0]
    return Takes(frozenset(settings.kinds), label, offered())


def queue(kind: str, device: str | None) -> str:
    """The broker's queue for hints of such jobs."""
    return f"lethe.{kind}.{device}" if device else f"lethe.{kind}"


def require(session: Session, owner: str, names: Collection[str]) -> None:
    """Keep jobs of `owner` (a model, a dataset that is taken in, or one job) from workers without `names`."""
    session.execute(delete(Need).where(Need.owner == owner))
    session.add_all([Need(owner=owner, name=name) for name in sorted(names)])
    session.flush()


# -- who is there ----------------------------------------------------------------------------------


def live(session: Session) -> Sequence[Worker]:
    """Workers that gave a sign of life lately."""
    return session.scalars(select(Worker).where(Worker.seen_at > db.now(session) - ALIVE)).all()


def takes(worker: Worker) -> Takes:
    return Takes(frozenset(worker.kinds), worker.label, frozenset(worker.offers))


def served(workers: Collection[Worker]) -> ColumnElement[bool]:
    """Of the rows of jobs, those that one of these workers takes."""
    return or_(false(), *(each.fits() for each in {takes(worker) for worker in workers}))


def unserved(session: Session) -> list[tuple[str, str | None, int]]:
    """Kind, device and number of the queued jobs that no live worker takes."""
    query = (
        select(Job.kind, Job.device, func.count())
        .where(Job.state == JobState.QUEUED, ~served(live(session)))
        .group_by(Job.kind, Job.device)
        .order_by(Job.kind, Job.device)
    )
    return [(kind, device, count) for kind, device, count in session.execute(query)]


def waiting_for(session: Session, jobs: Collection[Job]) -> dict[str, str]:
    """By job, what it waits for in words: of the queued ones, those that no live worker takes."""
    queued = [job.id for job in jobs if job.state == JobState.QUEUED]
    return waiting_for_ids(session, queued) if queued else {}


def waiting_for_ids(session: Session, job_ids: Collection[str]) -> dict[str, str]:
    """The same of these queued jobs."""
    query = select(Job.id, Job.kind, Job.device).where(Job.id.in_(job_ids), ~served(live(session)))
    rows = session.execute(query).all()
    if not rows:
        return {}
    needed: dict[str, list[str]] = {}
    of_jobs = select(Job.id, Need.name).join(Need, _of_job()).where(Job.id.in_([job_id for job_id, *_ in rows]))
    for job_id, name in session.execute(of_jobs.order_by(Need.name)):
        needed.setdefault(job_id, []).append(name)
    return {job_id: wanted(kind, device, needed.get(job_id, ())) for job_id, kind, device in rows}


def wanted(kind: str, device: str | None, needs: Sequence[str] = ()) -> str:
    """In words, the worker that such jobs wait for."""
    having = f" and has {', '.join(needs)}" if needs else ""
    return f"a worker that takes {kind} jobs" + (f" on device {device}" if device else "") + having + ": none is alive"
