"""The gate: what becomes of a candidate once its audit has spoken (DESIGN 4, 8; docs/gate.md). Standard library only.

judge      it was not refused where candidates are chosen: let the other half of the references judge it, once
publish    it becomes the next version, labelled with its verdict
climb      the next rung of the policy's ladder is tried on the same batch
attention  no rung is left: a person must decide
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

LATE_FACTOR = 1.5  # a rung is taken to end in time when so many of its measured durations fit before the deadline

Action = Literal["judge", "publish", "climb", "attention"]


@dataclass(frozen=True)
class Rung:
    """One way to unlearn. `stronger`: than the rung before it, by the same method. `exact` ones come last."""

    method: str
    exact: bool = False
    stronger: bool = False


@dataclass(frozen=True)
class Finding:
    """What was found of a candidate.

    judged: by references that had no part in choosing it; False while candidates are being chosen on the other half.
    """

    verdict: Literal["pass", "fail", "inconclusive"]
    over_forgotten: bool = False
    utility_kept: bool = True
    judged: bool = True


@dataclass(frozen=True)
class Clock:
    """left: to the earliest legal deadline of the batch; None where no date is set. needed: by each rung, from
    its start to its end, as measured."""

    left: timedelta | None
    needed: Sequence[timedelta]

    def allows(self, rung: int) -> bool:
        return self.left is None or self.needed[rung] * LATE_FACTOR <= self.left


@dataclass(frozen=True)
class Step:
    """`rung`: where to climb to. `alert`: the legal deadline changed the decision, or will probably be missed."""

    action: Action
    reason: str
    rung: int | None = None
    alert: bool = False


def splits(rungs: Sequence[Rung]) -> bool:
    """Whether references must be parted into those that choose and those that judge: with two approximate rungs."""
    return sum(not rung.exact for rung in rungs) >= 2


def decide(
    finding: Finding, rungs: Sequence[Rung], at: int, clock: Clock, *, retrain_inconclusive: bool = False
) -> Step:
    """Decide on the candidate of rung `at`.

    A candidate under the utility floor is passed over whatever the attack says of it, so that trying the next one
    is not optional stopping. A fail among the references that choose tries the next rung; one by those that judge
    leaves exact retraining alone.
    """
    if rungs[at].exact:
        return Step(
            "publish", f"exact retraining publishes on its provenance; its verdict, {finding.verdict}, is shown"
        )
    gentler = _following(rungs, at, gentler=True)
    if not finding.utility_kept and gentler is not None and clock.allows(gentler):
        return Step("climb", "the candidate lost more test accuracy than the policy allows", gentler)
    if finding.verdict == "fail":
        return _failed(finding, rungs, at, clock)
    if not finding.judged:
        return Step("judge", "it did not fail where candidates are chosen")
    if not finding.utility_kept:
        if gentler is None:
            return Step("publish", "it is under the utility floor, no rung is left, and the erasure is owed")
        return _owed("it is under the utility floor")
    if finding.verdict == "inconclusive" and retrain_inconclusive and (exact := _exact(rungs, at)) is not None:
        if clock.allows(exact):
            return Step("climb", "the audit was inconclusive, and the policy then asks for exact retraining", exact)
        return _owed("the audit was inconclusive")
    return Step(
        "publish",
        {"pass": "the audit passed", "inconclusive": "the audit was inconclusive, and is labelled so"}[finding.verdict],
    )


def _failed(finding: Finding, rungs: Sequence[Rung], at: int, clock: Clock) -> Step:
    what = "over-forgotten" if finding.over_forgotten else "still remembered"
    if finding.judged:
        to, none_left = _exact(rungs, at), "no exact retraining may follow: the ladder has no such rung"
    else:
        to, none_left = _following(rungs, at, gentler=finding.over_forgotten), "the ladder has no rung left"
    if to is None:
        return Step("attention", f"{what}, and {none_left}")
    late = not clock.allows(to)
    reason = f"the audit failed: {what}" + (
        "; the next rung will probably end after the legal deadline" if late else ""
    )
    return Step("climb", reason, to, late)


def _owed(what: str) -> Step:
    reason = f"{what}, but the legal deadline comes before another rung could end: the erasure is owed"
    return Step("publish", reason, alert=True)


def _following(rungs: Sequence[Rung], at: int, *, gentler: bool) -> int | None:
    """The next rung; with `gentler` none that is a stronger setting of the same method."""
    for number in range(at + 1, len(rungs)):
        if not (gentler and rungs[number].stronger and rungs[number].method == rungs[at].method):
            return number
    return None


def _exact(rungs: Sequence[Rung], at: int) -> int | None:
    return next((number for number in range(at + 1, len(rungs)) if rungs[number].exact), None)
