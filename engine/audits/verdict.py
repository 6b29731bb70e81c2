"""From measurements to a verdict: is there a valid null, and what does it say (docs/methods.md, Verdict)?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from app.formats.audit_report import Balance, Interval, Judgement, Measurement
from engine.audits import persons, roc
from engine.audits.aucs import over_references
from engine.audits.groups import Groups, Part, strata, whole
from engine.audits.nulls import NULL, NullModel, one_more_retrain, paired
from engine.audits.persons import People
from engine.audits.rule import Estimate, combine, fails, judge, leans, smallest_margin
from engine.audits.scoring import Scores

SIGNIFICANCE = 0.01
SMALL_SHIFT = 0.07
"""In difficulty, as an AUC less 0.5: a standardised difference of 0.25, up to which adjusting for a covariate is held
to be trustworthy (Rubin, Health Services and Outcomes Research Methodology 2, 2001, 169)."""
FEWEST_RETRAINS = 5


def balance(
    log_odds: NDArray[np.float32],
    membership: NDArray[np.bool_],
    labels: NDArray[np.int64],
    groups: Groups,
    grouped: bool = False,
    people: People | None = None,
) -> Balance:
    """Test whether the forget set is like the controls, in classes and in difficulty to unseeing models.

    `grouped` says that the samples were chosen together: such a set is no random draw, even if it passes both tests.
    people: whose the samples of such a set and of its controls are; then both tests permute people.
    """
    classes = int(labels.max()) + 1
    by_class = roc.chi_square_p(
        *(np.bincount(labels[each], minlength=classes) for each in (groups.forget, groups.test))
    )
    with np.errstate(invalid="ignore"):  # in a part of a pool some samples have no OUT model; no group has such samples
        odds = np.where(membership, 0, log_odds.astype(np.float64)).sum(axis=0) / (~membership).sum(axis=0)
    by_difficulty = roc.mann_whitney_p(odds[groups.forget], odds[groups.test])
    if people is not None:
        by_class, by_difficulty = people.class_p(labels, groups), people.difficulty_p(odds, groups)
    within, within_p = _within_classes(odds, labels, groups)
    return Balance(
        random_like=min(by_class, by_difficulty) >= SIGNIFICANCE and not grouped,
        class_p_value=by_class,
        difficulty_p_value=by_difficulty,
        difficulty_within_classes_p_value=within_p,
        difficulty_shift=roc.auc(odds[groups.forget], odds[groups.test]) - NULL,
        difficulty_shift_within_classes=within,
        grouped=grouped,
        persons=people.count(groups.forget) if people else None,
        remaining_persons=people.shared(groups.forget, groups.retain) if people else None,
        control_persons=people.count(groups.test) if people else None,
        effective_persons=min(people.effective(each) for each in (groups.forget, groups.test)) if people else None,
    )


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


@dataclass(frozen=True)
class Choice:
    """Which null is valid: measured on the references that left the samples out, or on exact retrains.

    bound: by how much the null of half-trained references may be off, where the set is a little unlike the controls.
    """

    source: Literal["exchangeable", "same_classes", "people", "retrained", "assigned"]
    bound: float = 0.0


def choose_null(balanced: Balance, retrains: int) -> Choice | None:
    """Choose the null; None where there is none.

    A set that is like the controls, or class by class, has the null that references give which left it out. 0.5 is only
    its expectation over sets: a forget set alike in class and difficulty, but unlike in how well it is memorised, has
    another one, because what is memorised enters the average that the attack divides by.

    Where it differs a little in difficulty, or in what those references say of it, they may differ from an exact
    retrain, which has more data: the null may be off by half of the shift. Where it differs more in difficulty, or was
    chosen together, only exact retrains give a null, at least five. They are preferred wherever there is a bound.

    At a level of 1 % a test rejects one random set in a hundred, and every large set for a negligible shift. So the
    size of a shift decides, not its significance alone.
    """
    by_person = not balanced.remaining_persons and (balanced.effective_persons or 0.0) >= persons.FEWEST
    enough = not balanced.grouped or by_person
    near = _near(balanced) if enough else None
    if retrains >= FEWEST_RETRAINS and not (near and not near.bound):
        return Choice("retrained")
    return near


def _near(balanced: Balance) -> Choice | None:
    """None where the sets differ more than a little, or a class of the forget set has no controls."""
    source: Literal["exchangeable", "same_classes", "people"] = "people" if balanced.grouped else "exchangeable"
    p_value, shift, bound = balanced.difficulty_p_value, balanced.difficulty_shift, 0.0
    if by_class(balanced):
        source = "same_classes"
        p_value, shift = balanced.difficulty_within_classes_p_value, balanced.difficulty_shift_within_classes
    if p_value is None or shift is None:
        return None
    if p_value < SIGNIFICANCE:
        if abs(shift) > SMALL_SHIFT:
            return None
        bound = abs(shift) / 2
    p_value, shift = balanced.left_out_p_value, balanced.left_out_shift
    if p_value is not None and shift is not None and p_value < SIGNIFICANCE:
        bound = max(bound, abs(shift) / 2)
    return Choice(source, bound)


def by_class(balanced: Balance) -> bool:
    """Whether the forget set differs in its classes, so that it is compared class by class."""
    return balanced.class_p_value is not None and balanced.class_p_value < SIGNIFICANCE


def comparison(balanced: Balance, labels: NDArray[np.int64], groups: Groups) -> list[Part] | None:
    """The parts in which forget set and controls are compared; None where a class has no controls."""
    return strata(labels, groups.forget, groups.test) if by_class(balanced) else whole(groups)


def with_left_out(
    balanced: Balance, models: Sequence[NullModel], parts: Sequence[Part] | None, people: People | None = None
) -> Balance:
    """Add how the references see the set that left it out: unlike the controls, even where class and difficulty are
    alike? A model that has not seen a set, and ranks it above or below the controls, shows what a retrain would."""
    if parts is None or not models:
        return balanced
    found = paired(models[0].scores, models, parts, people)
    least = sum(weight**2 * roc.exchangeable_variance(len(p), len(n)) for weight, p, n in parts) / len(models)
    shift = found.null - NULL
    p_value = float(2 * special.ndtr(-abs(shift) / max(found.null_standard_error, least**0.5)))
    return balanced.model_copy(
        update={
            "left_out_shift": shift,
            "left_out_p_value": p_value,
            "random_like": balanced.random_like and p_value >= SIGNIFICANCE,
        }
    )


def estimate(
    scored: Scores,
    models: Sequence[NullModel],
    parts: Sequence[Part] | None,
    choice: Choice,
    people: People | None = None,
) -> Estimate | None:
    """d with its standard error, on the forget set and controls of `parts`.

    Against references: DeLong's paired variance over samples, but no less than that of exchangeable scores, plus the
    jackknife over references. Of people, the variance between them, with Student's factor for their number. Against
    retrains: the spread of one more retrain.
    """
    if parts is None or not models or not all(len(p) for _, p, _ in parts):
        return None
    found = paired(scored.full, models, parts, people)
    if choice.source == "retrained":
        return Estimate(found.difference, one_more_retrain(found, len(models)), found.null)
    floor = sum(weight**2 * roc.exchangeable_variance(len(p), len(n)) for weight, p, n in parts)
    error = combine(max(found.standard_error, floor**0.5), over_references(scored, parts) ** 0.5)
    if people is not None:
        everyone = (np.concatenate([part[side] for part in parts]) for side in (1, 2))
        forget, test = everyone
        error *= people.student(Groups(forget, forget[:0], test))
    return Estimate(found.difference, error, found.null, choice.bound)


def judgement(
    candidate: Measurement,
    balanced: Balance | None,
    choice: Choice | None,
    estimates: Sequence[Estimate | None],
    models: Sequence[NullModel],
    problem: str,
    margin: float,
    utility_floor: float | None,
    before: str = "parent",
    candidates: int = 1,
    fixed: bool = False,
    uncovered: str = "",
) -> Judgement:
    """Apply the verdict rule. A set without a valid null is inconclusive.

    estimates: of the candidate and, where there is one, of the parent or what stands in its place, called `before`.
    models: those that gave the null. fixed: no reference was left out, so the interval holds for these references.
    uncovered: see `judge`; then no margin could have been passed.
    """
    own, parent = (*estimates, None, None)[:2]
    own_models = choice is not None and choice.source == "retrained"
    signal = Estimate(candidate.rt_auc.value - NULL, candidate.rt_auc.standard_error) if candidate.rt_auc else None
    utility_kept = utility_floor is None or (candidate.accuracy_test or 0.0) >= utility_floor
    ruling = judge(
        own,
        margin,
        parent=parent,
        signal=signal,
        utility_kept=utility_kept,
        uncovered=uncovered,
        candidates=candidates,
        no_estimate=problem or _no_control(balanced),
        before=before,
    )
    return Judgement(
        verdict=ruling.verdict,
        reason=ruling.reason,
        margin=margin,
        null=own.null if own else None,
        null_source=choice.source if own and choice else "none",
        null_bound=own.bound if own and own.bound else None,
        null_models=len(models) if own and (not fixed or own_models) else None,
        given_references=fixed and own is not None,
        difference=own.difference if own else None,
        standard_error=own.standard_error if own else None,
        interval=Interval(low=own.low, high=own.high) if own else None,
        smallest_margin=smallest_margin(own, parent, signal, candidates) if own and not uncovered else None,
        parent_failed=fails(parent, margin) if parent else None,
        candidates=candidates,
        leans=leans(own, margin, candidates) if own else False,
        utility_floor=utility_floor,
        utility_kept=None if utility_floor is None else utility_kept,
    )


def _no_control(balanced: Balance | None) -> str:
    if balanced is None or not balanced.grouped:
        return "no valid control: the forget set is not like a random draw of the training set"
    if balanced.persons is None:
        return (
            "no valid control: requested by person, and the holdout has no people of whom nothing was trained on "
            "(samples with a subject)"
        )
    if balanced.remaining_persons:
        return (
            f"no valid control: of {balanced.remaining_persons} of {balanced.persons} forgotten people other samples "
            "stay in the training data, and of never-trained people none are there"
        )
    if (balanced.effective_persons or 0.0) < persons.FEWEST:
        return (
            f"no valid control: requested by person, and {balanced.persons} forgotten and {balanced.control_persons} "
            f"never-trained people count as {balanced.effective_persons:.1f} by their samples; a verdict takes "
            f"{persons.FEWEST:.0f} on either side"
        )
    return "no valid control: requested by person, and the people are not like those who were never trained on"
