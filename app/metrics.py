"""Prometheus metrics, read from the database at each scrape: the same figures whichever process is asked.

No label names a tenant's sample, subject or request.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import db
from app.db import Database
from app.lifecycle import Decision, JobState
from app.tables import AuditRow, DeletionRequest, Delivery, Job, JobEvent, Outbox, StageTime, Worker

ALIVE = timedelta(seconds=30)


class FromDatabase(Collector):
    """Collects every family in one read transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        with self._database.read() as session:
            now = db.now(session)
            yield from _jobs(session, now)
            yield from _requests(session, now)
            yield from _stages(session)
            yield from _workers(session, now)


def _jobs(session: Session, now: datetime) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("lethe_jobs", "Jobs by kind and state.", labels=["kind", "state"])
    counted = select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state)
    for kind, state, count in session.execute(counted):
        jobs.add_metric([kind, state], count)
    yield jobs
    age = GaugeMetricFamily("lethe_queue_age_seconds", "Age of the oldest job that waits; absent without one.")
    waiting = select(func.min(Job.available_at)).where(Job.state == JobState.QUEUED, Job.available_at <= now)
    if (since := session.scalars(waiting).one()) is not None:
        age.add_metric([], (now - since).total_seconds())
    yield age
    lost = CounterMetricFamily("lethe_lease_losses", "Leases that ended without the worker's word.")
    lost.add_metric([], session.scalars(select(func.count()).where(JobEvent.kind == "lease-lost")).one())
    yield lost
    verdicts = CounterMetricFamily("lethe_verdicts", "Audit verdicts.", labels=["verdict"])
    for verdict, count in session.execute(select(AuditRow.verdict, func.count()).group_by(AuditRow.verdict)):
        verdicts.add_metric([verdict], count)
    yield verdicts
    messages = GaugeMetricFamily("lethe_outbox_messages", "Messages not sent yet.", labels=["topic"])
    for topic, count in session.execute(select(Outbox.topic, func.count()).group_by(Outbox.topic)):
        messages.add_metric([topic], count)
    yield messages
    deliveries = GaugeMetricFamily("lethe_webhook_deliveries", "Webhook deliveries by state.", labels=["state"])
    for state, count in session.execute(select(Delivery.state, func.count()).group_by(Delivery.state)):
        deliveries.add_metric([state], count)
    yield deliveries


def _requests(session: Session, now: datetime) -> Iterator[Metric]:
    open_ = (
        DeletionRequest.fulfilled_at.is_(None),
        DeletionRequest.decision.in_([Decision.RECEIVED, Decision.ACCEPTED, Decision.HELD]),
    )
    yield GaugeMetricFamily(
        "lethe_open_requests",
        "Deletion requests that are not answered yet.",
        value=session.scalars(select(func.count()).where(*open_)).one(),
    )
    yield GaugeMetricFamily(
        "lethe_overdue_requests",
        "Of these, past their legal deadline.",
        value=session.scalars(select(func.count()).where(*open_, DeletionRequest.due_at < now)).one(),
    )
    nearest = session.scalars(select(func.min(DeletionRequest.due_at)).where(*open_)).one()
    deadline = GaugeMetricFamily("lethe_seconds_to_deadline", "To the earliest open deadline; absent without one.")
    if nearest is not None:
        deadline.add_metric([], (nearest - now).total_seconds())
    yield deadline


def _stages(session: Session) -> Iterator[Metric]:
    seconds = CounterMetricFamily("lethe_stage_seconds", "Seconds spent in stages.", labels=["kind", "stage"])
    runs = CounterMetricFamily("lethe_stage_runs", "Stages completed.", labels=["kind", "stage"])
    for row in session.scalars(select(StageTime)):
        seconds.add_metric([row.kind, row.stage], row.seconds)
        runs.add_metric([row.kind, row.stage], row.runs)
    yield seconds
    yield runs


def _workers(session: Session, now: datetime) -> Iterator[Metric]:
    alive = GaugeMetricFamily("lethe_workers", "Live workers.", labels=["device"])
    memory = GaugeMetricFamily(
        "lethe_device_memory_peak_bytes",
        "Largest device memory a worker has allocated.",
        labels=["worker", "device"],
    )
    counts: dict[str, int] = {}
    for row in session.scalars(select(Worker).where(Worker.seen_at > now - ALIVE)):
        counts[row.device] = counts.get(row.device, 0) + 1
        memory.add_metric([row.name, row.device], row.device_memory)
    for device, count in counts.items():
        alive.add_metric([device], count)
    yield alive
    yield memory


def exposition(database: Database) -> bytes:
    """The text that Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(FromDatabase(database))
    return generate_latest(registry)
