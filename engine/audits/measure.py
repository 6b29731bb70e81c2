"""The audit: what a checkpoint still shows of the forget set, and the verdict (docs/methods.md, RMIA to Verdict)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.catalog import LiraParams, MisParams, Params, RmiaParams
from app.formats.audit_report import Balance, Curve, Histogram, Interval, Judgement, Measurement, TprAtFpr
from engine.audits import Floats, Positions, mis, roc
from engine.audits.aucs import auc_of, matched_auc
from engine.audits.groups import Groups, whole
from engine.audits.nulls import NullModel
from engine.audits.persons import People
from engine.audits.rule import Estimate
from engine.audits.scoring import PoolSignal, Scores, convergence, null_models, plain_scores, pool_of, scores
from engine.audits.verdict import Choice, balance, choose_null, comparison, estimate, judgement, with_left_out
from engine.references import ReferenceSignals

FEWEST_REFERENCES = 4  # a jackknife leaves one out, and an IN and an OUT model must remain of each sample
FEWEST_OF_A_KIND = 2  # IN and OUT models of a sample, for the same reason
NO_FORGET_SET = "no forget set: the version's own membership signal and its accuracies alone"
FALSE_POSITIVE_RATES = (0.01, 0.001)
BINS = 20


CROSS_CHECKS: Mapping[str, Params] = {"rmia": RmiaParams(), "lira": LiraParams(), "confidence": MisParams()}


def audit(
    candidate_logits: NDArray[Any],
    parent_logits: NDArray[Any] | None,
    labels: NDArray[np.int64],
    forget: Positions,
    remain: Positions,
    holdout: Positions,
    references: ReferenceSignals | None,
    params: RmiaParams | LiraParams | MisParams,
    *,
    utility_floor: float | None = None,
    grouped: bool = False,
    retrained_logits: Sequence[NDArray[Any]] = (),
    known: Positions | None = None,
    candidates: int = 1,
    subjects: NDArray[np.int64] | None = None,
) -> tuple[Measurement, Measurement | None, Balance | None, Judgement]:
    """Measure candidate and parent and judge the candidate, by the audit that `params` belong to.

    All of the retained and all of the holdout samples are used; the holdout is also the population that
    RMIA compares with. Samples whose reference columns are erased (NaN) count for accuracies only. The
    candidate keeps its own signal when the whole 95 % interval of its RT-AUC lies above 0.5 plus the margin: then
    the audit still sees the membership of retained samples.

    Args:
        candidate_logits, parent_logits: (N, classes) over all samples of the pool, train and holdout.
        labels: (N,).
        forget, remain, holdout: positions into N; remain and holdout may be empty.
        references: the pool, or None where there is none.
        utility_floor: the lowest accuracy on the holdout that the policy accepts; None: any.
        grouped: the forget set was chosen together (one person's, one cluster's samples).
        retrained_logits: of exact retrains without this forget set, (N, classes) each; five or more give the
            null of a set that has no other.
        known: samples of the forget set's kind that the candidate still knows. The candidate must fail the same test on
            them, which shows that there is a signal; the parent's logits are then not used.
        candidates: of approximate methods that the policy may try on this forget set.
        subjects: (N,), the number of the person whom a sample belongs to, -1 where none is known. A grouped set is then
            compared with people of the holdout of whom nothing was trained on; without such people it has no control.

    Returns:
        The candidate's measurement, the parent's (None without its logits) or the one on `known`, the balance of the
        forget set (None without references) and the judgement.
    """
    groups = Groups(forget, remain, holdout)
    people, eligible = None, np.ones(len(labels), dtype=bool)
    if grouped and subjects is not None:
        people = People.of(subjects)
        controls = people.never_trained(subjects, np.concatenate([forget, remain]), holdout)
        if len(controls):
            eligible[np.setdiff1d(holdout, controls)] = False
        else:
            people = None
    usable, scorable, problem = _usable(groups, references, eligible)
    looks = [(candidate_logits, groups)]
    if known is not None:
        looks.append((candidate_logits, replace(groups, forget=known)))
    elif parent_logits is not None:
        looks.append((parent_logits, groups))
    measurements = [_plain(logits, labels, each, params) for logits, each in looks]
    balanced: Balance | None = None
    choice: Choice | None = None
    models: Sequence[NullModel] = ()
    estimates: list[Estimate | None] = []
    if references is not None and scorable:
        pool = pool_of(references, labels, params)
        checks = [
            (name, other, pool_of(references, labels, other))
            for name, other in CROSS_CHECKS.items()
            if type(other) is not type(params)
        ]
        looked = [(logits, _usable(each, references, eligible)[0]) for logits, each in looks]
        scored = [scores(logits, labels, each, pool, params) for logits, each in looked]
        measurements = [
            measurement.model_copy(update=_attacked(logits, labels, each, own, pool, params, checks))
            for measurement, own, (logits, each) in zip(measurements, scored, looked, strict=True)
        ]
        if not problem:
            balanced = balance(references.log_odds, references.membership, labels, usable, grouped, people)
            models = null_models(usable, pool, params)
            balanced = with_left_out(balanced, models, comparison(balanced, labels, usable), people)
            choice = choose_null(balanced, len(retrained_logits))
        if balanced is not None and choice is not None:
            left_out = models
            if choice.source == "retrained":
                everyone = np.ones(len(labels), dtype=bool)
                values = (plain_scores(each, labels, usable, pool, params) for each in retrained_logits)
                models = [NullModel(each, everyone) for each in values]
            parts = comparison(balanced, labels, usable) if choice.source == "same_classes" else whole(usable)
            estimates = [estimate(each, models, parts, choice, people) for each in scored]
            if known is not None:  # a retrain has seen these: the references that left them out say what is unseen
                estimates[1] = estimate(scored[1], left_out, whole(looked[1][1]), Choice("exchangeable", choice.bound))
    parent = measurements[1] if len(measurements) > 1 else None
    before = "parent" if known is None else "control"
    ruling = judgement(
        measurements[0], balanced, choice, estimates, models, problem, params.margin, utility_floor, before, candidates
    )
    return measurements[0], parent, balanced, ruling


def _usable(
    groups: Groups, references: ReferenceSignals | None, eligible: NDArray[np.bool_]
) -> tuple[Groups, bool, str]:
    """Return the samples whose membership can be audited, whether any can, and where that gives no verdict, why.

    A jackknife leaves a reference out, and an IN and an OUT model must remain of each sample: a part of a pool has
    samples for which that is not so.
    """
    if references is None:
        return groups, False, "no references"
    models = len(references.membership)
    inside = references.membership.sum(axis=0)
    enough = (inside >= FEWEST_OF_A_KIND) & (models - inside >= FEWEST_OF_A_KIND)
    known = np.logical_and.reduce(np.isfinite(references.log_odds), axis=0) & enough & eligible
    usable = Groups(*(each[known[each]] for each in (groups.forget, groups.retain, groups.test)))
    if models < FEWEST_REFERENCES:
        return usable, False, f"fewer than {FEWEST_REFERENCES} reference models"
    if not len(usable.test):
        return usable, False, "no never-trained controls"
    if not len(groups.forget):
        return usable, True, NO_FORGET_SET
    return usable, True, "" if len(usable.forget) else "no reference signals of the forget set"


def _plain(
    logits: NDArray[Any], labels: NDArray[np.int64], groups: Groups, params: RmiaParams | LiraParams | MisParams
) -> Measurement:
    """What needs no references: accuracies and confidences."""
    right = logits.argmax(axis=1) == labels
    confidence = mis.confidence(logits, labels)
    counts = [
        np.histogram(confidence[each], BINS, (0, 1))[0].tolist() for each in (groups.forget, groups.retain, groups.test)
    ]
    unseen = None
    if isinstance(params, MisParams):
        unseen = mis.mis(mis.signals(logits, labels, params), groups.forget, groups.retain, groups.test, params)
    return Measurement(
        accuracy_forget=float(right[groups.forget].mean()) if len(groups.forget) else None,
        accuracy_retain=float(right[groups.retain].mean()) if len(groups.retain) else None,
        accuracy_test=float(right[groups.test].mean()) if len(groups.test) else None,
        confidence=Histogram(forget=counts[0], retain=counts[1], test=counts[2]),
        mis=unseen,
    )


def _attacked(
    logits: NDArray[Any],
    labels: NDArray[np.int64],
    usable: Groups,
    scored: Scores,
    pool: PoolSignal,
    params: Params,
    checks: Sequence[tuple[str, Params, PoolSignal]],
) -> dict[str, object]:
    """The fields of a measurement that rest on membership scores."""
    found: dict[str, object] = {
        "rt_auc": auc_of(scored, usable.retain, usable.test) if len(usable.retain) else None,
        "convergence": convergence(logits, labels, usable, pool, params),
    }
    if not len(usable.forget):
        return found
    forget, test = scored.full[usable.forget], scored.full[usable.test]
    fpr, tpr = roc.roc_curve(forget, test)
    return found | {
        "ft_auc": auc_of(scored, usable.forget, usable.test),
        "fr_auc": auc_of(scored, usable.retain, usable.forget) if len(usable.retain) else None,
        "matched_ft_auc": matched_auc(scored, labels, usable.forget, usable.test),
        "tpr": [_tpr(forget, test, rate) for rate in FALSE_POSITIVE_RATES if len(test) * rate >= 10],
        "worst_p_value": _worst_p_value(forget, test),
        "least_worst_p_value": min(1.0, len(forget) / (1 + len(test))),
        "roc_ft": Curve(fpr=fpr.tolist(), tpr=tpr.tolist()),
        "cross_checks": {
            name: auc_of(scores(logits, labels, usable, other_pool, other), usable.forget, usable.test)
            for name, other, other_pool in checks
        },
    }


def _tpr(positives: Floats, negatives: Floats, rate: float) -> TprAtFpr:
    tpr, low, high = roc.tpr_at_fpr(positives, negatives, rate)
    interval = Interval(low=low, high=high)
    return TprAtFpr(fpr=rate, tpr=tpr, interval=interval, positives=len(positives), controls=len(negatives))


def _worst_p_value(forget: Floats, test: Floats) -> float:
    """The smallest empirical p-value of a forgotten sample among the controls, times their number."""
    as_high = len(test) - np.searchsorted(np.sort(test), forget.max(), "left")
    return float(min(1.0, (1 + as_high) / (1 + len(test)) * len(forget)))
