"""Methods against each other: Avg. Gap and its significance over runs (docs/methods.md, Avg. Gap)."""

from __future__ import annotations

import numpy as np

from engine.audits import Floats

MOST_EXACT = 16
DRAWS = 65_535


def gap_per_run(runs: Floats, retrained: Floats) -> Floats:
    """Return (|dUA| + |dRA| + |dTA| + |dM|) / 4 for each run, against the mean of the retrained runs.

    runs: (R, 4), retrained: (S, 4): UA, RA, TA and the membership figure (FT-AUC or MIS), in one unit.
    """
    gaps: Floats = np.abs(runs - retrained.mean(axis=0)).mean(axis=1)
    return gaps


def gap_of_means(runs: Floats, retrained: Floats) -> float:
    """Return the gap between mean figures: never above the mean of `gap_per_run`, since errors may cancel."""
    return float(np.abs(runs.mean(axis=0) - retrained.mean(axis=0)).mean())


def paired_p(a: Floats, b: Floats, seed: int = 0) -> float:
    """Return the two-sided p-value that `a` and `b` (R,), paired by run, differ by chance: sign permutation.

    Under the null the sign of each run's difference is a coin toss. All 2^R of them are tried up to R = 16,
    else 65,535 random ones and the observed. A t-test would need normal differences, which gaps (means of
    absolute values, from three to nine runs) are not; Wilcoxon's ranks throw their sizes away. Below six
    runs no difference can reach 0.05: see `least_p`.
    """
    differences = a - b
    differences = differences[differences != 0]
    size = len(differences)
    if not size:
        return 1.0
    if size <= MOST_EXACT:
        tosses = (np.arange(2**size)[:, None] >> np.arange(size) & 1).astype(np.float64)
    else:
        tosses = np.random.default_rng(seed).integers(0, 2, (DRAWS, size)).astype(np.float64)
    sums = np.abs((2 * tosses - 1) @ differences)
    extreme = int((sums >= abs(differences.sum()) * (1 - 1e-9)).sum())
    return extreme / len(sums) if size <= MOST_EXACT else (extreme + 1) / (DRAWS + 1)


def least_p(runs: int) -> float:
    """Return the smallest p-value that `paired_p` can give for that number of runs."""
    return 2.0 ** (1 - runs) if runs <= MOST_EXACT else 1 / (DRAWS + 1)


def holm(p_values: Floats) -> Floats:
    """Return `p_values` (n,) adjusted for their number (Holm 1979)."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return adjusted
