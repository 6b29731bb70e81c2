"""A worker is killed around an escalation: one rejection, one further job, and nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from app.core.tables import AuditEvent, AuditRow, Model
from tests.faults.harness import Case, Prepared, case_of, ended, state_of
from tests.support import eventually

BEFORE = ["unlearn.audit.begin", "unlearn.audit.end", "unlearn.publish.begin", "unlearn.publish.uncommitted"]
AFTER = ["unlearn.publish.end"]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def escalating(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """The prepared deletion under a policy that retrains what is inconclusive: three samples always are."""
    prepared: Prepared = request.getfixturevalue(f"on_{request.param}")
    with case_of(prepared, tmp_path / "data") as case:
        with case.database.write() as session:
            model = session.get_one(Model, prepared.model)
            model.policy = {**model.policy, "on_inconclusive": "retrain"}
        yield case


@pytest.mark.parametrize("point", BEFORE + AFTER)
@pytest.mark.slow
def test_a_kill_around_an_escalation_makes_one_escalation(point: str, escalating: Case) -> None:
    case = escalating
    case.killed_at(point)
    further = [job for job in case.unlearning() if "after" in job.params]
    assert len(further) == (point in AFTER), "the escalation is in the transaction that rejects, or nowhere"
    case.expire()
    case.drain()

    first, second = case.unlearning()
    assert (first.state, first.attempts) == ("rejected", 1 + (point in BEFORE))
    assert (second.state, second.params["after"], second.attempts) == ("succeeded", first.id, 1)
    assert case.outcome().job_id == second.id
    account = case.account()
    assert account["request"] == ("accepted", True, "purged", 2)
    assert [(number, parent, state) for number, parent, _, state, _ in account["versions"]] == [
        (1, None, "superseded"),
        (2, 1, "current"),
    ]
    with case.database.read() as session:
        reports = [(row.job_id, row.version, row.report["method"]) for row in session.scalars(select(AuditRow))]
    assert sorted(reports, key=str) == sorted([(first.id, None, "amun"), (second.id, 2, "retrain")], key=str)
    escalated = [row.object_id for row in case.rows(AuditEvent) if row.kind == "gate.escalated"]
    assert escalated == [second.id]
    assert case.strays() == []


def test_a_worker_that_lost_its_lease_cannot_escalate(escalating: Case) -> None:
    """The first owner is stopped right before its escalation is committed; another finishes; the first wakes up."""
    case = escalating
    with ended(case.worker(crash_at="stop:unlearn.publish.begin", worker_name="slow")) as slow:
        eventually(lambda: state_of(slow.pid) == "T", "the slow worker to stop")
        case.expire()
        case.drain()
        os.kill(slow.pid, signal.SIGCONT)
        eventually(lambda: b"lease was lost" in case.log.read_bytes(), "the slow worker to notice")
    assert [job.state for job in case.unlearning()] == ["rejected", "succeeded"]
    assert len([row for row in case.rows(AuditEvent) if row.kind == "gate.escalated"]) == 1
