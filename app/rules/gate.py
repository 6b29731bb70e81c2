"""The gate: what happens to a candidate after its audit (docs/gate.md, "What happens to a candidate").

publish    it becomes the next version, labelled with its verdict
escalate   the next step of the policy's escalation runs on the same batch
attention  no step is left: a person must decide
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from app.rules.audit_plan import ONE_MORE_RETRAIN, RETRAINS, least_margin

LATE_FACTOR = 1.5  # a step can end in time if this many of its measured durations fit before the deadline

Action = Literal["publish", "escalate", "attention"]


@dataclass(frozen=True)
class EscalationStep:
    """One way to unlearn. `stronger`: than the step before it, by the same method. `exact` steps come last."""

    method: str
    exact: bool = False
    stronger: bool = False


@dataclass(frozen=True)
class Finding:
    """What the audit found.

    leans: one of several candidates that looks so much like a fail that publishing it would be luck.
    """

    verdict: Literal["pass", "fail", "inconclusive"]
    over_forgotten: bool = False
    utility_kept: bool = True
    leans: bool = False


@dataclass(frozen=True)
class Clock:
    """left: time to the earliest legal deadline of the batch; None without a deadline. needed: the measured duration
    of each step."""

    left: timedelta | None
    needed: Sequence[timedelta]

    def allows(self, step: int) -> bool:
        return self.has(self.needed[step])

    def has(self, needed: timedelta) -> bool:
        """Whether that much more can end in time."""
        return self.left is None or needed * LATE_FACTOR <= self.left


@dataclass(frozen=True)
class GateAction:
    """`step`: the one to escalate to. `alert`: the legal deadline changed the decision, or will probably be missed."""

    action: Action
    reason: str
    step: int | None = None
    alert: bool = False


def candidates(steps: Sequence[EscalationStep]) -> int:
    """How many approximate candidates may be tried on one batch: the audit's levels are adjusted for them all."""
    return max(1, sum(not step.exact for step in steps))


def retrains_null(
    null_source: str, samples: int, controls: int, training: timedelta | None, most_seconds: float, clock: Clock
) -> bool:
    """Whether a batch waits for exact retrains as its null: there is no other, so many samples could get a verdict by
    them, and they are affordable and can end in time.

    training: the measured duration of one; None before one was measured, and then nothing is known to be affordable.
    """
    if null_source != "none" or training is None or least_margin(samples, controls, ONE_MORE_RETRAIN) is None:
        return False
    needed = training * RETRAINS
    return needed.total_seconds() <= most_seconds and clock.has(needed)


def decide(
    finding: Finding, steps: Sequence[EscalationStep], at: int, clock: Clock, *, retrain_inconclusive: bool = False
) -> GateAction:
    """Decide on the candidate of step `at`.

    A candidate under the utility floor is passed over by its accuracy alone, so trying the next one is not optional
    stopping. After a fail, or what leans to one, the next step is tried: the audit counts all candidates beforehand.
    """
    if steps[at].exact:
        return GateAction(
            "publish", f"exact retraining publishes on its provenance; its verdict, {finding.verdict}, is shown"
        )
    gentler = _following(steps, at, gentler=True)
    if not finding.utility_kept and gentler is not None and clock.allows(gentler):
        return GateAction("escalate", "the candidate lost more test accuracy than the policy allows", gentler)
    if finding.verdict == "fail":
        return _failed(finding, steps, at, clock)
    if finding.leans:
        return _leaning(finding, steps, at, clock)
    if not finding.utility_kept:
        if gentler is None:
            return GateAction("publish", "it is under the utility floor, no step is left, and the samples must go")
        return _overruled("it is under the utility floor")
    if finding.verdict == "inconclusive" and retrain_inconclusive and (exact := _exact(steps, at)) is not None:
        if clock.allows(exact):
            reason = "the audit was inconclusive, and the policy then asks for exact retraining"
            return GateAction("escalate", reason, exact)
        return _overruled("the audit was inconclusive")
    return GateAction(
        "publish",
        {"pass": "the audit passed", "inconclusive": "the audit was inconclusive, and is labelled so"}[finding.verdict],
    )


def cannot_run(reason: str, steps: Sequence[EscalationStep], at: int, clock: Clock) -> GateAction:
    """Decide where the method of step `at` has no candidate: it cannot run on its input, or diverged.

    Nothing was measured, so any next step is no second try; a stronger setting of the same method would not run either.
    """
    to = _following(steps, at, gentler=True)
    what = f"{steps[at].method} could not run: {reason}"
    if to is None:
        return GateAction("attention", what)
    late = not clock.allows(to)
    return GateAction("escalate", what + (LATE if late else ""), to, late)


LATE = "; the next step will probably end after the legal deadline"


def _failed(finding: Finding, steps: Sequence[EscalationStep], at: int, clock: Clock) -> GateAction:
    what = "over-forgotten" if finding.over_forgotten else "still remembered"
    to = _following(steps, at, gentler=finding.over_forgotten)
    if to is None:
        return GateAction("attention", f"{what}, and the escalation has no step left")
    late = not clock.allows(to)
    return GateAction("escalate", f"the audit failed: {what}" + (LATE if late else ""), to, late)


def _leaning(finding: Finding, steps: Sequence[EscalationStep], at: int, clock: Clock) -> GateAction:
    """No fail, so that the legal deadline has priority."""
    what = "over-forgotten" if finding.over_forgotten else "still remembered"
    several = f"it looks {what}, and among {candidates(steps)} candidates one would go through by luck"
    to = _following(steps, at, gentler=finding.over_forgotten or not finding.utility_kept)
    if to is None:
        return GateAction("attention", f"{several}; the escalation has no step left")
    return GateAction("escalate", several, to) if clock.allows(to) else _overruled(several)


def _overruled(what: str) -> GateAction:
    reason = f"{what}, but the legal deadline comes before another step could end, and the samples must go"
    return GateAction("publish", reason, alert=True)


def _following(steps: Sequence[EscalationStep], at: int, *, gentler: bool) -> int | None:
    """The next step; with `gentler` none that is a stronger setting of the same method."""
    for number in range(at + 1, len(steps)):
        if not (gentler and steps[number].stronger and steps[number].method == steps[at].method):
            return number
    return None


def _exact(steps: Sequence[EscalationStep], at: int) -> int | None:
    return next((number for number in range(at + 1, len(steps)) if steps[number].exact), None)
