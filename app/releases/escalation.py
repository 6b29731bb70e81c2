"""The ladder in the database: the rung a job stands on, what was tried before it, and the climb to the next.

A climb is a job of its own on the same batch: the transaction that rejects the candidate moves the batch's outcomes
to it. It carries the policy that its ladder began with, so that a change meanwhile cannot exchange the rungs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import events, jobs
from app.core import db
from app.core.tables import AuditRow, Job, Model, OutcomeRow
from app.deletions import batches
from app.formats.audit_report import Judgement, TriedRung
from app.jobs import Claim
from app.releases import publishing
from app.reports import audit_rows
from app.rules.gate import Clock, Step
from app.rules.policy import Policy
from app.rules.states import JobKind, JobState, Outcome


@dataclass(frozen=True)
class Standing:
    """Where an unlearn job stands when its candidate is to be decided on."""

    clock: Clock
    earlier: list[TriedRung]
    rejudged: int  # ladders on this batch that had ended with a fail, and were begun again by hand


def rung_of(params: Mapping[str, Any]) -> int:
    """The rung of an unlearn job, from 0: the policy's own method."""
    return int(params.get("rung", 0))


def policy_of(params: Mapping[str, Any], present: Policy) -> Policy:
    """The policy of an unlearn job: the one that its ladder began with, else the model's present one."""
    return Policy.model_validate(params["policy"]) if "policy" in params else present


def standing(session: Session, claim: Claim, policy: Policy, due_at: datetime | None) -> Standing:
    """due_at: the earliest of the batch's requests."""
    model = session.get_one(Model, claim.model_id)
    own = _so_far(session, claim)
    needed = [batches.rung_duration(session, model.id, choice.name) or own for choice in policy.methods]
    left = None if due_at is None else due_at - db.now(session)
    rows = _rejected(session, claim.id)
    ended = sum((row.report.get("gate") or {}).get("action") == "attention" for row in rows)
    return Standing(Clock(left, needed), [_tried(row) for row in rows], ended)


def _so_far(session: Session, claim: Claim) -> timedelta:
    """What this attempt has taken: where nothing like it was measured before."""
    started = session.scalars(select(Job.started_at).where(Job.id == claim.id)).one()
    return db.now(session) - started if started else timedelta(0)


def judged_again(judgement: Judgement, rejudged: int) -> Judgement:
    """What a judgement is worth after so many fails on the same batch: no pass.

    Whoever tries until one passes finds one that passes by luck. Between two tries the margin, the method and the
    references may have been exchanged, and the forgotten samples are the same, so no level could be kept.
    """
    if not rejudged or judgement.verdict != "pass":
        return judgement
    times = "once" if rejudged == 1 else f"{rejudged} times"
    reason = f"judged again after this batch had failed {times}, so that it counts as no pass: {judgement.reason}"
    return judgement.model_copy(update={"verdict": "inconclusive", "reason": reason})


def _rejected(session: Session, job_id: str) -> list[AuditRow]:
    """The candidates that were rejected on this batch before, oldest first; those of the job's earlier runs too."""
    chain: list[str] = []
    at: str | None = job_id
    while at is not None:
        chain.append(at)
        at = session.scalars(select(Job.params).where(Job.id == at)).one().get("after")
    rejected = select(AuditRow).where(AuditRow.job_id.in_(chain), AuditRow.version.is_(None)).order_by(AuditRow.id)
    return list(session.scalars(rejected))


def _tried(row: AuditRow) -> TriedRung:
    reason = (row.report.get("gate") or {}).get("reason") or row.report["judgement"]["reason"]
    return TriedRung(job=row.job_id, method=row.report["method"], verdict=row.verdict, reason=reason)


def climb(session: Session, claim: Claim, policy: Policy, step: Step, report: dict[str, Any]) -> Job:
    """Reject the job's candidate and put its batch on rung `step.rung`: one transaction, one job.

    Raises:
        LeaseLostError: the claim is gone, and whoever has it now decides.
    """
    assert step.rung is not None  # noqa: S101  (a climb leads somewhere)
    job, _, model = publishing.locked(session, claim)
    method = policy.methods[step.rung]
    following = jobs.enqueue(
        session,
        tenant_id=job.tenant_id,
        kind=JobKind.UNLEARN,
        lane=job.lane,
        seed=job.seed,
        params={"rung": step.rung, "policy": policy.model_dump(mode="json"), "after": job.id, "why": step.reason},
        dataset_id=job.dataset_id,
        model_id=job.model_id,
        device=job.device,
    )
    batch = select(OutcomeRow).where(OutcomeRow.job_id == job.id, OutcomeRow.state == Outcome.BATCHED)
    for row in session.scalars(batch).all():
        row.job_id = following.id
        row.reason = f"rung {step.rung + 1} of {len(policy.methods)}, {method.name}, is being tried: {step.reason}"
    session.flush()
    audit_rows.add(session, claim, model, None, report, None)
    data = {"after": job.id, "rung": step.rung + 1, "method": method.name, "verdict": report["judgement"]["verdict"]}
    events.record(session, job.tenant_id, "gate.climbed", following.id, **data)
    if step.alert:
        alert(session, job.tenant_id, following.id, "late")
    kind = "audit-failed" if report["judgement"]["verdict"] == "fail" else "candidate-passed-over"
    problem = jobs.problem(kind, step.reason, next_job=following.id)
    jobs.finish(session, job, JobState.REJECTED, result=facts(policy, claim.params, report), problem=problem)
    return following


def alert(session: Session, tenant_id: str, job_id: str, what: str) -> None:
    """Tell whoever listens that a legal deadline overruled the gate (`published`), or will be missed (`late`)."""
    events.record(session, tenant_id, "gate.deadline", job_id, action=what)


def facts(policy: Policy, params: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """What an ended unlearn job keeps of its rung, and how many canaries its candidate forgot."""
    rung = {"number": rung_of(params) + 1, "of": len(policy.methods), "method": report["method"]}
    return {"verdict": report["judgement"]["verdict"], "rung": rung, "canaries": report["canaries"]}


def shown(session: Session, job: Job) -> dict[str, Any] | None:
    """The rung of an unlearn job as a client reads it; None for other jobs."""
    if job.kind != JobKind.UNLEARN:
        return None
    ended = (job.result or {}).get("rung")
    if ended is None:
        model = session.get_one(Model, job.model_id)
        policy = policy_of(job.params, Policy.model_validate(model.policy))
        at = min(rung_of(job.params), len(policy.methods) - 1)
        ended = {"number": at + 1, "of": len(policy.methods), "method": policy.methods[at].name}
    around = {"after": job.params.get("after"), "why": job.params.get("why")}
    return {**ended, **around, "next": (job.problem or {}).get("next_job")}
