"""ROC analysis of two sets of scores, with uncertainties."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from engine.audits import Floats

MOST_POINTS = 200


def midranks(values: Floats) -> Floats:
    """Return the ranks from 1 of `values`; equal ones share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[inverse]
    return ranks


def auc(positives: Floats, negatives: Floats) -> float:
    """Return P(positive > negative) + P(equal) / 2."""
    m, n = len(positives), len(negatives)
    ranks = midranks(np.concatenate([positives, negatives]))[:m]
    return float((ranks.sum() - m * (m + 1) / 2) / (m * n))


def components(positives: Floats, negatives: Floats) -> tuple[Floats, Floats]:
    """Return DeLong's structural components, O(n log n) (Sun and Xu 2014): for each positive the share of negatives
    below it (m,), for each negative the share of positives above it (n,). The mean of either is the AUC."""
    m, n = len(positives), len(negatives)
    ranks = midranks(np.concatenate([positives, negatives]))
    share_below: Floats = (ranks[:m] - midranks(positives)) / n
    share_above: Floats = 1 - (ranks[m:] - midranks(negatives)) / m
    return share_below, share_above


def delong_variance(positives: Floats, negatives: Floats) -> float:
    """Return DeLong's variance of the AUC over samples.

    A class of one sample has no measurable spread and adds nothing.
    """
    m, n = len(positives), len(negatives)
    share_below, share_above = components(positives, negatives)
    spread = share_below.var(ddof=1) / m if m > 1 else 0.0
    return float(spread + (share_above.var(ddof=1) / n if n > 1 else 0.0))


def exchangeable_variance(m: int, n: int) -> float:
    """Return the variance of the AUC of `m` against `n` scores drawn alike (Mann and Whitney 1947)."""
    return (m + n + 1) / (12 * m * n)


def roc_curve(positives: Floats, negatives: Floats) -> tuple[Floats, Floats]:
    """Return (fpr, tpr) from (0, 0) to (1, 1), at most 200 points, evenly along the curve."""
    values = np.concatenate([positives, negatives])
    order = np.argsort(-values)
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    hits = np.cumsum(order < len(positives))[ends]
    tpr = np.append(0.0, hits / len(positives))
    fpr = np.append(0.0, (ends + 1 - hits) / len(negatives))
    if len(fpr) > MOST_POINTS:
        marks = np.linspace(0, 2, MOST_POINTS)
        chosen = np.unique(np.searchsorted(fpr + tpr, marks).clip(0, len(fpr) - 1))
        fpr, tpr = fpr[chosen], tpr[chosen]
    return fpr, tpr


def tpr_at_fpr(positives: Floats, negatives: Floats, fpr: float) -> tuple[float, float, float]:
    """Return the largest TPR whose FPR is at most `fpr`, and its 95 % Clopper-Pearson interval.

    A score above the threshold counts as positive, one equal to it does not.
    """
    allowed = int(np.floor(fpr * len(negatives) + 1e-9))
    threshold = np.sort(negatives)[len(negatives) - 1 - allowed]
    hits, m = int((positives > threshold).sum()), len(positives)
    low = special.betaincinv(hits, m - hits + 1, 0.025) if hits else 0.0
    high = special.betaincinv(hits + 1, m - hits, 0.975) if hits < m else 1.0
    return hits / m, float(low), float(high)


def mann_whitney_p(a: Floats, b: Floats) -> float:
    """Return the two-sided p-value that `a` and `b` are alike: normal approximation, corrected for ties."""
    m, n = len(a), len(b)
    _, counts = np.unique(np.concatenate([a, b]), return_counts=True)
    ties = (counts.astype(np.float64) ** 3 - counts).sum() / ((m + n) * (m + n - 1))
    variance = (m + n + 1 - ties) / (12 * m * n)
    if variance <= 0:
        return 1.0
    return float(2 * special.ndtr(-abs(auc(a, b) - 0.5) / np.sqrt(variance)))


def chi_square_p(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Return the p-value that the class counts `a` and `b` (classes,) come from one distribution."""
    table = np.stack([a, b]).astype(np.float64)
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return 1.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    statistic = ((table - expected) ** 2 / expected).sum()
    return float(special.chdtrc(table.shape[1] - 1, statistic))
