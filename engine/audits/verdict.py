"""From measurements to a verdict: is there a valid null, and what does it say (docs/methods.md, Verdict)?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from app.formats.audit_report import Auc, Balance, Interval, Judgement, Measurement
from engine.audits import Positions, roc
from engine.audits.rule import Z95, Estimate, combine, fails, judge, smallest_margin

NULL = 0.5
SIGNIFICANCE = 0.01
SMALL_SHIFT = 0.07
"""In difficulty, as an AUC less 0.5: a standardised difference of 0.25, up to which adjusting for a covariate is held
to be trustworthy (Rubin, Health Services and Outcomes Research Methodology 2, 2001, 169)."""
FEWEST_RETRAINS = 5


@dataclass(frozen=True)
class Groups:
    """Positions (into the pool's N samples) of the three groups that the audit compares."""

    forget: Positions
    retain: Positions
    test: Positions


@dataclass(frozen=True)
class Null:
    """What an exact retrain's FT-AUC would be, and how well that is known: within ± bound, with a standard error."""

    value: float
    source: Literal["exchangeable", "same_classes", "retrained"]
    bound: float = 0.0
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

    `grouped` says that the samples were chosen together: such a set is no random draw, even if it passes both tests.
    """
    classes = int(labels.max()) + 1
    by_class = roc.chi_square_p(
        *(np.bincount(labels[each], minlength=classes) for each in (groups.forget, groups.test))
    )
    with np.errstate(invalid="ignore"):  # in a part of a pool some samples have no OUT model; no group has such samples
        odds = np.where(membership, 0, log_odds.astype(np.float64)).sum(axis=0) / (~membership).sum(axis=0)
    by_difficulty = roc.mann_whitney_p(odds[groups.forget], odds[groups.test])
    within, within_p = _within_classes(odds, labels, groups)
    return Balance(
        random_like=min(by_class, by_difficulty) >= SIGNIFICANCE and not grouped,
        class_p_value=by_class,
        difficulty_p_value=by_difficulty,
        difficulty_within_classes_p_value=within_p,
        difficulty_shift=roc.auc(odds[groups.forget], odds[groups.test]) - NULL,
        difficulty_shift_within_classes=within,
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


def _within_classes(
    odds: NDArray[np.float64], labels: NDArray[np.int64], groups: Groups
) -> tuple[float, float] | tuple[None, None]:
    """The class-weighted Mann-Whitney AUC less 0.5, and its two-sided p-value (normal approximation)."""
    parts = strata(labels, groups.forget, groups.test)
    if parts is None:
        return None, None
    shift = sum(weight * (roc.auc(odds[f], odds[t]) - NULL) for weight, f, t in parts)
    variance = sum(weight**2 * roc.exchangeable_variance(len(f), len(t)) for weight, f, t in parts)
    return shift, float(2 * special.ndtr(-abs(shift) / np.sqrt(variance)))


def null_of(balanced: Balance | None, retrained: Sequence[float]) -> Null | None:
    """Choose the null: 0.5 for a random-like set, class by class where the classes are shifted; where the set also
    differs in difficulty, near 0.5 while that is little; else the mean FT-AUC of at least five exact retrains.

    At a level of 1 % the test rejects one random set in a hundred, and every large set for a negligible shift. So the
    size of the shift decides, not its significance alone. An attack that corrects for difficulty completely finds 0.5
    on a retrained model; one that sees nothing but difficulty finds 0.5 plus the shift. The null lies between.

    `retrained`: FT-AUC of each, on this forget set. The spread is that of one more retrain around their mean,
    with Student's factor for a small number, because the candidate is itself one draw.
    """
    if balanced is None:
        return None
    count, near = len(retrained), None if balanced.grouped else _near_half(balanced)
    if count < FEWEST_RETRAINS or (near and not near.bound):
        return near
    student = float(special.stdtrit(count - 1, 0.975)) / Z95
    error = student * float(np.std(retrained, ddof=1)) * (1 + 1 / count) ** 0.5
    return Null(float(np.mean(retrained)), "retrained", standard_error=error, models=count)


def _near_half(balanced: Balance) -> Null | None:
    """None where the sets differ more than a little, or a class of the forget set has no controls."""
    source: Literal["exchangeable", "same_classes"] = "exchangeable"
    p_value, shift = balanced.difficulty_p_value, balanced.difficulty_shift
    if balanced.class_p_value is not None and balanced.class_p_value < SIGNIFICANCE:
        source = "same_classes"
        p_value, shift = balanced.difficulty_within_classes_p_value, balanced.difficulty_shift_within_classes
    if p_value is None or shift is None:
        return None
    if p_value >= SIGNIFICANCE:
        return Null(NULL, source)
    return Null(NULL + shift / 2, source, abs(shift) / 2) if abs(shift) <= SMALL_SHIFT else None


def judgement(
    candidate: Measurement,
    parent: Measurement | None,
    balanced: Balance | None,
    problem: str,
    margin: float,
    utility_floor: float | None,
    retrained: Sequence[float] = (),
    before: str = "parent",
) -> Judgement:
    """Apply the verdict rule. A set without a valid null is inconclusive. before: what `parent` is called."""
    null = None if problem else null_of(balanced, retrained)
    estimate = _estimate(candidate, null)
    parent_estimate = _estimate(parent, null)
    own = candidate.rt_auc
    signal = Estimate(own.value - NULL, own.standard_error) if own else None
    utility_kept = utility_floor is None or (candidate.accuracy_test or 0.0) >= utility_floor
    ruling = judge(
        estimate,
        margin,
        parent=parent_estimate,
        signal=signal,
        utility_kept=utility_kept,
        no_estimate=problem or "no valid control: the forget set is not like a random draw of the training set",
        before=before,
    )
    return Judgement(
        verdict=ruling.verdict,
        reason=ruling.reason,
        margin=margin,
        null=null.value if null else None,
        null_source=null.source if null else "none",
        null_bound=null.bound if null and null.bound else None,
        null_standard_error=null.standard_error if null and null.models else None,
        null_models=null.models if null else None,
        difference=estimate.difference if estimate else None,
        interval=Interval(low=estimate.low, high=estimate.high) if estimate else None,
        smallest_margin=smallest_margin(estimate, parent_estimate, signal) if estimate else None,
        parent_failed=fails(parent_estimate, margin) if parent_estimate else None,
        utility_floor=utility_floor,
        utility_kept=None if utility_floor is None else utility_kept,
    )


def _estimate(measured: Measurement | None, null: Null | None) -> Estimate | None:
    if measured is None or null is None:
        return None
    auc: Auc | None = measured.matched_ft_auc if null.source == "same_classes" else measured.ft_auc
    if auc is None:
        return None
    error = combine(auc.standard_error, null.standard_error)
    return Estimate(auc.value - null.value, error, null.value, null.bound)
