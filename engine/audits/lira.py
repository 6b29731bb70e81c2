"""LiRA, online and offline (Carlini et al. 2022; docs/methods.md, LiRA), on the log-odds that a pool keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from app.catalog import LiraParams
from engine.audits import Floats

FEWEST_FOR_OWN_SPREAD = 32
TINY = 1e-12


@dataclass(frozen=True)
class Moments:
    """Count, sum and sum of squares (N,) of some models' log-odds, less `centre`: updated, not recomputed."""

    count: NDArray[np.int64]
    total: Floats
    squares: Floats

    @classmethod
    def of(cls, values: Floats, chosen: NDArray[np.bool_]) -> Moments:
        kept = np.where(chosen, values, 0)
        return cls(chosen.sum(axis=0), kept.sum(axis=0), (kept**2).sum(axis=0))

    def without(self, row: Floats, chosen: NDArray[np.bool_]) -> Moments:
        kept = np.where(chosen, row, 0)
        return Moments(self.count - chosen, self.total - kept, self.squares - kept**2)

    def gaussian(self, spread: str) -> tuple[Floats, Floats]:
        """Mean and standard deviation (N,); `own`, `pooled`, or `auto`: own from 32 models in each column."""
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self.total / self.count
            deviations = np.maximum(self.squares - self.total * mean, 0)
            own = np.sqrt(deviations / np.where(self.count > 1, self.count - 1, np.nan))
        known = np.isfinite(deviations) & (self.count > 1)
        freedom = int((self.count[known] - 1).sum())
        pooled = np.full(len(own), np.sqrt(deviations[known].sum() / freedom) if freedom else np.nan)
        few = int(self.count[self.count > 0].min(initial=FEWEST_FOR_OWN_SPREAD)) < FEWEST_FOR_OWN_SPREAD
        deviation = {"own": own, "pooled": pooled, "auto": pooled if few else own}[spread]
        return mean, np.maximum(deviation, TINY)


def scores(target: Floats, references: NDArray[Any], membership: NDArray[np.bool_], params: LiraParams) -> Floats:
    """Return a score (N,) for each sample, higher for a likelier member.

    With phi = log p_y - log(1 - p_y) of the target model and Gaussians fitted to the references' phi:
    online log N(phi; IN) - log N(phi; OUT); offline -log Pr[Z > phi] with Z ~ OUT. Pooled standard
    deviations are those within samples, over all samples, weighted by degrees of freedom (the public code
    takes the spread of all samples' values together, which is that between samples as well).

    target: (N,). references, membership: (K, N). Samples without an OUT model (online: or an IN model) get
    NaN, and so do those with NaN references.
    """
    phi, values = _centred(target, references)
    return _score(phi, Moments.of(values, membership), Moments.of(values, ~membership), params)


def leave_one_out_scores(
    target: Floats, references: NDArray[Any], membership: NDArray[np.bool_], params: LiraParams
) -> Iterator[Floats]:
    """Yield `scores` without model 0, without model 1, ...; target: (N,), or (K, N) with one for each of them."""
    phi, values = _centred(target, references)
    inside, outside = Moments.of(values, membership), Moments.of(values, ~membership)
    for own, row, member in zip(np.broadcast_to(phi, values.shape), values, membership, strict=True):
        yield _score(own, inside.without(row, member), outside.without(row, ~member), params)


def log_density(x: Floats, mean: Floats, deviation: Floats) -> Floats:
    """Log density of a Gaussian, less -log sqrt(2 pi)."""
    result: Floats = -np.log(deviation) - 0.5 * ((x - mean) / deviation) ** 2
    return result


def _centred(target: Floats, references: NDArray[Any]) -> tuple[Floats, Floats]:
    """Both less each column's mean, so that sums of squares keep their digits."""
    exact = references.astype(np.float64)
    centre = exact.mean(axis=0)
    return target - centre, exact - centre


def _score(phi: Floats, inside: Moments, outside: Moments, params: LiraParams) -> Floats:
    unseen = outside.gaussian(params.spread)
    if params.mode == "offline":
        below: Floats = -special.log_ndtr(-(phi - unseen[0]) / unseen[1])
        return below
    return log_density(phi, *inside.gaussian(params.spread)) - log_density(phi, *unseen)
