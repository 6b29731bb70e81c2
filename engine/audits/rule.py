"""The audit's verdict rule: an estimate against a margin."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

Z95 = 1.959964


POWER80 = 3.24  # z(0.975) + z(0.90): both one-sided tests of an equivalence pass with 80 % power


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
