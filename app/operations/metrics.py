"""Prometheus metrics. All but the HTTP latencies are read from the database at each scrape: the same figures
whichever process is asked, and none lost with a worker.

No label names a tenant, a request, a job or a sample. Every query is one grouped statement that an index answers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.orm import Session

from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.tables import (
    AuditEvent,
    AuditRow,
    DeletionRequest,
    Delivery,
    Job,
    JobEvent,
    LogHead,
    Outbox,
    OutcomeRow,
    StageTime,
    Tenant,
)
from app.jobs import routing
from app.operations import sweepers
from app.rules.states import Decision, JobState, Outcome

DUE_SOON = timedelta(days=7)
# The condition is that of the partial index, word for word, or no database uses it.
GATE_EVENTS = select(AuditEvent.kind, func.count()).where(text("kind LIKE 'gate.%'")).group_by(AuditEvent.kind)
ESCALATED = ("gate.escalated", "gate.climbed")  # the second is the name in events of version 0.1
disable_created_metrics()  # type: ignore[no-untyped-call]  # the time of a process's first request says nothing
LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


def registry(database: Database, settings: Settings) -> CollectorRegistry:
    """The metrics of one API process."""
    found = CollectorRegistry()
    found.register(FromDatabase(database))
    found.register(FromMachine(settings))
    return found


def latency(into: CollectorRegistry) -> Histogram:
    """Of this process's HTTP requests; `route` is the template of a path."""
    return Histogram(
        "lethe_http_request_duration_seconds",
        "Time until a reply had been sent, of this process.",
        ["method", "route", "status"],
        buckets=LATENCIES,
        registry=into,
    )


def exposition(of: CollectorRegistry) -> bytes:
    """The text that Prometheus scrapes."""
    return generate_latest(of)


class FromMachine(Collector):
    def __init__(self, settings: Settings) -> None:
        self._folder = settings.data_dir

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("lethe_build_info", "1; the label says which program answers.", labels=["version"])
        build.add_metric([version("lethe-unlearning")], 1)
        yield build
        free = shutil.disk_usage(self._folder).free
        yield GaugeMetricFamily("lethe_data_free_bytes", "Free space where the data folder lies.", value=free)


class FromDatabase(Collector):
    """Collects every family in one read transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> Iterator[Metric]:
        """Nothing: a service starts while its database is away."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        with self._database.read() as session:
            now = db.now(session)
            yield from _jobs(session, now)
            yield from _requests(session, now)
            yield from _stages(session)
            yield from _sending(session, now)
            yield from _log(session, now)
            yield from _workers(session)
            yield GaugeMetricFamily("lethe_sweepers", "Live sweepers.", value=sweepers.live(session))


# -- jobs ------------------------------------------------------------------------------------------


def _jobs(session: Session, now: datetime) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("lethe_jobs", "Jobs by kind and state.", labels=["kind", "state"])
    attempts = CounterMetricFamily("lethe_job_attempts", "Times that a worker took a job up.", labels=["kind"])
    begun: dict[str, int] = {}
    # The fence counts the claims of a job, and never goes back.
    counted = select(Job.kind, Job.state, func.count(), func.sum(Job.fence)).group_by(Job.kind, Job.state)
    for kind, state, count, claims in session.execute(counted):
        jobs.add_metric([kind, state], count)
        begun[kind] = begun.get(kind, 0) + int(claims)
    for kind, claims in begun.items():
        attempts.add_metric([kind], claims)
    yield jobs
    yield attempts
    age = GaugeMetricFamily("lethe_queue_age_seconds", "Age of the oldest job that waits.", labels=["kind"])
    waiting = select(Job.kind, func.min(Job.available_at)).where(Job.state == JobState.QUEUED, Job.available_at <= now)
    for kind, since in session.execute(waiting.group_by(Job.kind)):
        age.add_metric([kind], (now - since).total_seconds())
    yield age
    lost = CounterMetricFamily("lethe_lease_losses", "Leases that ended without the worker's word.")
    lost.add_metric([], session.scalars(select(func.count()).where(JobEvent.kind == "lease-lost")).one())
    yield lost
    verdicts = CounterMetricFamily("lethe_verdicts", "Audit verdicts.", labels=["verdict"])
    for verdict, count in session.execute(select(AuditRow.verdict, func.count()).group_by(AuditRow.verdict)):
        verdicts.add_metric([verdict], count)
    yield verdicts
    yield from _gate(session)


def _gate(session: Session) -> Iterator[Metric]:
    found: dict[str, int] = dict(session.execute(GATE_EVENTS).all())
    escalations = CounterMetricFamily(
        "lethe_gate_escalations", "Times that the gate took the next step of an escalation."
    )
    escalations.add_metric([], sum(found.get(kind, 0) for kind in ESCALATED))
    yield escalations
    alerts = CounterMetricFamily("lethe_gate_deadline_alerts", "Times that a deadline overruled the gate, or will.")
    alerts.add_metric([], found.get("gate.deadline", 0))
    missed = CounterMetricFamily("lethe_audit_shams_missed", "Shams that an audit did not fail.")
    missed.add_metric([], found.get("gate.sham-missed", 0))
    yield missed
    yield alerts


def _stages(session: Session) -> Iterator[Metric]:
    seconds = SummaryMetricFamily("lethe_stage_seconds", "Seconds that stages of jobs took.", labels=["kind", "stage"])
    for row in session.scalars(select(StageTime)):
        seconds.add_metric([row.kind, row.stage], row.runs, row.seconds)
    yield seconds


# -- requests --------------------------------------------------------------------------------------


def _requests(session: Session, now: datetime) -> Iterator[Metric]:
    due = DeletionRequest.due_at
    open_ = (
        DeletionRequest.fulfilled_at.is_(None),
        DeletionRequest.decision.in_([Decision.RECEIVED, Decision.ACCEPTED, Decision.HELD]),
    )
    counted = select(func.count(), func.min(due), _number(due < now), _number(due < now + DUE_SOON)).where(*open_)
    count, nearest, overdue, soon = session.execute(counted).one()
    yield GaugeMetricFamily("lethe_open_requests", "Deletion requests that are not answered yet.", value=count)
    yield GaugeMetricFamily("lethe_overdue_requests", "Of these, past their legal deadline.", value=overdue)
    yield GaugeMetricFamily("lethe_due_soon_requests", "Of these, due within 7 days.", value=soon - overdue)
    deadline = GaugeMetricFamily("lethe_time_to_deadline_seconds", "To the earliest open deadline; absent without one.")
    if nearest is not None:
        deadline.add_metric([], (nearest - now).total_seconds())
    yield deadline
    stuck = select(func.count()).where(OutcomeRow.state == Outcome.ATTENTION)
    yield GaugeMetricFamily(
        "lethe_attention_outcomes",
        "Models in which a deletion needs a person to look.",
        value=session.scalars(stuck).one(),
    )


def _number(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count().filter(condition)


# -- what leaves the database ----------------------------------------------------------------------


def _sending(session: Session, now: datetime) -> Iterator[Metric]:
    messages = GaugeMetricFamily("lethe_outbox_messages", "Messages not sent yet.", labels=["topic"])
    oldest = GaugeMetricFamily("lethe_outbox_age_seconds", "Age of the oldest message not sent.", labels=["topic"])
    counted = select(Outbox.topic, func.count(), func.min(Outbox.created_at)).group_by(Outbox.topic)
    for topic, count, since in session.execute(counted):
        messages.add_metric([topic], count)
        oldest.add_metric([topic], (now - since).total_seconds())
    yield messages
    yield oldest
    deliveries = GaugeMetricFamily("lethe_webhook_deliveries", "Deliveries not made, by state.", labels=["state"])
    waiting = select(Delivery.state, func.count()).where(Delivery.state != "delivered").group_by(Delivery.state)
    found = {"pending": 0, "failed": 0} | dict(session.execute(waiting).all())
    for state, count in found.items():
        deliveries.add_metric([state], count)
    yield deliveries


def _log(session: Session, now: datetime) -> Iterator[Metric]:
    head = GaugeMetricFamily("lethe_log_head_age_seconds", "Since a head of the log was last signed; absent before.")
    if (signed := session.scalars(select(func.max(LogHead.signed_at))).one()) is not None:
        head.add_metric([], (now - signed).total_seconds())
    yield head
    waiting = GaugeMetricFamily("lethe_log_waiting_seconds", "Age of the oldest event not in the log; 0 without one.")
    # Named tenants: without them SQLite walks the whole index.
    unplaced = (AuditEvent.leaf.is_(None), AuditEvent.tenant_id.in_(select(Tenant.id)))
    since = session.scalars(select(func.min(AuditEvent.at)).where(*unplaced)).one()
    waiting.add_metric([], (now - since).total_seconds() if since else 0.0)
    yield waiting


# -- workers ---------------------------------------------------------------------------------------


def _workers(session: Session) -> Iterator[Metric]:
    alive = GaugeMetricFamily("lethe_workers", "Live workers.", labels=["device"])
    memory = GaugeMetricFamily(
        "lethe_device_memory_peak_bytes",
        "Largest device memory a worker has allocated.",
        labels=["worker", "device"],
    )
    counts: dict[str, int] = {}
    for row in routing.live(session):
        counts[row.device] = counts.get(row.device, 0) + 1
        memory.add_metric([row.name, row.device], row.device_memory)
    for device, count in counts.items():
        alive.add_metric([device], count)
    yield alive
    yield memory
