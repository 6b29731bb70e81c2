"""What each kind of audit would cost, and which margin it could pass, before anything is trained.

Margins are those at which an exact retrain passes with 80 % power by its interval, from the variance of the AUC of
exchangeable scores (`app.rules.next_steps`). References add to that variance, so that they are the smallest possible. A
pass also takes a version that fails the same test before the unlearning: its own signal must be larger than the margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal

from app.rules.next_steps import FEWEST_PEOPLE, SPAN80

Kind = Literal["canaries", "own-references", "two-references", "folds", "pool", "retrained-null"]
LARGEST_MARGIN = 0.5
FOLDS, POOL, RETRAINS = 5, 16, 5
ONE_MORE_RETRAIN = 1.55  # Student's 2.78 / 1.96 of five, times sqrt(1 + 1/5)


@dataclass(frozen=True)
class Situation:
    """What is known beforehand.

    samples, people: of the forget set to come; people None: not requested by person. controls, control_people: of the
    holdout. canaries: trained on, and held out; assigned: by the service's coin. references: models of the pool that
    audits use. training: measured seconds of one; None before one was measured. signal: RT-AUC - 0.5 of the current
    version in its newest report; None where nothing was measured. held: the training data are here.
    """

    samples: int
    controls: int
    margin: float
    people: int | None = None
    control_people: int = 0
    canaries: tuple[int, int] = (0, 0)
    assigned: bool = False
    references: int = 0
    training: float | None = None
    signal: float | None = None
    held: bool = True


@dataclass(frozen=True)
class Offer:
    """One kind of audit.

    judges: a request, or the procedure. trainings: in trainings of the model; seconds: measured, None where no training
    was. smallest_margin: None where none below 0.5 could be passed. smallest_margin_alike: the same if all samples of
    a person say one thing. possible: at the margin asked for. lacks: what keeps it from a verdict there.
    """

    kind: Kind
    judges: Literal["request", "procedure"]
    trainings: float
    seconds: float | None
    smallest_margin: float | None
    smallest_margin_alike: float | None
    possible: bool
    lacks: list[str]
    limits: str


LIMITS: dict[Kind, str] = {
    "canaries": "Says how the procedure forgets on this model, and nothing of one request's samples. The attack has no "
    "reference models, so it is weaker.",
    "own-references": "Your own reference models, sent as log-odds or as checkpoints. Nothing is trained here; how "
    "they were trained is your word.",
    "two-references": "Two models, each on one half of the data. The verdict holds for this attack and these two. They "
    "have half of the data, so they are less like the audited model.",
    "folds": "Each sample is left out by one of five models, which have four fifths of the data. The verdict holds for "
    "this attack and these five.",
    "pool": "Each sample is in half of sixteen models. The error of the draw of references is measured too, and so is "
    "the null of sets that are memorised better or worse.",
    "retrained-null": "Exact retrains without the samples of one batch: the null of any set, also of one person or a "
    "whole class, for that batch alone.",
}
TRAININGS: dict[Kind, float] = {
    "canaries": 0,
    "own-references": 0,
    "two-references": 1,
    "folds": FOLDS - 1,
    "pool": POOL / 2,
    "retrained-null": RETRAINS,
}


def plan(here: Situation) -> list[Offer]:
    """Every kind of audit, the cheapest first."""
    return [_offer(kind, here) for kind in TRAININGS]


def _offer(kind: Kind, here: Situation) -> Offer:
    counts = here.canaries if kind == "canaries" else (here.samples, here.controls)
    wider = ONE_MORE_RETRAIN if kind == "retrained-null" else 1.0
    margin = least_margin(*counts, wider)
    alike = None
    if here.people is not None and kind not in ("canaries", "retrained-null"):
        alike = least_margin(here.people, here.control_people, wider)
    price = TRAININGS[kind]
    lacks = _lacks(kind, here, counts, margin)
    return Offer(
        kind=kind,
        judges="procedure" if kind == "canaries" else "request",
        trainings=price,
        seconds=None if here.training is None and price else price * (here.training or 0.0),
        smallest_margin=margin,
        smallest_margin_alike=alike,
        possible=not lacks,
        lacks=lacks,
        limits=LIMITS[kind],
    )


def _lacks(kind: Kind, here: Situation, counts: tuple[int, int], margin: float | None) -> list[str]:
    found = []
    if kind == "canaries":
        if not here.assigned and not here.references:
            found.append("a dataset with `assign_canaries`: whether a canary is trained on was not this service's coin")
        if not all(here.canaries):
            found.append("canaries in the training data and as many held out")
    elif not here.controls:
        found.append("a holdout: samples that no version is trained on")
    elif kind != "retrained-null" and here.people is not None:
        fewer = min(here.people, here.control_people)
        if fewer < FEWEST_PEOPLE:
            found.append(f"{FEWEST_PEOPLE} people on either side: there are {here.people} and {here.control_people}")
    if not here.held and kind not in ("canaries", "own-references"):
        found.append("the training data, which this service does not hold")
    counted = all(here.canaries) if kind == "canaries" else here.controls > 0
    if counted and (margin is None or margin > here.margin):
        could = "no margin" if margin is None else f"a margin of {margin:.3f} at the smallest"
        found.append(f"more samples: {counts[0]} beside {counts[1]} could pass {could}, not {here.margin:g}")
    if here.signal is not None and here.signal <= here.margin:
        found.append(
            f"a signal: the version itself shows {here.signal:.3f} of membership, and a margin of {here.margin:g} "
            "takes more"
        )
    return found


def least_margin(forgotten: int, controls: int, wider: float = 1.0) -> float | None:
    """The smallest margin that so many samples could pass with 80 % power; None where that is not below 0.5."""
    if not forgotten or not controls:
        return None
    found = SPAN80 * wider * sqrt((forgotten + controls + 1) / (12 * forgotten * controls))
    return round(found, 4) if found < LARGEST_MARGIN else None
