"""The state machines of Lethe (docs/architecture.md, "States"). Standard library only.

    job       queued -> running -> succeeded | rejected | failed | cancelled, and dead after three attempts
    decision  received -> accepted | held | refused | cancelled
    outcome   pending -> batched -> published -> purged, or attention (one for each request and affected model)

The status that a client reads is a view over decision and outcomes (`request_status`), and is never stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

MAX_ATTEMPTS = 3


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"


class JobKind(StrEnum):
    INGEST = "ingest"
    TRAIN = "train"
    IMPORT = "import"
    REFERENCES = "references"
    REFERENCE = "reference"  # one model of a pool: a part of such a job
    PRECOMPUTE = "precompute"
    UNLEARN = "unlearn"
    AUDIT = "audit"
    PURGE = "purge"


class Decision(StrEnum):
    RECEIVED = "received"
    ACCEPTED = "accepted"
    HELD = "held"
    REFUSED = "refused"
    CANCELLED = "cancelled"

    @classmethod
    def _missing_(cls, value: object) -> Decision | None:
        """What 0.1 called a cancelled request: an API of 0.1 that still ran after the migration may have written it."""
        return cls.CANCELLED if value == "withdrawn" else None


class Identity(StrEnum):
    """Whether the person has shown who they are."""

    NOT_NEEDED = "not-needed"
    ASKED = "asked"
    CONFIRMED = "confirmed"
    REFUSED = "refused"


class Outcome(StrEnum):
    PENDING = "pending"
    BATCHED = "batched"
    PUBLISHED = "published"
    PURGED = "purged"
    ATTENTION = "attention"


class VersionState(StrEnum):
    CANDIDATE = "candidate"
    CURRENT = "current"
    SUPERSEDED = "superseded"
    PURGED = "purged"


class RequestStatus(StrEnum):
    """What a client reads: a view over the decision and the outcomes of one request."""

    ACCEPTED = "accepted"
    PROCESSING = "processing"
    PUBLISHED = "published"  # every affected model has a new version; what was derived is being purged
    FULFILLED = "fulfilled"
    INCOMPLETE = "incomplete"  # the samples are erased, and something made from them is kept past the due date
    ATTENTION = "needs-attention"
    HELD = "held"
    REFUSED = "refused"
    CANCELLED = "cancelled"


JOB_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {
            JobState.QUEUED,  # the lease ended and attempts are left
            JobState.SUCCEEDED,
            JobState.REJECTED,
            JobState.FAILED,
            JobState.CANCELLED,
            JobState.DEAD,
        }
    ),
    JobState.FAILED: frozenset({JobState.QUEUED}),  # :retry
    JobState.DEAD: frozenset({JobState.QUEUED}),  # :retry
    JobState.REJECTED: frozenset({JobState.QUEUED}),  # :retry, under another policy
    JobState.SUCCEEDED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

DECISION_MOVES: dict[Decision, frozenset[Decision]] = {
    Decision.RECEIVED: frozenset({Decision.ACCEPTED, Decision.HELD, Decision.REFUSED, Decision.CANCELLED}),
    Decision.HELD: frozenset({Decision.ACCEPTED, Decision.REFUSED, Decision.CANCELLED}),
    Decision.ACCEPTED: frozenset({Decision.HELD, Decision.REFUSED, Decision.CANCELLED}),
    Decision.REFUSED: frozenset(),
    Decision.CANCELLED: frozenset(),
}

OUTCOME_MOVES: dict[Outcome, frozenset[Outcome]] = {
    Outcome.PENDING: frozenset({Outcome.BATCHED}),
    Outcome.BATCHED: frozenset({Outcome.PUBLISHED, Outcome.ATTENTION, Outcome.PENDING}),
    Outcome.PUBLISHED: frozenset({Outcome.PURGED}),
    Outcome.ATTENTION: frozenset({Outcome.BATCHED}),  # the job is tried again
    Outcome.PURGED: frozenset(),
}

TERMINAL_JOBS = frozenset({JobState.SUCCEEDED, JobState.REJECTED, JobState.FAILED, JobState.CANCELLED, JobState.DEAD})


class IllegalMoveError(Exception):
    """A state was asked to move where its table does not allow."""

    def __init__(self, noun: str, now: StrEnum, to: StrEnum) -> None:
        super().__init__(f"a {noun} that is {now.value} cannot become {to.value}")
        self.noun, self.now, self.to = noun, now, to


def move_job(now: JobState, to: JobState) -> JobState:
    if to not in JOB_MOVES[now]:
        raise IllegalMoveError("job", now, to)
    return to


def move_decision(now: Decision, to: Decision) -> Decision:
    if to not in DECISION_MOVES[now]:
        raise IllegalMoveError("request", now, to)
    return to


def move_outcome(now: Outcome, to: Outcome) -> Outcome:
    if to not in OUTCOME_MOVES[now]:
        raise IllegalMoveError("outcome", now, to)
    return to


def request_status(
    decision: Decision,
    outcomes: Iterable[Outcome],
    purge_done: bool,
    purge_failed: bool = False,
    remains_late: bool = False,
) -> RequestStatus:
    """The one status of a request.

    `purge_done`: nothing derived from its samples is left unaccounted. `purge_failed`: its purge job has given up.
    `remains_late`: something that has a receipt with a date goes only after the request's due date.
    """
    match decision:
        case Decision.REFUSED:
            return RequestStatus.REFUSED
        case Decision.CANCELLED:
            return RequestStatus.CANCELLED
        case Decision.HELD:
            return RequestStatus.HELD
    states = set(outcomes)
    if Outcome.ATTENTION in states or purge_failed:
        return RequestStatus.ATTENTION
    if states <= {Outcome.PUBLISHED, Outcome.PURGED}:
        if not purge_done:
            return RequestStatus.PUBLISHED
        return RequestStatus.INCOMPLETE if remains_late else RequestStatus.FULFILLED
    return RequestStatus.ACCEPTED if states == {Outcome.PENDING} else RequestStatus.PROCESSING
