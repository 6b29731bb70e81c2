"""RMIA, online and offline (Zarifzadeh et al. 2024; docs/methods.md, RMIA): signals, ratios, scores of arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.catalog import RmiaParams
from engine.audits import Floats

Normaliser = Callable[[Floats, Floats], Floats]
"""Mean signal of the IN models and of the OUT models, (N,) each, to the average s_ref (N,)."""


def signals(logits: NDArray[Any], labels: NDArray[np.int64], params: RmiaParams) -> Floats:
    """Return the confidence (N,) in the true class that `params` reads off `logits` (N, classes).

    `softmax`: softmax of logits / T. `taylor`: with c = logits / T and the Taylor polynomial P of exp,
    P(c_y - m) / (P(c_y - m) + sum of P(c_j), j != y). Degree 3 is negative under c = -1.6, so that signals
    may be negative; degree 4 is positive everywhere.
    """
    scaled = logits.astype(np.float64) / params.temperature
    rows = np.arange(len(labels))
    if params.signal == "softmax":
        terms = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    else:
        scaled[rows, labels] -= params.taylor_margin
        terms = np.polynomial.polynomial.polyval(
            scaled, [1 / math.factorial(power) for power in range(params.taylor_degree + 1)]
        )
    true: Floats = terms[rows, labels] / terms.sum(axis=1)
    return true


def log_odds(logits: NDArray[Any], labels: NDArray[np.int64]) -> Floats:
    """Return log p_y - log(1 - p_y), (N,), as z_y - logsumexp of the others: exact where p_y rounds to 1."""
    others = logits.astype(np.float64)
    rows = np.arange(len(labels))
    own = others[rows, labels]
    others[rows, labels] = -np.inf
    top = others.max(axis=1)
    odds: Floats = own - top - np.log(np.exp(others - top[:, None]).sum(axis=1))
    return odds


def online(inside: Floats, outside: Floats) -> Floats:
    """Half the mean over IN models plus half the mean over OUT models."""
    return (inside + outside) / 2


def offline(a: float) -> Normaliser:
    """The IN mean taken as a * OUT mean + 1 - a: s_ref = ((1 + a) * OUT mean + 1 - a) / 2."""
    return lambda _inside, outside: ((1 + a) * outside + 1 - a) / 2


def normaliser(params: RmiaParams) -> Normaliser:
    return {"online": online, "offline": offline(params.offline_a)}[params.mode]


def ratios(target: Floats, references: Floats, membership: NDArray[np.bool_], average: Normaliser = online) -> Floats:
    """Return r = s / s_ref, (N,).

    target: (N,). references, membership: (K, N). Erased samples, whose references are NaN, get NaN, and so do
    those that no model left out, or online that none saw.
    """
    sums = _sums(references, membership)
    return _ratios(target, *sums, membership.sum(axis=0), len(membership), average)


def leave_one_out_ratios(
    target: Floats, references: Floats, membership: NDArray[np.bool_], average: Normaliser = online
) -> Iterator[Floats]:
    """Yield `ratios` without model 0, without model 1, ..., with IN and OUT means of the others.

    target: (N,), or (K, N) with one for each model that is left out: `references` themselves, to see each of them
    through the others.
    """
    inside, outside = _sums(references, membership)
    count = membership.sum(axis=0)
    targets = np.broadcast_to(target, references.shape)
    for own, row, member in zip(targets, references, membership, strict=True):
        yield _ratios(
            own,
            inside - np.where(member, row, 0),
            outside - np.where(member, 0, row),
            count - member,
            len(membership) - 1,
            average,
        )


def _sums(references: Floats, membership: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    return np.where(membership, references, 0).sum(axis=0), np.where(membership, 0, references).sum(axis=0)


def _ratios(
    target: Floats,
    inside: Floats,
    outside: Floats,
    count: NDArray[np.int64],
    models: int,
    average: Normaliser,
) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        reference = average(inside / count, outside / (models - count))
        found: Floats = target / reference
    return np.where((target == 0) & (reference == 0), 1.0, found)  # nobody gives it any probability: it tells nothing


def scores(ratios: Floats, population: Floats, gamma: float) -> Floats:
    """Return for each x the share of z in the population with LRT(x, z) = r_x / r_z > gamma.

    Compared as r_x > gamma * r_z where r_z > 0, and r_x < gamma * r_z where r_z < 0 (a cubic Taylor signal
    may be negative); r_z = 0 counts where r_x > 0. O(N log N). An x that is itself in the population is
    compared with itself too: all samples then go through one step function, which leaves their order alone.
    """
    thresholds = np.sort(gamma * population)
    first, last = np.searchsorted(thresholds, 0.0, "left"), np.searchsorted(thresholds, 0.0, "right")
    order = np.argsort(ratios)
    queries = ratios[order]
    above = np.searchsorted(thresholds[last:], queries, "left")
    above += first - np.searchsorted(thresholds[:first], queries, "right")
    above += (last - first) * (queries > 0)
    result = np.empty(len(ratios))
    result[order] = above / len(population)
    return result
