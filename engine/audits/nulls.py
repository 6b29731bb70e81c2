"""The null, measured: what models that never saw a sample say of it, beside what the candidate says of the same sample.

An exact retrain is a model that never saw the forget set. Each reference that left a sample out is one too, for that
sample, at no cost; retrains are such models for all samples at once. Candidate and null models score the same samples
with the same references, so the difference of their AUCs is paired: what makes a sample easy or hard for all of them
cancels (DeLong, DeLong and Clarke-Pearson, Biometrics 1988, for correlated AUCs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from engine.audits import Floats, Positions, roc
from engine.audits.groups import Part
from engine.audits.persons import People
from engine.audits.rule import Z95

NULL = 0.5


@dataclass(frozen=True)
class NullModel:
    """scores: (N,) by the audit's attack. unseen: (N,) bool, the samples that it never saw."""

    scores: Floats
    unseen: NDArray[np.bool_]


def indifferent(samples: int) -> NullModel:
    """A model that says the same of every sample: its AUC is 0.5 on any sets, without error.

    It is the null where forgotten samples and controls are exchangeable given all that scores them: an exact retrain
    then ranks neither above the other.
    """
    return NullModel(np.zeros(samples), np.ones(samples, dtype=bool))


@dataclass(frozen=True)
class Paired:
    """AUC less null over the same samples, each with its standard error over samples.

    null_spread: the standard deviation of the null models' AUCs; NaN for fewer than two.
    """

    difference: float
    standard_error: float
    null: float
    null_standard_error: float
    null_spread: float


def paired(values: Floats, models: Sequence[NullModel], parts: Sequence[Part], people: People | None = None) -> Paired:
    """Compare scores (N,) of a model with the mean of null models, over weighted disjoint parts.

    Each sample's null is the mean over the models that did not see it, against controls that they did not see either.
    A sample that no model can judge counts with 0.5. With `people` the standard errors are those of clustered samples.
    """
    difference = null = 0.0
    own_terms: list[tuple[Positions, Floats]] = []
    null_terms: list[tuple[Positions, Floats]] = []
    aucs = np.zeros(len(models))
    for weight, p, n in parts:
        own = roc.components(values[p], values[n])
        sums = [np.zeros(len(p)), np.zeros(len(n))]
        counts = [np.zeros(len(p)), np.zeros(len(n))]
        for number, model in enumerate(models):
            unseen = model.unseen[p], model.unseen[n]
            if not (unseen[0].any() and unseen[1].any()):
                aucs[number] += weight * NULL
                continue
            found = roc.components(model.scores[p[unseen[0]]], model.scores[n[unseen[1]]])
            aucs[number] += weight * float(found[0].mean())
            for total, count, kept, each in zip(sums, counts, unseen, found, strict=True):
                total[kept] += each
                count[kept] += 1
        nulls = [
            np.where(count > 0, total / np.maximum(count, 1), NULL) for total, count in zip(sums, counts, strict=True)
        ]
        apart = [mine - theirs for mine, theirs in zip(own, nulls, strict=True)]
        null += weight * float(nulls[0].mean())
        difference += weight * float(apart[0].mean())
        own_terms += _terms(weight, (p, n), apart)
        null_terms += _terms(weight, (p, n), nulls)
    spread = float(np.std(aucs, ddof=1)) if len(models) > 1 else float("nan")
    errors = [_variance(each, people) ** 0.5 for each in (own_terms, null_terms)]
    return Paired(difference, errors[0], null, errors[1], spread)


def _terms(
    weight: float, positions: Sequence[Positions], components: Sequence[Floats]
) -> list[tuple[Positions, Floats]]:
    """What each sample adds to the weighted AUC, centred."""
    return [
        (where, weight * (each - each.mean()) / len(each)) for where, each in zip(positions, components, strict=True)
    ]


def _variance(terms: Sequence[tuple[Positions, Floats]], people: People | None) -> float:
    if people is not None:
        return people.variance(terms)
    return sum(float((each**2).sum()) * len(each) / (len(each) - 1) for _, each in terms if len(each) > 1)


def one_more_retrain(found: Paired, models: int) -> float:
    """The standard error of a candidate's difference from the mean of `models` retrains on the same samples.

    Under the null the candidate is one more draw of what they are draws of: their spread, with Student's factor for
    their small number. It is never less than what samples alone make of the difference.
    """
    student = float(special.stdtrit(models - 1, 0.975)) / Z95
    return max(float(student * found.null_spread * np.sqrt(1 + 1 / models)), found.standard_error)
