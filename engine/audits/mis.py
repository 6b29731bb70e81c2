"""MIS, the older attack (docs/methods.md, MIS), and the confidences that other audits use too."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from app.catalog import MisParams
from engine.audits import Floats, Positions
from engine.audits.rmia import log_odds


def confidence(logits: NDArray[Any], labels: NDArray[np.int64]) -> Floats:
    """Return the softmax probability (N,) of the true class."""
    result: Floats = np.exp(-np.logaddexp(0, -log_odds(logits, labels)))
    return result


def modified_entropy(logits: NDArray[Any], labels: NDArray[np.int64]) -> Floats:
    """Return -(1 - p_y) log p_y - sum over j != y of p_j log(1 - p_j), (N,): low for a confident, right answer.

    Song and Mittal 2021. log(1 - p) by log1p, except for the largest p: there 1 - p is the sum of the others.
    """
    rows = np.arange(len(labels))
    exact = logits.astype(np.float64)
    log_p: Floats = exact - special.logsumexp(exact, axis=1, keepdims=True)
    p = np.exp(log_p)
    largest = p.argmax(axis=1)
    rest = p.copy()
    rest[rows, largest] = 0
    with np.errstate(divide="ignore"):
        log_rest = np.log1p(-p)
        log_rest[rows, largest] = np.log(rest.sum(axis=1))
    terms = p * log_rest
    terms[rows, labels] = (1 - p[rows, labels]) * log_p[rows, labels]
    total: Floats = -terms.sum(axis=1)
    return total


def signals(logits: NDArray[Any], labels: NDArray[np.int64], params: MisParams) -> Floats:
    """Return what `params` looks at, (N,), higher for a likelier member."""
    if params.signal == "confidence":
        return confidence(logits, labels)
    return -modified_entropy(logits, labels)


def mis(values: Floats, forget: Positions, remain: Positions, holdout: Positions, params: MisParams) -> float | None:
    """Return the share of the forget set that an RBF support-vector machine takes for unseen, a fraction.

    It learns from equally many retained (1) and holdout (0) samples, drawn at random, on one feature:
    `values` (N,), finite. The public code takes the first retained samples instead. None without any of
    one kind.
    """
    size = min(len(remain), len(holdout), params.most)
    if not size or not len(forget):
        return None
    from sklearn.svm import SVC

    random = np.random.default_rng(params.seed)
    seen, unseen = (random.choice(each, size, replace=False) for each in (remain, holdout))
    machine = SVC(C=params.c, kernel="rbf", gamma="auto")
    features = values[np.concatenate([seen, unseen])][:, None]
    machine.fit(features, np.repeat([1, 0], size))
    return float(1 - machine.predict(values[forget][:, None]).mean())
