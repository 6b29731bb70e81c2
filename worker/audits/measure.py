"""The audit: what a checkpoint still shows of the forget set, and the verdict (DESIGN 8, methods.md 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.catalog import RmiaParams
from app.lifecycle import Z95, Estimate, Ruling, fails, judge, smallest_margin
from app.reports import Auc, Balance, Curve, Histogram, Interval, Judgement, Measurement, TprAtFpr
from worker.audits import rmia, roc
from worker.references import ReferenceSignals

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

NULL = 0.5
FEWEST_REFERENCES = 4  # a jackknife leaves one out, and an IN and an OUT model must remain of each sample
FALSE_POSITIVE_RATES = (0.01, 0.001)
BINS = 20
SIGNIFICANCE = 0.01


@dataclass(frozen=True)
class Groups:
    """Positions (into the pool's N samples) of the three groups that the audit compares."""

    forget: Positions
    retain: Positions
    test: Positions


@dataclass(frozen=True)
class Scores:
    """RMIA scores of N samples: with all K references (N,), and without each of them in turn (K, N)."""

    full: Floats
    left_out: Floats


def audit(
    candidate_logits: NDArray[Any],
    parent_logits: NDArray[Any] | None,
    labels: NDArray[np.int64],
    forget: Positions,
    remain: Positions,
    holdout: Positions,
    references: ReferenceSignals | None,
    params: RmiaParams,
    *,
    utility_floor: float | None = None,
) -> tuple[Measurement, Measurement | None, Balance | None, Judgement]:
    """Measure candidate and parent and judge the candidate.

    All of the retained and all of the holdout samples are used; the holdout is also the population that
    RMIA compares with. Samples whose reference columns are erased (NaN) count for accuracies only. The
    candidate keeps its own signal when its RT-AUC lies above 0.5 by more than the margin, with its whole
    95 % interval: then the audit still sees the membership of samples that were not forgotten.

    Args:
        candidate_logits, parent_logits: (N, classes) over all samples of the pool, train and holdout.
        labels: (N,).
        forget, remain, holdout: positions into N; remain and holdout may be empty.
        references: the pool, or None where there is none.
        utility_floor: the lowest accuracy on the holdout that the policy accepts; None: any.

    Returns:
        The candidate's measurement, the parent's (None without its logits), the balance of the forget set
        (None without references) and the judgement.
    """
    groups = Groups(forget, remain, holdout)
    usable, problem = _usable(groups, references)
    logits = [candidate_logits] if parent_logits is None else [candidate_logits, parent_logits]
    measurements = [_plain(each, labels, groups) for each in logits]
    balance = None
    if references is not None and not problem:
        pool = np.stack([rmia.signals(each, labels, params) for each in references.logits])
        scores = [_scores(each, labels, usable, pool, references.membership, params) for each in logits]
        measurements = [
            measurement.model_copy(update=_attacked(each, usable))
            for measurement, each in zip(measurements, scores, strict=True)
        ]
        balance = _balance(references.log_odds, references.membership, labels, usable)
    parent = measurements[1] if parent_logits is not None else None
    judgement = _judge(measurements[0], parent, balance, problem, params.margin, utility_floor)
    return measurements[0], parent, balance, judgement


def _usable(groups: Groups, references: ReferenceSignals | None) -> tuple[Groups, str]:
    """Return the samples whose membership can be audited and, where that is not enough, why."""
    if references is None:
        return groups, "no references"
    known = np.logical_and.reduce(np.isfinite(references.log_odds), axis=0)
    usable = Groups(*(each[known[each]] for each in (groups.forget, groups.retain, groups.test)))
    if len(references.membership) < FEWEST_REFERENCES:
        return usable, f"fewer than {FEWEST_REFERENCES} reference models"
    if not len(usable.forget):
        return usable, "no reference signals of the forget set"
    return usable, "" if len(usable.test) else "no never-trained controls"


def _plain(logits: NDArray[Any], labels: NDArray[np.int64], groups: Groups) -> Measurement:
    """What needs no references: accuracies and confidences."""
    right = logits.argmax(axis=1) == labels
    odds = rmia.log_odds(logits, labels)
    confidence = np.exp(-np.logaddexp(0, -odds))
    counts = [
        np.histogram(confidence[each], BINS, (0, 1))[0].tolist()
        for each in (groups.forget, groups.retain, groups.test)
    ]
    return Measurement(
        accuracy_forget=float(right[groups.forget].mean()),
        accuracy_retain=float(right[groups.retain].mean()) if len(groups.retain) else None,
        accuracy_test=float(right[groups.test].mean()) if len(groups.test) else None,
        confidence=Histogram(forget=counts[0], retain=counts[1], test=counts[2]),
    )


def _scores(
    logits: NDArray[Any],
    labels: NDArray[np.int64],
    usable: Groups,
    pool: Floats,
    membership: NDArray[np.bool_],
    params: RmiaParams,
) -> Scores:
    target = rmia.signals(logits, labels, params)

    def score(ratios: Floats) -> Floats:
        return rmia.scores(ratios, ratios[usable.test], params.gamma)

    return Scores(
        score(rmia.ratios(target, pool, membership)),
        np.stack([score(ratios) for ratios in rmia.leave_one_out_ratios(target, pool, membership)]),
    )


def _attacked(scores: Scores, usable: Groups) -> dict[str, object]:
    """The fields of a measurement that rest on RMIA scores."""
    forget, test = scores.full[usable.forget], scores.full[usable.test]
    fpr, tpr = roc.roc_curve(forget, test)
    return {
        "ft_auc": _auc(scores, usable.forget, usable.test),
        "fr_auc": _auc(scores, usable.retain, usable.forget) if len(usable.retain) else None,
        "rt_auc": _auc(scores, usable.retain, usable.test) if len(usable.retain) else None,
        "tpr": [_tpr(forget, test, rate) for rate in FALSE_POSITIVE_RATES if len(test) * rate >= 10],
        "worst_p_value": _worst_p_value(forget, test),
        "roc_ft": Curve(fpr=fpr.tolist(), tpr=tpr.tolist()),
    }


def _auc(scores: Scores, positives: Positions, negatives: Positions) -> Auc:
    """AUC with the standard error of samples and references together.

    Over samples DeLong's variance, but no less than that of exchangeable scores: with few samples, or an
    AUC near 0 or 1, DeLong's estimate vanishes and would make one sample a certainty.
    """
    value = roc.auc(scores.full[positives], scores.full[negatives])
    over_samples = max(
        roc.delong_variance(scores.full[positives], scores.full[negatives]),
        roc.exchangeable_variance(len(positives), len(negatives)),
    )
    error = float(np.sqrt(over_samples + reference_variance(scores.left_out, positives, negatives)))
    low, high = max(0.0, value - Z95 * error), min(1.0, value + Z95 * error)
    return Auc(
        value=value,
        standard_error=error,
        interval=Interval(low=low, high=high),
        positives=len(positives),
        negatives=len(negatives),
    )


def reference_variance(left_out: Floats, positives: Positions, negatives: Positions) -> float:
    """Return the jackknife variance of the AUC over K references, from scores (K, N) without each of them."""
    values = np.array([roc.auc(each[positives], each[negatives]) for each in left_out])
    return float((len(values) - 1) * values.var())


def _tpr(positives: Floats, negatives: Floats, rate: float) -> TprAtFpr:
    tpr, low, high = roc.tpr_at_fpr(positives, negatives, rate)
    interval = Interval(low=low, high=high)
    return TprAtFpr(fpr=rate, tpr=tpr, interval=interval, positives=len(positives), controls=len(negatives))


def _worst_p_value(forget: Floats, test: Floats) -> float:
    """The smallest empirical p-value of a forgotten sample among the controls, times their number."""
    as_high = len(test) - np.searchsorted(np.sort(test), forget.max(), "left")
    return float(min(1.0, (1 + as_high) / (1 + len(test)) * len(forget)))


def _balance(
    log_odds: NDArray[np.float32], membership: NDArray[np.bool_], labels: NDArray[np.int64], usable: Groups
) -> Balance:
    """Test whether the forget set is like the controls, in classes and in difficulty to unseeing models."""
    classes = int(labels.max()) + 1
    by_class = roc.chi_square_p(
        *(np.bincount(labels[each], minlength=classes) for each in (usable.forget, usable.test))
    )
    odds = np.where(membership, 0, log_odds.astype(np.float64)).sum(axis=0) / (~membership).sum(axis=0)
    by_difficulty = roc.mann_whitney_p(odds[usable.forget], odds[usable.test])
    return Balance(
        random_like=min(by_class, by_difficulty) >= SIGNIFICANCE,
        class_p_value=by_class,
        difficulty_p_value=by_difficulty,
    )


def _judge(
    candidate: Measurement,
    parent: Measurement | None,
    balance: Balance | None,
    problem: str,
    margin: float,
    utility_floor: float | None,
) -> Judgement:
    """Apply the verdict rule. Only a random-like forget set has 0.5 as its null; others have none here."""
    valid = balance is not None and balance.random_like
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
