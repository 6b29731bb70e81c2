"""The legal verbs on a request: cancel, refuse (in whole or in part), hold, release, extend, confirm. Decisions have
a reason.

Where the tenant's rules ask for two people on a refusal, the first proposes it, and the key of another carries it out.
Until then the request is held: nothing is erased that may be refused.

A request whose job is running can no longer be stopped: its verbs answer 409 until the job has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app import events, jobs
from app.core import db, keys
from app.core.config import Settings
from app.core.errors import Conflict, Unprocessable
from app.core.positions import Positions, marked, mask_of, pack, unpack
from app.core.tables import Dataset, DeletionRequest, Job, Model, OutcomeRow, Proposal
from app.datasets import samples
from app.deletions import batches, compliance_rules, erasure, refusals
from app.deletions.orders import NewRequest
from app.evidence import sealing
from app.rules import grounds
from app.rules.deadlines import Pause, clock
from app.rules.states import Decision, Identity, JobKind, JobState, Outcome, move_decision, move_outcome

WAITS = "A refusal waits for its second person."


def begin(session: Session, request: DeletionRequest) -> DeletionRequest:
    """Lock what a verb may touch in the order of a publish: jobs, dataset, models, request; and look again."""
    _jobs(session, request)
    session.execute(select(Dataset.id).where(Dataset.id == request.dataset_id).with_for_update())
    affected = select(OutcomeRow.model_id).where(OutcomeRow.request_id == request.id)
    session.execute(select(Model.id).where(Model.id.in_(affected)).order_by(Model.id).with_for_update())
    session.refresh(request, with_for_update=True)
    return request


def cancel(session: Session, request: DeletionRequest, reason: str) -> None:
    """The person changed their mind: the samples stay."""
    require_unproposed(session, request)
    _end(session, request, Decision.CANCELLED, reason)
    events.record_decision(session, request.tenant_id, "request.cancelled", request.id, reason)


def refuse(
    session: Session,
    settings: Settings,
    request: DeletionRequest,
    reason: str,
    sample_ids: Sequence[str] | None,
    ground: str | None = None,
) -> None:
    """Refuse the request, or with `sample_ids` that part of it; or propose that, where two people must decide.

    Raises:
        Conflict: being carried out, or another refusal waits for its second person.
        Unprocessable: an id that is not of this request, or a ground that its law does not have.
    """
    require_unproposed(session, request)
    try:
        grounds.require(grounds.REFUSALS, request.jurisdiction, ground)
    except ValueError as error:
        fault = {"pointer": "/ground", "code": "ground-unknown", "detail": str(error)}
        raise Unprocessable(f"The ground of a refusal: {error}.", kind="ground-unknown", errors=[fault]) from None
    own = unpack(request.positions)
    part = own if sample_ids is None else _own(session, settings, request, own, sample_ids)
    _require_refusable(session, request, part)
    if not compliance_rules.of(session, request.tenant_id).two_people_on_refusal:
        _refuse(session, request, part, reason, ground)
        return
    suspended = request.decision != Decision.HELD
    if suspended:
        suspend(session, request, WAITS)
    session.add(
        Proposal(
            request_id=request.id,
            key_id=db.acting(session),
            reason=reason,
            ground=ground,
            positions=None if sample_ids is None else pack(part),
            suspended=suspended,
            created_at=db.now(session),
        )
    )
    events.record_decision(
        session, request.tenant_id, "request.refusal-proposed", request.id, reason, samples=len(part), ground=ground
    )


def approve(session: Session, request: DeletionRequest) -> None:
    """The second person agrees with the proposed refusal, which happens.

    Raises:
        Conflict: nothing is proposed, the same key proposed it, or one that it was rotated from or to, or it cannot
            happen any more.
    """
    proposal = _proposal(session, request)
    if keys.first_of(session, proposal.key_id) == keys.first_of(session, db.acting(session)):
        raise Conflict("Another person must approve it: this key has proposed the refusal.", kind="same-person")
    own = unpack(request.positions)
    part = own if proposal.positions is None else np.intersect1d(own, unpack(proposal.positions))
    _require_refusable(session, request, part)
    session.delete(proposal)
    session.flush()
    _refuse(session, request, part, proposal.reason, proposal.ground, proposed_by=proposal.key_id)
    if proposal.suspended and request.decision == Decision.HELD:  # the rest of it goes on
        resume(session, request)


def dismiss(session: Session, request: DeletionRequest, reason: str) -> None:
    """The proposed refusal does not happen: the request is as it was before. Raises Conflict: nothing is proposed."""
    proposal = _proposal(session, request)
    session.delete(proposal)
    session.flush()
    if proposal.suspended:
        resume(session, request)
    events.record_decision(session, request.tenant_id, "request.refusal-dismissed", request.id, reason)


def _proposal(session: Session, request: DeletionRequest) -> Proposal:
    found = session.get(Proposal, request.id)
    if found is None:
        raise Conflict("No refusal waits for a second person.", kind="nothing-proposed")
    return found


def require_unproposed(session: Session, request: DeletionRequest) -> None:
    """Raises Conflict: a refusal waits for its second person, and another decision would pass that person over."""
    if session.get(Proposal, request.id) is not None:
        raise Conflict("A refusal waits for its second person. Approve or dismiss it first.", kind="decision-waits")


def _require_refusable(session: Session, request: DeletionRequest, part: Positions) -> None:
    move_decision(Decision(request.decision), Decision.REFUSED)
    _require_stoppable(session, request)
    if not len(part):
        raise Conflict("The request no longer has these samples.", kind="illegal-move")


def _refuse(
    session: Session, request: DeletionRequest, part: Positions, reason: str, ground: str | None, **said: str
) -> None:
    late = _is_late(session, request)
    request.refused_count += len(part)
    request.refusal_ground = ground
    if len(part) == len(unpack(request.positions)):
        _end(session, request, Decision.REFUSED, reason)
    else:
        _leave_out(session, request, part)
    about = {"samples": len(part), "ground": ground, **({"late": True} if late else {}), **said}
    event = events.record_decision(session, request.tenant_id, "request.refused", request.id, reason, **about)
    refusals.keep(session, request, event, part, ground, late=late)


def _is_late(session: Session, request: DeletionRequest) -> bool:
    """Whether the law's time for a refusal has passed. The person must hear of it all the same."""
    law, extended = clock(request.jurisdiction), request.extended_at is not None
    return not law.may_refuse(request.received_at, db.now(session), extended=extended, pause=pause_of(request))


def give_up(session: Session, request: DeletionRequest, positions: Positions, reason: str) -> None:
    """Take these samples out of an open request, because another one has them: nobody refuses them. A request without
    any left is cancelled.

    Raises:
        Conflict: it is being carried out.
    """
    own = unpack(request.positions)
    part = np.intersect1d(own, positions)
    if len(part) == len(own):
        cancel(session, request, reason)
        return
    _leave_out(session, request, part)
    events.record_decision(session, request.tenant_id, "request.given-up", request.id, reason, samples=len(part))


def _leave_out(session: Session, request: DeletionRequest, part: Positions) -> None:
    _require_stoppable(session, request)
    _free(session, request, part)
    sealing.leave_out(session, request, part)
    left = np.setdiff1d(unpack(request.positions), part)
    request.positions, request.sample_count = pack(left), len(left)


def _own(
    session: Session, settings: Settings, request: DeletionRequest, own: Positions, sample_ids: Sequence[str]
) -> Positions:
    dataset = session.get_one(Dataset, request.dataset_id)
    foreign = np.ones(dataset.sample_count, dtype=bool)
    foreign[own] = False
    return samples.resolve(session, settings, dataset, sample_ids, "/sample_ids", foreign, "foreign")


def hold(session: Session, request: DeletionRequest, reason: str) -> None:
    """A legal hold: nothing happens to the samples until it is released."""
    require_unproposed(session, request)
    suspend(session, request, reason)
    events.record_decision(session, request.tenant_id, "request.held", request.id, reason)


def suspend(session: Session, request: DeletionRequest, reason: str) -> None:
    """Nothing happens to the samples until `resume`."""
    request.decision = move_decision(Decision(request.decision), Decision.HELD)
    for row in _detach(session, request):
        if row.state != Outcome.PENDING:  # one that waits for its batch goes on waiting
            row.state, row.job_id = move_outcome(Outcome(row.state), Outcome.PENDING), None
    request.reason = reason


def release(session: Session, request: DeletionRequest) -> None:
    """The hold is over; the request joins its models' next batches."""
    if request.decision != Decision.HELD:
        raise Conflict("The request is not held.", kind="illegal-move")
    if request.identity in (Identity.ASKED, Identity.REFUSED):
        raise Conflict("The identity is not confirmed: `:identity` ends this hold.", kind="identity-open")
    require_unproposed(session, request)
    resume(session, request)
    events.record_decision(session, request.tenant_id, "request.released", request.id, None)


def resume(session: Session, request: DeletionRequest) -> None:
    """A held request joins its models' next batches."""
    request.decision, request.reason = move_decision(Decision.HELD, Decision.ACCEPTED), None
    session.flush()
    rows = session.scalars(select(OutcomeRow).where(OutcomeRow.request_id == request.id)).all()
    for row in rows:
        batches.close_if_due(session, session.get_one(Model, row.model_id))
    erasure.start_if_published(session, request.id)  # no model is affected, or all were purged meanwhile


def reopen(session: Session, request: DeletionRequest) -> None:
    """A held request goes on whatever it waited for: a restored backup has it as it was before it was carried out."""
    session.execute(delete(Proposal).where(Proposal.request_id == request.id))
    resume(session, request)
    events.record_decision(session, request.tenant_id, "request.released", request.id, None)


def extend(session: Session, request: DeletionRequest, reason: str) -> None:
    """Take the longer period that the law allows, once, with notice and reasons in time.

    Raises:
        Conflict: extended already, decided, or too late.
    """
    law, now = clock(request.jurisdiction), db.now(session)
    if request.extended_at is not None:
        raise Conflict("The request has been extended already.", kind="extended-already")
    if request.fulfilled_at or request.decision in (Decision.REFUSED, Decision.CANCELLED):
        raise Conflict("The request has been answered.", kind="illegal-move")
    if not law.may_extend(request.received_at, now, pause_of(request)):
        raise Conflict("The time in which an extension must be announced has passed.", kind="extension-too-late")
    request.extended_at, request.extension_reason = now, reason
    was, request.due_at = request.due_at, law.extended(request.received_at, pause_of(request))
    events.record_decision(
        session, request.tenant_id, "request.extended", request.id, reason, **moved(was, request.due_at)
    )


def moved(was: datetime, now: datetime) -> dict[str, str]:
    """What the log says of a due date that changed."""
    return {"due_at": f"{now:%Y-%m-%dT%H:%M:%SZ}", "was_due_at": f"{was:%Y-%m-%dT%H:%M:%SZ}"}


def confirm(session: Session, request: DeletionRequest, at: datetime | None) -> None:
    """Receipt was confirmed to the person, by default now.

    Raises:
        Conflict: it was confirmed before.
        Unprocessable: that is later than now, or before the request was received.
    """
    if request.confirmed_at is not None:
        raise Conflict("The receipt has been confirmed already.", kind="confirmed-already")
    request.confirmed_at = within(session, request, at)
    confirmed = f"{request.confirmed_at:%Y-%m-%dT%H:%M:%SZ}"
    events.record(session, request.tenant_id, "request.confirmed", request.id, at=confirmed)


def within(session: Session, request: DeletionRequest, at: datetime | None) -> datetime:
    """A moment between receipt and now; by default now. Raises Unprocessable where it is not."""
    now = db.now(session)
    if at is None:
        return now
    law = clock(request.jurisdiction)
    if at > now or law.day(at) < law.day(request.received_at):
        raise Unprocessable(
            "The moment must lie between the receipt of the request and now.",
            kind="outside-the-request",
            errors=[{"pointer": "/at", "code": "outside-the-request"}],
        )
    return at


def pause_of(request: DeletionRequest | NewRequest) -> Pause | None:
    """The time for which the law's clock may stand still: until the answer, or the end of the wait for it."""
    if request.identity_asked_at is None or request.identity_until is None:
        return None
    ended = request.identity_ended_at or request.identity_until
    return Pause(request.identity_asked_at, min(ended, request.identity_until))


# -- stopping what has not begun -------------------------------------------------------------------


def _end(session: Session, request: DeletionRequest, decision: Decision, reason: str) -> None:
    request.decision = move_decision(Decision(request.decision), decision)
    for row in _detach(session, request):
        session.delete(row)
    _free(session, request, unpack(request.positions))
    request.reason, request.decided_at = reason, db.now(session)


def _require_stoppable(session: Session, request: DeletionRequest) -> None:
    """Refuse while a job that carries the request out is running, or has published; or had, before a restore.

    Another request's purge may have erased the samples along with its own.
    """
    states = select(OutcomeRow.state).where(OutcomeRow.request_id == request.id)
    done = request.fulfilled_at or request.replayed_at or _erased(session, request)
    if done or set(session.scalars(states)) & {Outcome.PUBLISHED, Outcome.PURGED}:
        raise Conflict("The deletion has been carried out.", kind="carried-out")
    for job in _jobs(session, request):
        if job.state == JobState.RUNNING:
            raise Conflict("The deletion is being carried out; wait for its job.", kind="being-carried-out")


def _erased(session: Session, request: DeletionRequest) -> bool:
    dataset = session.get_one(Dataset, request.dataset_id)
    gone = mask_of(dataset.erased, dataset.sample_count)[unpack(request.positions)]
    return request.model_id is None and bool(gone.any())


def _jobs(session: Session, request: DeletionRequest) -> Sequence[Job]:
    """The unlearn jobs of the request and, for one that affects no model, its purge: locked."""
    own = select(OutcomeRow.job_id).where(OutcomeRow.request_id == request.id)
    purge = (Job.request_id == request.id) & (Job.kind == JobKind.PURGE)
    return session.scalars(select(Job).where(Job.id.in_(own) | purge).order_by(Job.id).with_for_update()).all()


def _detach(session: Session, request: DeletionRequest) -> Sequence[OutcomeRow]:
    """Take the request out of jobs that wait; a job that has no other request is cancelled. Its outcomes."""
    _require_stoppable(session, request)
    rows = session.scalars(select(OutcomeRow).where(OutcomeRow.request_id == request.id)).all()
    waiting = [job for job in _jobs(session, request) if job.state == JobState.QUEUED]
    for row in rows:
        row.job_id = None
    session.flush()
    for job in waiting:
        others = select(func.count()).where(OutcomeRow.job_id == job.id)
        if not session.scalars(others).one():
            ended = jobs.problem("cancelled", "no request is left in its batch")
            jobs.finish(session, job, JobState.CANCELLED, problem=ended)
    return rows


def _free(session: Session, request: DeletionRequest, positions: Positions) -> None:
    """The samples may be requested again."""
    dataset = session.get_one(Dataset, request.dataset_id, with_for_update=True)
    holder: Dataset | Model = dataset
    if request.model_id is not None:
        holder = session.get_one(Model, request.model_id, with_for_update=True)
    holder.requested = marked(holder.requested, dataset.sample_count, positions, value=False)
