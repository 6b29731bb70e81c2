"""The attack that knows the method, in the style of U-LiRA (Hayes et al. 2024, arXiv 2403.01218).

An average attack asks whether a sample looks seen. This one asks whether it looks seen and then unlearned by
this method, against never seen. Shadow models are trained on halves of the data and unlearn a part of it by the
method under test. They fill two arrays over the N samples of the pool:

    unlearned (K, N)  log-odds of the true class by shadow k, where the sample was in its forget set; else NaN
    never     (L, N)  log-odds by a model that never saw it, else NaN: an exact retrain, or a shadow that
                      unlearned other samples by the same method (then L = K and each row has both kinds)
"""

from __future__ import annotations

import numpy as np

from engine.audits import Floats, lira, roc


def scores(target: Floats, unlearned: Floats, never: Floats, spread: str = "auto") -> Floats:
    """Return log N(phi; unlearned) - log N(phi; never), (N,), for log-odds phi (N,) of the target model.

    Higher is likelier "seen and unlearned". Samples without a model of each kind get NaN.
    """
    seen, unseen = (_fitted(each, spread) for each in (unlearned, never))
    return lira.log_density(target, *seen) - lira.log_density(target, *unseen)


def _fitted(log_odds: Floats, spread: str) -> tuple[Floats, Floats]:
    known = np.isfinite(log_odds)
    return lira.Moments.of(np.where(known, log_odds, 0), known).gaussian(spread)


def left_out(target: Floats, unlearned: Floats, never: Floats, spread: str = "auto") -> Floats:
    """Return `scores` without each shadow in turn, (models, N), for a jackknife.

    Where `unlearned` and `never` are rows of the same shadows, a model leaves both; else each row by itself.
    """
    kept_u, kept_n = ~np.eye(len(unlearned), dtype=bool), ~np.eye(len(never), dtype=bool)
    if len(unlearned) == len(never):
        return np.stack([scores(target, unlearned[u], never[n], spread) for u, n in zip(kept_u, kept_n, strict=True)])
    without_unlearned = [scores(target, unlearned[u], never, spread) for u in kept_u]
    return np.stack(without_unlearned + [scores(target, unlearned, never[n], spread) for n in kept_n])


def separability(unlearned: Floats, never: Floats, spread: str = "auto") -> float:
    """Return the AUC with which the attack tells unlearned from never-seen shadows, each scored without itself.

    0.5: nobody who knows the method can tell. This judges the method, before there is a candidate.

    Raises:
        ValueError: no sample has two models of each kind.
    """
    positives = [scores(row, np.delete(unlearned, k, 0), never, spread) for k, row in enumerate(unlearned)]
    negatives = [scores(row, unlearned, np.delete(never, k, 0), spread) for k, row in enumerate(never)]
    kinds = [np.concatenate(each) for each in (positives, negatives)]
    kinds = [each[np.isfinite(each)] for each in kinds]
    if not all(len(each) for each in kinds):
        raise ValueError("no sample has two models of each kind")
    return roc.auc(*kinds)
