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

from engine.audits import Floats, roc
from engine.audits.groups import Part
from engine.audits.rule import Z95

NULL = 0.5


@dataclass(frozen=True)
class NullModel:
    """scores: (N,) by the audit's attack. unseen: (N,) bool, the samples that it never saw."""

    scores: Floats
    unseen: NDArray[np.bool_]


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


def paired(values: Floats, models: Sequence[NullModel], parts: Sequence[Part]) -> Paired:
    """Compare scores (N,) of a model with the mean of null models, over weighted disjoint parts.

    Each sample's null is the mean over the models that did not see it, against controls that they did not see either.
    A sample that no model can judge counts with 0.5.
    """
    difference = null = variance = null_variance = 0.0
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
        variance += weight**2 * _over_samples(apart)
        null_variance += weight**2 * _over_samples(nulls)
    spread = float(np.std(aucs, ddof=1)) if len(models) > 1 else float("nan")
    return Paired(difference, variance**0.5, null, null_variance**0.5, spread)


def _over_samples(components: Sequence[Floats]) -> float:
    return sum(float(each.var(ddof=1)) / len(each) for each in components if len(each) > 1)


def one_more_retrain(found: Paired, models: int) -> float:
    """The standard error of a candidate's difference from the mean of `models` retrains on the same samples.

    Under the null the candidate is one more draw of what they are draws of: their spread, with Student's factor for
    their small number. It is never less than what samples alone make of the difference.
    """
    student = float(special.stdtrit(models - 1, 0.975)) / Z95
    return max(float(student * found.null_spread * np.sqrt(1 + 1 / models)), found.standard_error)
