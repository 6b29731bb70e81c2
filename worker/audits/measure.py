"""The audit: what a checkpoint still shows of the forget set, and the verdict (DESIGN 8, methods.md 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.catalog import RmiaParams
from app.lifecycle import Z95
from app.reports import Auc, Balance, Curve, Histogram, Interval, Judgement, Measurement, TprAtFpr
from worker.audits import rmia, roc
from worker.audits.verdict import Groups, Positions, balance, judgement
from worker.references import ReferenceSignals

Floats = NDArray[np.float64]

FEWEST_REFERENCES = 4  # a jackknife leaves one out, and an IN and an OUT model must remain of each sample
FALSE_POSITIVE_RATES = (0.01, 0.001)
BINS = 20


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
    balanced = None
    if references is not None and not problem:
        pool = np.stack([rmia.signals(each, labels, params) for each in references.logits])
        scores = [_scores(each, labels, usable, pool, references.membership, params) for each in logits]
        measurements = [
            measurement.model_copy(update=_attacked(each, usable))
            for measurement, each in zip(measurements, scores, strict=True)
        ]
        balanced = balance(references.log_odds, references.membership, labels, usable)
    parent = measurements[1] if parent_logits is not None else None
    ruling = judgement(measurements[0], parent, balanced, problem, params.margin, utility_floor)
    return measurements[0], parent, balanced, ruling


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
