"""From measurements to a verdict: is there a valid null, and what does it say (DESIGN 8)?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from app.lifecycle import Z95, Estimate, Ruling, combine, fails, judge, smallest_margin
from app.reports import Auc, Balance, Interval, Judgement, Measurement
from worker.audits import roc

Positions = NDArray[np.int64]

NULL = 0.5
SIGNIFICANCE = 0.01
FEWEST_RETRAINS = 5


@dataclass(frozen=True)
class Groups:
    """Positions (into the pool's N samples) of the three groups that the audit compares."""

    forget: Positions
    retain: Positions
    test: Positions


@dataclass(frozen=True)
class Null:
    """What an exact retrain's FT-AUC would be, and how well that is known."""

    value: float
    source: Literal["exchangeable", "same_classes", "retrained"]
    standard_error: float = 0.0
    models: int | None = None


def balance(
    log_odds: NDArray[np.float32],
    membership: NDArray[np.bool_],
    labels: NDArray[np.int64],
    groups: Groups,
    grouped: bool = False,
) -> Balance:
    """Test whether the forget set is like the controls, in classes and in difficulty to unseeing models.

    `grouped` says that the samples were chosen together: such a set is no random draw, whatever the tests say.
    """
    classes = int(labels.max()) + 1
    by_class = roc.chi_square_p(
        *(np.bincount(labels[each], minlength=classes) for each in (groups.forget, groups.test))
    )
    with np.errstate(invalid="ignore"):  # in a part of a pool some samples have no OUT model; no group has them
        odds = np.where(membership, 0, log_odds.astype(np.float64)).sum(axis=0) / (~membership).sum(axis=0)
    by_difficulty = roc.mann_whitney_p(odds[groups.forget], odds[groups.test])
    return Balance(
        random_like=min(by_class, by_difficulty) >= SIGNIFICANCE and not grouped,
        class_p_value=by_class,
        difficulty_p_value=by_difficulty,
        difficulty_within_classes_p_value=_within_classes_p(odds, labels, groups),
        grouped=grouped,
    )


def strata(
    labels: NDArray[np.int64], positives: Positions, negatives: Positions
) -> list[tuple[float, Positions, Positions]] | None:
    """Cut both sets by class: the class's share of `positives`, and its members of each set.

    None where a class of `positives` has no member in `negatives`: then they cannot be compared.
    """
    parts = []
    for label in np.unique(labels[positives]):
        own = positives[labels[positives] == label], negatives[labels[negatives] == label]
        if not len(own[1]):
            return None
        parts.append((len(own[0]) / len(positives), *own))
    return parts


def _within_classes_p(odds: NDArray[np.float64], labels: NDArray[np.int64], groups: Groups) -> float | None:
    """Two-sided p-value of the class-weighted Mann-Whitney AUC (normal approximation)."""
    parts = strata(labels, groups.forget, groups.test)
    if parts is None:
        return None
    shift = sum(weight * (roc.auc(odds[f], odds[t]) - NULL) for weight, f, t in parts)
    variance = sum(weight**2 * roc.exchangeable_variance(len(f), len(t)) for weight, f, t in parts)
    return float(2 * special.ndtr(-abs(shift) / np.sqrt(variance)))


def null_of(balanced: Balance | None, retrained: Sequence[float]) -> Null | None:
    """Choose the null: 0.5 for a random-like set; 0.5 class by class where only the classes are shifted; else
    the mean FT-AUC of at least five exact retrains.

    `retrained`: FT-AUC of each, on this forget set. The spread is that of one more retrain around their mean,
    with Student's factor for so few, as the candidate is itself one draw.
    """
    if balanced is None:
        return None
    if balanced.random_like:
        return Null(NULL, "exchangeable")
    within = balanced.difficulty_within_classes_p_value
    shifted = balanced.class_p_value is not None and balanced.class_p_value < SIGNIFICANCE
    if shifted and within is not None and within >= SIGNIFICANCE and not balanced.grouped:
        return Null(NULL, "same_classes")
    count = len(retrained)
    if count < FEWEST_RETRAINS:
        return None
    student = float(special.stdtrit(count - 1, 0.975)) / Z95
    error = student * float(np.std(retrained, ddof=1)) * (1 + 1 / count) ** 0.5
    return Null(float(np.mean(retrained)), "retrained", error, count)


def judgement(
    candidate: Measurement,
    parent: Measurement | None,
    balanced: Balance | None,
    problem: str,
    margin: float,
    utility_floor: float | None,
    retrained: Sequence[float] = (),
) -> Judgement:
    """Apply the verdict rule. A set without a valid null is inconclusive."""
    null = None if problem else null_of(balanced, retrained)
    estimate = _estimate(candidate, null)
    parent_estimate = _estimate(parent, null)
    signal = candidate.rt_auc
    utility_kept = utility_floor is None or (candidate.accuracy_test or 0.0) >= utility_floor
    ruling = judge(
        estimate,
        margin,
        parent=parent_estimate,
        utility_kept=utility_kept,
        signal_kept=signal is None or signal.interval.low > NULL + margin,
        no_estimate=problem or "no valid control: the forget set is not like a random draw of the training set",
    )
    if ruling.verdict == "pass" and signal is None:
        ruling = Ruling("inconclusive", "no retained samples to show that the audit still sees membership")
    return Judgement(
        verdict=ruling.verdict,
        reason=ruling.reason,
        margin=margin,
        null=null.value if null else None,
        null_source=null.source if null else "none",
        null_standard_error=null.standard_error if null and null.models else None,
        null_models=null.models if null else None,
        difference=estimate.difference if estimate else None,
        interval=Interval(low=estimate.low, high=estimate.high) if estimate else None,
        smallest_margin=_possible_margin(estimate) if estimate else None,
        parent_failed=fails(parent_estimate, margin) if parent_estimate else None,
        utility_floor=utility_floor,
        utility_kept=None if utility_floor is None else utility_kept,
    )


def _possible_margin(estimate: Estimate) -> float | None:
    """None where the set is so small that no margin could have been passed."""
    least = smallest_margin(estimate.standard_error)
    return least if least < estimate.null else None


def _estimate(measured: Measurement | None, null: Null | None) -> Estimate | None:
    if measured is None or null is None:
        return None
    auc: Auc | None = measured.matched_ft_auc if null.source == "same_classes" else measured.ft_auc
    if auc is None:
        return None
    return Estimate(auc.value - null.value, combine(auc.standard_error, null.standard_error), null.value)
