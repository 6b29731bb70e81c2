"""The audit's verdict rule: an estimate against a margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import special

Z95 = 1.959964
POWER = 0.8
MARGINS = np.arange(1, 500) / 1000


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


@dataclass(frozen=True)
class Ruling:
    verdict: str  # pass | fail | inconclusive
    reason: str


def passes(estimate: Estimate, margin: float, candidates: int = 1) -> bool:
    """candidates: of which the best-looking one may be published. With several the interval is Bonferroni's."""
    reach = estimate.bound - special.ndtri(0.025 / candidates) * estimate.standard_error
    return -margin <= estimate.low and estimate.high <= margin and bool(abs(estimate.difference) + reach <= margin)


def fails(estimate: Estimate, margin: float) -> bool:
    return estimate.low > margin or estimate.high < -margin


def power(
    margins: NDArray[np.float64], candidate: Estimate, others: Sequence[Estimate | None], candidates: int = 1
) -> NDArray[np.float64]:
    """Return with which probability an exact retrain passes at each of `margins` (M,), with all conditions of a pass.

    Its own d is normal around the null, with the candidate's standard error. Each of `others` (parent and signal) must
    lie outside the margin with its whole interval; it is drawn anew around its estimate. They count as independent;
    they share controls and references, and in simulations the product is near the measured share.
    """
    error = candidate.standard_error or 1e-12
    reach = -special.ndtri(0.025 / candidates)
    within = np.clip(2 * special.ndtr((margins - candidate.bound) / error - reach) - 1, 0, 1)
    for other in others:
        if other is None:
            return np.zeros(len(margins))
        spread = other.standard_error or 1e-12
        beyond = (np.abs(other.difference) - other.bound - margins) / spread - Z95
        within = within * special.ndtr(beyond)
    result: NDArray[np.float64] = within
    return result


def smallest_margin(
    candidate: Estimate, parent: Estimate | None, signal: Estimate | None, candidates: int = 1
) -> float | None:
    """Return the smallest margin at which an exact retrain meets all conditions of a pass with 80 % power.

    None where there is none: for small sets the interval asks for a wide margin, and what the parent leaks and the
    candidate's own signal must lie outside of it.
    """
    reached = np.flatnonzero(power(MARGINS, candidate, (parent, signal), candidates) >= POWER)
    return float(MARGINS[reached[0]]) if len(reached) else None


def leans(estimate: Estimate, margin: float, candidates: int) -> bool:
    """Whether one of several candidates looks so much like a fail that another one is tried.

    Of several whose d is the margin itself, all fail at once with 2.5 %, as a single one does at 95 %: each lies
    outside with an interval of the level 0.025 ** (1 / candidates), which is narrower.
    """
    if candidates < 2:
        return False
    reach = estimate.bound - special.ndtri(0.025 ** (1 / candidates)) * estimate.standard_error
    return bool(abs(estimate.difference) - reach > margin)


def judge(
    candidate: Estimate | None,
    margin: float,
    *,
    parent: Estimate | None,
    signal: Estimate | None,
    utility_kept: bool = True,
    uncovered: str = "",
    candidates: int = 1,
    no_estimate: str = "no references",
    before: str = "parent",
) -> Ruling:
    """Rule on one candidate.

    Args:
        candidate: its estimate, or None where there is no valid null or no reference (`no_estimate` says which).
        margin: largest |d| that still passes, fixed beforehand.
        parent: the parent's estimate by the same test; a parent that does not fail leaves nothing to detect.
        signal: RT-AUC - 0.5 of the candidate, None without retained samples. A collapsed model has FT-AUC 0.5 too.
        utility_kept: the candidate keeps the policy's utility floor.
        uncovered: of which forgotten samples the estimate says nothing, where that is too many for a pass.
        candidates: of approximate methods that the policy may try; fixed beforehand, also for the first of them.
        before: what `parent` is called: what stands in its place may be something else.
    """
    if candidate is None:
        return Ruling("inconclusive", no_estimate)
    span = f"d = {candidate.difference:+.3f}, 95 % interval [{candidate.low:+.3f}, {candidate.high:+.3f}]"
    if fails(candidate, margin):
        side = "still remembered" if candidate.low > margin else "over-forgotten: it stands out as unlike unseen data"
        return Ruling("fail", f"{side}: {span} lies outside ±{margin:g}")
    if not passes(candidate, margin):
        least = None if uncovered else smallest_margin(candidate, parent, signal, candidates)
        could = uncovered or "a set of this size and signal could not have passed any margin with 80 % power"
        if least is not None:
            could = (
                f"a set of this size and signal could have passed a margin of {least:.3f} at the smallest (80 % power)"
            )
        return Ruling("inconclusive", f"{span} does not fit inside ±{margin:g}; {could}")
    if not passes(candidate, margin, candidates):
        several = f"not at the level of {candidates} candidates, of which the best-looking one may be published"
        return Ruling("inconclusive", f"{span} fits inside ±{margin:g}, but {several}")
    if parent is None or not fails(parent, margin):
        return Ruling("inconclusive", f"no signal: the {before} does not fail the same test, so {span} shows little")
    if signal is None:
        return Ruling("inconclusive", "no retained samples to show that the audit still sees membership")
    if signal.low <= margin:
        return Ruling("inconclusive", f"the candidate lost its own membership signal (RT-AUC); {span} shows little")
    if not utility_kept:
        return Ruling("inconclusive", f"the candidate fell under the utility floor; {span} shows little")
    if uncovered:
        return Ruling("inconclusive", f"{uncovered}; {span} shows nothing of the others")
    return Ruling("pass", f"{span} lies inside ±{margin:g}, and the {before} failed the same test")


def combine(*standard_errors: float) -> float:
    """Standard error of a sum of independent parts."""
    return sqrt(sum(s * s for s in standard_errors))
