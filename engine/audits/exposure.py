"""What probes compute of single samples: arrays in, arrays out. Nothing here leaves a report by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from engine.audits import Floats
from engine.audits.lira import TINY, Moments

EULER = 0.5772156649015329
GUMBEL_SCALE = np.sqrt(6) / np.pi  # of one standard deviation


# -- completeness (IAM, USENIX Security 2025) ------------------------------------------------------


def gumbel(values: Floats, mean: Floats, deviation: Floats | float) -> Floats:
    """Distribution function at `values` of a Gumbel distribution with that mean and standard deviation."""
    scale = np.maximum(deviation, TINY) * GUMBEL_SCALE
    location = mean - EULER * scale
    found: Floats = np.exp(-np.exp(-np.clip((values - location) / scale, -700, 700)))
    return found


def completeness(after: Floats, before: Floats, shadow: Floats, deviation: Floats | float, steps: int) -> Floats:
    """How completely each sample was forgotten, (N,) in [0, 1]: 1 - sum of a G(after; s_a) / sum of a.

    s_a = shadow + a (before - shadow) for a = 1/steps ... 1 leads from models that never saw the sample to the one
    that still knew it. G: a Gumbel distribution of mean s_a. Near 0: `after` lies above all of them. Near 1: it lies
    below. Where `before` is no higher than `shadow` there was nothing to forget, and the figure is that
    of noise: an exact retrain has the same, so compare with one.

    Args:
        after, before, shadow: (N,) log-odds of the true class; of shadows the mean.
        deviation: of one model's log-odds about that mean.
    """
    weights = np.arange(1, steps + 1) / steps
    total = np.zeros(len(after))
    for weight in weights:
        total += weight * gumbel(after, shadow + weight * (before - shadow), deviation)
    found: Floats = 1 - total / weights.sum()
    return found


# -- likelihood with few references (RULI; variances as BaVarIA has them) --------------------------


@dataclass(frozen=True)
class Student:
    """Predictive distributions (N,) of one more model's log-odds: Student's t."""

    freedom: Floats
    location: Floats
    scale: Floats

    def log_density(self, x: Floats) -> Floats:
        z = (x - self.location) / self.scale
        half = (self.freedom + 1) / 2
        constant = special.gammaln(half) - special.gammaln(self.freedom / 2) - np.log(self.freedom * np.pi) / 2
        found: Floats = constant - np.log(self.scale) - half * np.log1p(z**2 / self.freedom)
        return found


def predictive(values: Floats, chosen: NDArray[np.bool_], prior: float) -> Student:
    """Predict one more model from those that are `chosen`, (K, N) both: normal-inverse-gamma, flat in the mean.

    The variance of a sample shrinks to that within all samples together, which counts as much as `prior` models. With n
    models of a sample: prior + n - 1 degrees of freedom about their mean, the variance (prior * pooled + squares) by
    that number, times 1 + 1/n for the error of the mean. Samples without a model get NaN.

    Raises:
        ValueError: no sample has two models, so nothing says how much models differ.
    """
    moments = Moments.of(values, chosen)
    mean, pooled = moments.gaussian("pooled")
    if not np.isfinite(pooled).any():
        raise ValueError("no sample has two models of a kind")
    count = moments.count.astype(np.float64)
    squares = np.maximum(moments.squares - moments.total * np.where(count > 0, mean, 0), 0)
    freedom = prior + np.maximum(count, 1) - 1
    variance = (prior * pooled**2 + squares) / freedom
    with np.errstate(divide="ignore"):
        scale = np.sqrt(variance * (1 + 1 / count))
    return Student(freedom, mean, np.maximum(scale, TINY))


def log_ratio(target: Floats, references: Floats, membership: NDArray[np.bool_], prior: float) -> Floats:
    """log p(target; models that saw the sample) - log p(target; that did not), (N,)."""
    inside, outside = (predictive(references, chosen, prior) for chosen in (membership, ~membership))
    return inside.log_density(target) - outside.log_density(target)


def vulnerability(references: Floats, membership: NDArray[np.bool_]) -> Floats:
    """How far having seen a sample moves its log-odds, (N,), in standard deviations of one model. No target enters."""
    inside, outside = (Moments.of(references, chosen).gaussian("pooled") for chosen in (membership, ~membership))
    found: Floats = (inside[0] - outside[0]) / np.sqrt((inside[1] ** 2 + outside[1] ** 2) / 2)
    return found


# -- the nearest class (MIA-NN) --------------------------------------------------------------------


def without_class(logits: Floats, gone: NDArray[np.int64]) -> Floats:
    """Log-probabilities (n, classes) over the other classes: of row i without class `gone[i]`, which gets -inf."""
    left = logits.astype(np.float64)
    left[np.arange(len(left)), gone] = -np.inf
    top = left.max(axis=1, keepdims=True)
    found: Floats = left - top - np.log(np.exp(left - top).sum(axis=1, keepdims=True))
    return found


def nearest_classes(logits: Floats, labels: NDArray[np.int64]) -> dict[int, int]:
    """For each class of `labels` (n,) the other class that `logits` (n, classes) give most to, on average."""
    shares = np.exp(without_class(logits, labels))
    return {int(label): int(shares[labels == label].mean(axis=0).argmax()) for label in np.unique(labels)}


def neighbour_scores(logits: Floats, labels: NDArray[np.int64], nearest: dict[int, int]) -> Floats:
    """Log-odds (n,) of the nearest class among the other classes; whatever the true class is given does not matter."""
    rows, columns = np.arange(len(labels)), np.array([nearest[int(label)] for label in labels], dtype=np.int64)
    left = without_class(logits, labels)
    own = left[rows, columns]
    with np.errstate(divide="ignore"):
        found: Floats = own - np.log(np.maximum(-np.expm1(own), TINY))
    return found
