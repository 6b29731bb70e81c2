"""What could lead to a verdict where an audit did not pass: one or two actions, with their price.

Sample sizes come from the variance of the AUC of exchangeable scores (Mann and Whitney 1947), 3.24 of which standard
errors fit into a margin with 80 % power.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isfinite

SPAN80 = 3.24  # z(0.975) + z(0.90): both one-sided tests of an equivalence pass with 80 % power
ENOUGH_REFERENCES = 16
ENOUGH_RETRAINS = 5
FEWEST_PEOPLE = 5


@dataclass(frozen=True)
class Finding:
    """What an audit found, as far as advice needs it.

    null_source: `none` without a null. leaks: the parent failed the same test; None without one. fits: the interval
    lies inside the margin. training: the measured seconds of a training; None before one was measured. forgotten: the
    samples that were judged, of `asked`. uncovered: those are too few for a verdict on all. too_few: the attack takes
    more references of each sample than there are.
    """

    verdict: str
    margin: float
    forgotten: int
    controls: int
    references: int
    null_source: str
    by_person: bool = False
    people: float | None = None
    bound: float = 0.0
    leaks: bool | None = None
    fits: bool = False
    training: float | None = None
    exact: bool = False
    asked: int = 0
    uncovered: bool = False
    too_few: bool = False


def next_steps(found: Finding) -> list[str]:
    """At most two sentences, the likelier to help first; none after a pass and for an exact retrain."""
    if found.verdict == "pass" or found.exact or not found.forgotten:
        return []
    retraining = f"Retrain exactly, as the last step of the escalation does: {_price(found, 1)}."
    if found.verdict == "fail":
        return [retraining]
    if not found.references and found.null_source == "none":
        count = ENOUGH_REFERENCES
        return [
            f"Train 2 reference models, each on one half of the data: {_price(found, 1)}. Then audit again; the "
            f"verdict holds for these two. With {count} their error is measured as well: {_price(found, count / 2)}.",
            "Or send what your own reference models say (`PUT …/references`). `:audit-plan` compares the prices.",
        ]
    if not found.controls:
        return ["Keep a holdout: samples that no version is trained on. Without them nothing can be compared."]
    if found.too_few:
        return [
            "Audit with `rmia`, which takes fewer references.",
            f"Or train {ENOUGH_REFERENCES} references, each on one half of the data: "
            f"{_price(found, ENOUGH_REFERENCES / 2)}.",
        ]
    if found.uncovered:
        return [
            f"Train 2 reference models, each on one half of the data, so that each sample is left out by one: "
            f"{_price(found, 1)}. The present ones say nothing of {found.asked - found.forgotten:,} of "
            f"{found.asked:,} forgotten samples."
        ]
    if found.null_source == "none":
        return _without_null(found)
    if not found.fits:
        return _too_uncertain(found)
    if not found.leaks:
        return ["The model before the unlearning leaks too little for this test, so no audit of this set can pass."]
    return [retraining]


def _without_null(found: Finding) -> list[str]:
    steps = []
    if found.by_person and found.people is None:
        steps.append("Add never-trained people to the holdout: samples with a subject of whom nothing was trained on.")
    elif found.by_person and found.people is not None and found.people < FEWEST_PEOPLE:
        steps.append(
            f"Collect requests of at least {FEWEST_PEOPLE} people in one batch (`when` in the policy). For one "
            "person's samples alone, let canaries answer for the procedure."
        )
    price = _price(found, ENOUGH_RETRAINS)
    steps.append(
        f"Measure the null on {ENOUGH_RETRAINS} exact retrains before the samples are erased (`:train` with "
        f"`exclude_request` and `compare_only`): {price}."
    )
    return steps


def _too_uncertain(found: Finding) -> list[str]:
    need = samples_for(found.margin - found.bound, found.controls)
    if need is not None and need > found.forgotten:
        return [
            f"Unlearn more samples in one batch: the margin of {found.margin:g} takes about {need:,} forgotten samples "
            f"beside {found.controls:,} controls; here were {found.forgotten:,}."
        ]
    if need is None:
        return [
            f"Keep a larger holdout: {found.controls:,} controls are too few for a margin of {found.margin:g} with any "
            "number of forgotten samples."
        ]
    return [f"Train more reference models: 16 more are {_price(found, 8)}."]


def samples_for(margin: float, controls: int) -> int | None:
    """The forgotten samples that a margin takes with 80 % power beside that many controls; None: no number would do."""
    if margin <= 0 or not controls:
        return None
    variance = (margin / SPAN80) ** 2
    slack = 12 * controls * variance - 1
    return ceil((controls + 1) / slack) if slack > 0 else None


def _price(found: Finding, trainings: float) -> str:
    times = "one training" if trainings == 1 else f"{trainings:g} trainings"
    if found.training is None or not isfinite(found.training):
        return f"the time of {times}"
    return f"about {_time(trainings * found.training)} ({times})"


def _time(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1, round(seconds))} seconds"
