"""Whether the person has shown who they are, and what that does to the request and to the law's clock.

While a proof is waited for, the request is held: nothing is erased for a person who may be another.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta

from sqlalchemy.orm import Session

from app import events
from app.core.errors import Conflict, Unprocessable
from app.core.tables import CaseDetails, DeletionRequest, Proposal
from app.deletions import decisions
from app.deletions.orders import NewRequest
from app.rules.deadlines import clock
from app.rules.states import Decision, Identity

LONGEST_WAIT = timedelta(days=92)
HELD = "The person's identity must be confirmed."


def ask(
    session: Session, request: DeletionRequest, at: datetime | None, until: date | None, note: str | None = None
) -> None:
    """The person must show who they are, up to the end of the day `until`.

    Raises:
        Conflict: it was asked before, or the request is decided or being carried out.
        Unprocessable: the wait has no end, or one that cannot be.
    """
    law, asked = clock(request.jurisdiction), decisions.within(session, request, at)
    decisions.require_unproposed(session, request)
    if request.identity != Identity.NOT_NEEDED:
        raise Conflict(f"The identity is {request.identity} already.", kind="identity-asked-already")
    if until is None or not law.day(asked) < until <= law.day(asked + LONGEST_WAIT):
        raise Unprocessable(
            "A pause has an end: `until` is the day up to which you wait, after the day of asking and within "
            f"{LONGEST_WAIT.days} days of it.",
            kind="pause-without-end",
            errors=[{"pointer": "/until", "code": "pause-without-end"}],
        )
    if request.decision != Decision.HELD:
        decisions.suspend(session, request, HELD)
    request.identity, request.identity_asked_at, request.identity_until = Identity.ASKED, asked, law.end_of(until)
    _changed(session, request, note)


def end(
    session: Session, request: DeletionRequest, *, confirmed: bool, at: datetime | None, note: str | None = None
) -> None:
    """The person has shown who they are, and the request goes on; or has not, and it may be refused. A proof that comes
    after that is taken, too; the wait was over before, so that it moves no date.

    Raises:
        Conflict: nothing was asked, or the request is decided.
    """
    ended = decisions.within(session, request, at)
    if request.identity == Identity.ASKED:
        request.identity_ended_at = max(ended, request.identity_asked_at or ended)
    elif request.identity == Identity.NOT_NEEDED and confirmed:  # shown with the request
        request.identity_ended_at = ended
    elif request.identity != Identity.REFUSED or not confirmed:
        raise Conflict("No proof of identity is waited for.", kind="identity-not-asked")
    elif request.decision in (Decision.REFUSED, Decision.CANCELLED):
        raise Conflict("The request has been answered: a complaint about it reopens it.", kind="illegal-move")
    request.identity = Identity.CONFIRMED if confirmed else Identity.REFUSED
    if confirmed and request.decision == Decision.HELD:
        _go_on(session, request)
    _changed(session, request, note)


def _go_on(session: Session, request: DeletionRequest) -> None:
    """End a hold that only waited for the proof, unless a refusal waits for its second person: then with that."""
    if request.reason != HELD:
        return
    proposal = session.get(Proposal, request.id)
    if proposal is None:
        decisions.resume(session, request)
    else:
        request.reason, proposal.suspended = decisions.WAITS, True


def moves_due(request: DeletionRequest | NewRequest) -> bool:
    """Whether the due date is later for the wait: not where the law's clock runs on, or the period was over before."""
    pause, law = decisions.pause_of(request), clock(request.jurisdiction)
    period = law.due if request.extended_at is None else law.extended
    return pause is not None and period(request.received_at, pause) != period(request.received_at)


def _changed(session: Session, request: DeletionRequest, note: str | None) -> None:
    """The due date as the law has it now. The note may name a person, so it is kept apart."""
    law, was = clock(request.jurisdiction), request.due_at
    period = law.due if request.extended_at is None else law.extended
    if request.identity_asked_at is not None and request.identity_asked_at <= was:
        request.due_at = period(request.received_at, decisions.pause_of(request))
    if note is not None:
        details = session.get(CaseDetails, request.id)
        if details is None:
            details = CaseDetails(request_id=request.id, tenant_id=request.tenant_id)
            session.add(details)
        details.identity_note = note
    data = decisions.moved(was, request.due_at)
    events.record(session, request.tenant_id, f"request.identity-{request.identity}", request.id, **data)
