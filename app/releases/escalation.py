"""The escalation in the database: the step of a job, what was tried before it, and the move to the next step.

Each further step is a job of its own on the same batch: the transaction that rejects the candidate moves the batch's
outcomes to that job. The job keeps the policy of the first step, so that a change meanwhile cannot exchange the steps.
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
from app.formats.audit_report import Judgement, TriedStep
from app.jobs import Claim
from app.releases import publishing
from app.reports import audit_rows
from app.rules.gate import Clock, GateAction
from app.rules.policy import Policy
from app.rules.states import JobKind, JobState, Outcome


@dataclass(frozen=True)
class History:
    """What the gate needs to know of a batch beside the candidate: the time that is left, and earlier candidates."""

    clock: Clock
    earlier: list[TriedStep]
    rejudged: int  # escalations on this batch that ended with a fail, after which a person retried the job


def policy_of(params: Mapping[str, Any], present: Policy) -> Policy:
    """The policy of an unlearn job: that of the first step, else the model's present one."""
    return Policy.model_validate(params["policy"]) if "policy" in params else present


def history(session: Session, claim: Claim, policy: Policy, due_at: datetime | None) -> History:
    """due_at: the earliest of the batch's requests."""
    model = session.get_one(Model, claim.model_id)
    own = _so_far(session, claim)
    needed = [batches.step_duration(session, model.id, choice.name) or own for choice in policy.methods]
    left = None if due_at is None else due_at - db.now(session)
    rows = _rejected(session, claim.id)
    ended = sum((row.report.get("gate") or {}).get("action") == "attention" for row in rows)
    return History(Clock(left, needed), [_tried(row) for row in rows], ended)


def _so_far(session: Session, claim: Claim) -> timedelta:
    """How long this attempt has run: the estimate where no duration was measured before."""
    started = session.scalars(select(Job.started_at).where(Job.id == claim.id)).one()
    return db.now(session) - started if started else timedelta(0)


def judged_again(judgement: Judgement, rejudged: int) -> Judgement:
    """The judgement after `rejudged` fails on the same batch: no pass (docs/gate.md, "Trying again by hand").

    Somebody who tries until a candidate passes finds one that passes by luck. Margin, method and references may have
    changed between two tries and the forgotten samples have not, so no significance level could be kept.
    """
    if not rejudged or judgement.verdict != "pass":
        return judgement
    times = "once" if rejudged == 1 else f"{rejudged} times"
    reason = f"judged again after this batch had failed {times}, so it counts as no pass: {judgement.reason}"
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


def _tried(row: AuditRow) -> TriedStep:
    reason = (row.report.get("gate") or {}).get("reason") or row.report["judgement"]["reason"]
    return TriedStep(job=row.job_id, method=row.report["method"], verdict=row.verdict, reason=reason)


def escalate(
    session: Session, claim: Claim, policy: Policy, action: GateAction, report: dict[str, Any] | None = None
) -> Job:
    """Reject the job's candidate and move its batch to step `action.step`: one transaction, one new job.

    report: of the candidate; None where the method could not run and made none.

    Raises:
        LeaseLostError: the claim is gone; the worker that holds the job now decides.
    """
    if action.step is None:
        raise ValueError("an escalation needs a step to go to")
    job, _, model = publishing.locked(session, claim)
    method = policy.methods[action.step]
    following = jobs.enqueue(
        session,
        tenant_id=job.tenant_id,
        kind=JobKind.UNLEARN,
        lane=job.lane,
        seed=job.seed,
        params={"step": action.step, "policy": policy.model_dump(mode="json"), "after": job.id, "why": action.reason},
        dataset_id=job.dataset_id,
        model_id=job.model_id,
        device=job.device,
    )
    batch = select(OutcomeRow).where(OutcomeRow.job_id == job.id, OutcomeRow.state == Outcome.BATCHED)
    for row in session.scalars(batch).all():
        row.job_id = following.id
        row.reason = f"step {action.step + 1} of {len(policy.methods)}, {method.name}, is being tried: {action.reason}"
    session.flush()
    verdict = report["judgement"]["verdict"] if report else None
    if report:
        audit_rows.add(session, claim, model, None, report, None)
    data = {"after": job.id, "step": action.step + 1, "method": method.name, "verdict": verdict or "not audited"}
    events.record(session, job.tenant_id, "gate.escalated", following.id, **data)
    if action.alert:
        alert(session, job.tenant_id, following.id, "late")
    kind = {"fail": "audit-failed", None: "method-failed"}.get(verdict, "candidate-passed-over")
    problem = jobs.problem(kind, action.reason, next_job=following.id)
    result = facts(policy, claim.params, report) if report else {"escalation": _step(policy, claim.params)}
    jobs.finish(session, job, JobState.REJECTED, result=result, problem=problem)
    return following


def alert(session: Session, tenant_id: str, job_id: str, what: str) -> None:
    """Record that a legal deadline overruled the gate (`published`), or will probably be missed (`late`)."""
    events.record(session, tenant_id, "gate.deadline", job_id, action=what)


def facts(policy: Policy, params: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """The result of an unlearn job: verdict, step, and how many canaries the candidate has unlearned."""
    verdict = report["judgement"]["verdict"]
    return {"verdict": verdict, "escalation": _step(policy, params), "canaries": report["canaries"]}


def _step(policy: Policy, params: Mapping[str, Any]) -> dict[str, Any]:
    at = min(batches.step_of(params), len(policy.methods) - 1)
    return {"number": at + 1, "of": len(policy.methods), "method": policy.methods[at].name}


def shown(session: Session, job: Job) -> dict[str, Any] | None:
    """The step of an unlearn job as a client reads it; None for other jobs."""
    if job.kind != JobKind.UNLEARN:
        return None
    step = batches.step_result(job.result)
    if step is None:
        model = session.get_one(Model, job.model_id)
        policy = policy_of(job.params, Policy.model_validate(model.policy))
        step = _step(policy, job.params)
    before = {"after": job.params.get("after"), "why": job.params.get("why")}
    return {**step, **before, "next": (job.problem or {}).get("next_job")}
