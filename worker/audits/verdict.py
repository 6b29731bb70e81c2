"""From measurements to a verdict: is there a valid null, and what does it say (DESIGN 8)?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.lifecycle import Estimate, Ruling, fails, judge, smallest_margin
from app.reports import Auc, Balance, Interval, Judgement, Measurement
from worker.audits import roc

Positions = NDArray[np.int64]

NULL = 0.5
SIGNIFICANCE = 0.01


@dataclass(frozen=True)
class Groups:
    """Positions (into the pool's N samples) of the three groups that the audit compares."""

    forget: Positions
    retain: Positions
    test: Positions


def balance(
    log_odds: NDArray[np.float32], membership: NDArray[np.bool_], labels: NDArray[np.int64], groups: Groups
) -> Balance:
    """Test whether the forget set is like the controls, in classes and in difficulty to unseeing models."""
    classes = int(labels.max()) + 1
    by_class = roc.chi_square_p(
        *(np.bincount(labels[each], minlength=classes) for each in (groups.forget, groups.test))
    )
    odds = np.where(membership, 0, log_odds.astype(np.float64)).sum(axis=0) / (~membership).sum(axis=0)
    by_difficulty = roc.mann_whitney_p(odds[groups.forget], odds[groups.test])
    return Balance(
        random_like=min(by_class, by_difficulty) >= SIGNIFICANCE,
        class_p_value=by_class,
        difficulty_p_value=by_difficulty,
    )


def judgement(
    candidate: Measurement,
    parent: Measurement | None,
    balanced: Balance | None,
    problem: str,
    margin: float,
    utility_floor: float | None,
) -> Judgement:
    """Apply the verdict rule. Only a random-like forget set has 0.5 as its null; others have none here."""
    valid = balanced is not None and balanced.random_like
    estimate = _estimate(candidate.ft_auc) if valid else None
    parent_estimate = _estimate(parent.ft_auc) if valid and parent else None
    signal = candidate.rt_auc
    ruling = judge(
        estimate,
        margin,
        parent=parent_estimate,
        utility_kept=utility_floor is None or (candidate.accuracy_test or 0.0) >= utility_floor,
        signal_kept=signal is None or signal.interval.low > NULL + margin,
        no_estimate=problem or "no valid control: the forget set is not like a random draw of the training set",
    )
    if ruling.verdict == "pass" and signal is None:
        ruling = Ruling("inconclusive", "no retained samples to show that the audit still sees membership")
    return Judgement(
        verdict=ruling.verdict,
        reason=ruling.reason,
        margin=margin,
        null=NULL if valid else None,
        null_source="exchangeable" if valid else "none",
        difference=estimate.difference if estimate else None,
        interval=Interval(low=estimate.low, high=estimate.high) if estimate else None,
        smallest_margin=smallest_margin(estimate.standard_error) if estimate else None,
        parent_failed=fails(parent_estimate, margin) if parent_estimate else None,
    )


def _estimate(auc: Auc | None) -> Estimate | None:
    return None if auc is None else Estimate(auc.value - NULL, auc.standard_error)
