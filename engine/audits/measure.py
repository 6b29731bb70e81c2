"""The audit: what a checkpoint still shows of the forget set, and the verdict (docs/methods.md, RMIA to Verdict)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.catalog import LiraParams, MisParams, Params, RmiaParams
from app.formats.audit_report import Balance, Curve, Histogram, Interval, Judgement, Measurement, TprAtFpr
from engine.audits import Floats, Positions, mis, roc
from engine.audits.aucs import auc_of, matched_auc
from engine.audits.groups import Groups, whole
from engine.audits.nulls import NullModel, indifferent
from engine.audits.persons import People
from engine.audits.rule import Estimate
from engine.audits.scoring import (
    PoolSignal,
    Scores,
    convergence,
    null_models,
    plain_scores,
    pool_of,
    readable,
    scores,
)
from engine.audits.verdict import (
    FEWEST_RETRAINS,
    Choice,
    balance,
    choose_null,
    comparison,
    estimate,
    judgement,
    with_left_out,
)
from engine.references import ReferenceSignals

FEWEST_REFERENCES = 4  # a jackknife leaves one out, and an IN and an OUT model must remain of each sample
FEWEST_OF_A_KIND = 2  # IN and OUT models of a sample, for the same reason
MOST_LOST = 0.1  # of the forgotten samples and of the controls: so many may be left out of a verdict
FEW_FOR_LIRA = (
    f"LiRA takes at least {FEWEST_REFERENCES} reference models, of each sample two that saw it and two that did not; "
    "the audit rmia takes fewer"
)
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
    assigned: bool = False,
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
        assigned: a fair coin of ours, which nobody could foresee, decided of each sample of `forget`, `known` and
            `holdout` whether it was trained on. After an exact forget they are exchangeable for any score, so a verdict
            takes no reference.

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
    alone = assigned or len(retrained_logits) >= FEWEST_RETRAINS
    lens = _lens(groups, references, eligible, params)
    if lens.problem and alone:
        lens = Lens(None, params, eligible)
    references = lens.references
    usable, scorable, problem = _usable(groups, lens, alone)
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
    if scorable:
        pool, checks = None, list[tuple[str, Params, PoolSignal]]()
        if references is not None:
            pool = replace(pool_of(references, labels, lens.params), fixed=lens.fixed or assigned)
        if references is not None and not lens.fixed:
            for name, other in CROSS_CHECKS.items():
                if type(other) is not type(params):
                    read = readable(references, other)
                    checks.append((name, read, pool_of(references, labels, read)))
        looked = [(logits, _usable(each, lens, True)[0]) for logits, each in looks]
        scored = [scores(logits, labels, each, pool, lens.params) for logits, each in looked]
        measurements = [
            measurement.model_copy(update=_attacked(logits, labels, each, own, pool, lens.params, checks))
            for measurement, own, (logits, each) in zip(measurements, scored, looked, strict=True)
        ]
        nobody = indifferent(len(labels))
        if not problem and references is not None:
            balanced = balance(references.log_odds, references.membership, labels, usable, grouped, people)
            if pool is not None and not pool.fixed:
                models = null_models(usable, pool, lens.params)
                balanced = with_left_out(balanced, models, comparison(balanced, labels, usable), people)
            else:
                models = [nobody]
            choice = choose_null(balanced, len(retrained_logits))
        elif not problem and len(retrained_logits) >= FEWEST_RETRAINS:
            choice = Choice("retrained")
        if not problem and assigned:
            choice, models = Choice("assigned"), [nobody]
        if choice is not None:
            unseeing = models or [nobody]
            if choice.source == "retrained":
                everyone = np.ones(len(labels), dtype=bool)
                values = (plain_scores(each, labels, usable, pool, lens.params) for each in retrained_logits)
                models = [NullModel(each, everyone) for each in values]
            by_classes = balanced is not None and choice.source == "same_classes"
            parts = comparison(balanced, labels, usable) if balanced is not None and by_classes else whole(usable)
            estimates = [estimate(each, models, parts, choice, people) for each in scored]
            if known is not None:  # a retrain has seen these: the references that left them out say what is unseen
                estimates[1] = estimate(scored[1], unseeing, whole(looked[1][1]), Choice("exchangeable", choice.bound))
    parent = measurements[1] if len(measurements) > 1 else None
    before = "parent" if known is None else "control"
    ruling = judgement(
        measurements[0],
        balanced,
        choice,
        estimates,
        models,
        problem,
        params.margin,
        utility_floor,
        before,
        candidates,
        fixed=references is None or lens.fixed or assigned,
        uncovered=_uncovered(groups, usable) if scorable else "",
    )
    return measurements[0], parent, balanced, ruling


@dataclass(frozen=True)
class Lens:
    """Through what membership is seen: references, or None; the parameters that they are read by; which samples (N,)
    they can judge. fixed: of too few to leave one out. problem: why they give no verdict."""

    references: ReferenceSignals | None
    params: RmiaParams | LiraParams | MisParams
    known: NDArray[np.bool_]
    fixed: bool = False
    problem: str = ""


def _lens(
    groups: Groups,
    references: ReferenceSignals | None,
    eligible: NDArray[np.bool_],
    params: RmiaParams | LiraParams | MisParams,
) -> Lens:
    """A jackknife leaves a reference out, and an IN and an OUT model must remain of each sample.

    Where that is not so, in two complementary halves or folds, or where the client's own references saw no holdout,
    RMIA's offline form needs one OUT model of a sample. Given these references a forgotten sample and a control are
    exchangeable under exact retraining, so DeLong's variance holds without a jackknife.
    """
    if references is None:
        return Lens(None, params, eligible)
    params = readable(references, params)
    models = len(references.membership)
    inside = references.membership.sum(axis=0)
    finite = np.isfinite(references.log_odds).all(axis=0) & eligible
    several = finite & (inside >= FEWEST_OF_A_KIND) & (models - inside >= FEWEST_OF_A_KIND)
    one = finite & (inside < models)
    sets = [each[one[each]] for each in (groups.forget, groups.test)]
    if models >= FEWEST_REFERENCES and all(several[each].mean() > 1 - MOST_LOST for each in sets if len(each)):
        return Lens(references, params, several)
    if isinstance(params, LiraParams):
        return Lens(references, params, several, problem=FEW_FOR_LIRA)
    if isinstance(params, RmiaParams):
        params = params.model_copy(update={"mode": "offline"})
    return Lens(_matched(references, *sets), params, one, fixed=True)


def _matched(references: ReferenceSignals, forget: Positions, test: Positions) -> ReferenceSignals:
    """Let controls that no reference saw be judged by as many of them as forgotten samples are.

    The mean of more OUT models has less noise, which would tell controls from forgotten samples by itself. Each such
    control takes the membership of a forgotten sample at random.
    """
    unseen = test[~references.membership[:, test].any(axis=0)]
    if not len(forget) or not len(unseen):
        return references
    taken = np.random.default_rng(0).choice(forget, len(unseen))
    membership = references.membership.copy()
    membership[:, unseen] = references.membership[:, taken]
    return replace(references, membership=membership)


def _usable(groups: Groups, lens: Lens, alone: bool) -> tuple[Groups, bool, str]:
    """Return the samples whose membership can be audited, whether any can, and where that gives no verdict, why.

    alone: whether a verdict is possible without references.
    """
    usable = Groups(*(each[lens.known[each]] for each in (groups.forget, groups.retain, groups.test)))
    if lens.references is None and not alone:
        return groups, False, "no references"
    if lens.problem:
        return usable, False, lens.problem
    if not len(usable.test):
        return usable, False, "no never-trained controls"
    if not len(groups.forget):
        return usable, True, NO_FORGET_SET
    return usable, True, "" if len(usable.forget) else "no reference signals of the forget set"


def _uncovered(groups: Groups, usable: Groups) -> str:
    """That too many forgotten samples are judged by nobody for a pass of them all; empty where it is not so."""
    asked, judged = len(groups.forget), len(usable.forget)
    return f"of {asked} forgotten samples {judged} can be judged" if lost(asked, judged) else ""


def lost(asked: int, judged: int) -> bool:
    """Whether so many samples are judged by nobody that the others do not speak for all."""
    return asked - judged > MOST_LOST * asked


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
    pool: PoolSignal | None,
    params: Params,
    checks: Sequence[tuple[str, Params, PoolSignal]],
) -> dict[str, object]:
    """The fields of a measurement that rest on membership scores."""
    found: dict[str, object] = {
        "rt_auc": auc_of(scored, usable.retain, usable.test) if len(usable.retain) else None,
        "convergence": [] if pool is None else convergence(logits, labels, usable, pool, params),
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
