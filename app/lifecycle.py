"""The state machines of Lethe and the audit's verdict rule. Standard library only.

    job       queued -> running -> succeeded | rejected | failed | cancelled, and dead after three attempts
    decision  received -> accepted | held | refused | withdrawn
    outcome   pending -> batched -> published -> purged, or attention (one per request and affected model)

The status a client reads is one view over decision and outcomes (`request_status`), never stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt

MAX_ATTEMPTS = 3
Z95 = 1.959964
POWER80 = 3.24  # z(0.975) + z(0.90): both one-sided tests of an equivalence pass with 80 % power


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
    WITHDRAWN = "withdrawn"


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
    Decision.RECEIVED: frozenset({Decision.ACCEPTED, Decision.HELD, Decision.REFUSED, Decision.WITHDRAWN}),
    Decision.HELD: frozenset({Decision.ACCEPTED, Decision.REFUSED, Decision.WITHDRAWN}),
    Decision.ACCEPTED: frozenset({Decision.HELD, Decision.REFUSED, Decision.WITHDRAWN}),
    Decision.REFUSED: frozenset(),
    Decision.WITHDRAWN: frozenset(),
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
    decision: Decision, outcomes: Iterable[Outcome], purge_done: bool, purge_failed: bool = False
) -> RequestStatus:
    """The one status of a request.

    `purge_done`: nothing derived from its samples is left unaccounted. `purge_failed`: its purge job has given up.
    """
    match decision:
        case Decision.REFUSED:
            return RequestStatus.REFUSED
        case Decision.WITHDRAWN:
            return RequestStatus.CANCELLED
        case Decision.HELD:
            return RequestStatus.HELD
    states = set(outcomes)
    if Outcome.ATTENTION in states or purge_failed:
        return RequestStatus.ATTENTION
    if states <= {Outcome.PUBLISHED, Outcome.PURGED}:
        return RequestStatus.FULFILLED if purge_done else RequestStatus.PUBLISHED
    return RequestStatus.ACCEPTED if states == {Outcome.PENDING} else RequestStatus.PROCESSING


# -- the audit's verdict (DESIGN 8) ----------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """d = FT-AUC - null with its standard error (samples, references and null together).

    bound: the null is only known to lie within `null` ± `bound`; the interval is as much wider on both sides.
    """

    difference: float
    standard_error: float
    null: float = 0.5
    bound: float = 0.0

    @property
    def low(self) -> float:
        """Of the 95 % interval, cut where an AUC ends."""
        return max(-self.null, self.difference - self.bound - Z95 * self.standard_error)

    @property
    def high(self) -> float:
        return min(1 - self.null, self.difference + self.bound + Z95 * self.standard_error)

    @property
    def smallest_margin(self) -> float:
        """The smallest margin that a set of this size could have passed with 80 % power."""
        return self.bound + POWER80 * self.standard_error


@dataclass(frozen=True)
class Ruling:
    verdict: str  # pass | fail | inconclusive
    reason: str


def passes(estimate: Estimate, margin: float) -> bool:
    return -margin <= estimate.low and estimate.high <= margin


def fails(estimate: Estimate, margin: float) -> bool:
    return estimate.low > margin or estimate.high < -margin


def judge(
    candidate: Estimate | None,
    margin: float,
    *,
    parent: Estimate | None,
    utility_kept: bool = True,
    signal_kept: bool = True,
    no_estimate: str = "no references",
    before: str = "parent",
) -> Ruling:
    """Rule on one candidate.

    Args:
        candidate: its estimate, or None where there is no valid null or no reference (`no_estimate` says which).
        margin: largest |d| that still passes, fixed beforehand.
        parent: the parent's estimate by the same test; a parent that does not fail leaves nothing to detect.
        utility_kept: the candidate keeps the policy's utility floor.
        signal_kept: the candidate keeps its own RT signal; a collapsed model has FT-AUC 0.5 too.
        before: what `parent` is called: what stands in its place may be something else.
    """
    if candidate is None:
        return Ruling("inconclusive", no_estimate)
    span = f"d = {candidate.difference:+.3f}, 95 % interval [{candidate.low:+.3f}, {candidate.high:+.3f}]"
    if fails(candidate, margin):
        side = "still remembered" if candidate.low > margin else "over-forgotten: it stands out as unlike unseen data"
        return Ruling("fail", f"{side}: {span} lies outside ±{margin:g}")
    if not passes(candidate, margin):
        least = candidate.smallest_margin
        power = f"a set of this size could have passed a margin of {least:.3f} at the smallest (80 % power)"
        if least >= candidate.null:
            power = "a set of this size could not have passed any margin"
        return Ruling("inconclusive", f"{span} does not fit inside ±{margin:g}; {power}")
    if parent is None or not fails(parent, margin):
        return Ruling("inconclusive", f"no signal: the {before} does not fail the same test, so {span} shows little")
    if not signal_kept:
        return Ruling("inconclusive", f"the candidate lost its own membership signal (RT-AUC); {span} shows little")
    if not utility_kept:
        return Ruling("inconclusive", f"the candidate fell under the utility floor; {span} shows little")
    return Ruling("pass", f"{span} lies inside ±{margin:g}, and the {before} failed the same test")


def combine(*standard_errors: float) -> float:
    """Standard error of a sum of independent parts."""
    return sqrt(sum(s * s for s in standard_errors))
