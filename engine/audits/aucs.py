"""AUCs with the standard error of samples and references together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.catalog import KnownMethodParams
from app.formats.audit_report import Auc, Difference, Interval
from engine.audits import Floats, Positions, known_method, roc
from engine.audits.groups import Groups, Part, strata
from engine.audits.nulls import NullModel, Paired, paired
from engine.audits.rule import Z95
from engine.audits.scoring import Scores


def auc_of(scored: Scores, positives: Positions, negatives: Positions) -> Auc:
    """AUC with the standard error of samples and references together."""
    return _weighted_auc(scored, [(1.0, positives, negatives)])


def matched_auc(scored: Scores, labels: NDArray[np.int64], positives: Positions, negatives: Positions) -> Auc | None:
    """The AUC within each class, weighted by the class's share of `positives`: 0.5 for sets alike class by class.

    None where a class of `positives` has no member among `negatives`.
    """
    parts = strata(labels, positives, negatives)
    return None if parts is None else _weighted_auc(scored, parts)


def known_method_auc(
    target: Floats, unlearned: Floats, never: Floats, groups: Groups, params: KnownMethodParams
) -> Auc | None:
    """FT-AUC of the attack that knows the method: log-odds (N,) of the candidate against those of shadows
    (`engine.audits.known_method` defines the arrays). None where no sample of a kind has its shadows."""
    full = known_method.scores(target, unlearned, never, params.spread)
    left_out = known_method.left_out(target, unlearned, never, params.spread)
    known = np.isfinite(full) & np.isfinite(left_out).all(axis=0)
    forget, test = groups.forget[known[groups.forget]], groups.test[known[groups.test]]
    return auc_of(Scores(full, left_out), forget, test) if len(forget) and len(test) else None


def known_method_apart(
    target: Floats, retrained: Floats, unlearned: Floats, never: Floats, groups: Groups, params: KnownMethodParams
) -> Paired:
    """The same AUC less that of an exact retrain with log-odds `retrained` (N,), on the same samples."""
    own, control = (known_method.scores(each, unlearned, never, params.spread) for each in (target, retrained))
    known = np.isfinite(own) & np.isfinite(control)
    part = 1.0, groups.forget[known[groups.forget]], groups.test[known[groups.test]]
    return paired(own, [NullModel(control, np.ones(len(own), dtype=bool))], [part])


def excess(apart: Paired) -> Difference:
    low, high = (apart.difference + side * Z95 * apart.standard_error for side in (-1, 1))
    return Difference(value=apart.difference, interval=Interval(low=low, high=high))


def _weighted_auc(scored: Scores, parts: Sequence[Part]) -> Auc:
    """Sum of weighted AUCs of disjoint parts.

    Over samples DeLong's variance, but no less than that of exchangeable scores: with few samples, or an
    AUC near 0 or 1, DeLong's estimate vanishes and would make one sample a certainty. Over references the
    jackknife.
    """

    value = _value(scored.full, parts)
    over_samples = sum(
        weight**2
        * max(
            roc.delong_variance(scored.full[p], scored.full[n]),
            roc.exchangeable_variance(len(p), len(n)),
        )
        for weight, p, n in parts
    )
    error = float(np.sqrt(over_samples + over_references(scored, parts)))
    return Auc(
        value=value,
        standard_error=error,
        interval=Interval(low=max(0.0, value - Z95 * error), high=min(1.0, value + Z95 * error)),
        positives=sum(len(p) for _, p, _ in parts),
        negatives=sum(len(n) for *_, n in parts),
    )


def _value(values: Floats, parts: Sequence[Part]) -> float:
    return sum(weight * roc.auc(values[p], values[n]) for weight, p, n in parts)


def over_references(scored: Scores, parts: Sequence[Part]) -> float:
    """Return the variance over references of the AUC of weighted disjoint parts."""
    return jackknife_variance([_value(each, parts) for each in scored.left_out])


def jackknife_variance(left_out: Sequence[float]) -> float:
    """Return the jackknife variance over K references of a figure, from its K values without each of them; none where
    none is left out."""
    return float((len(left_out) - 1) * np.var(left_out)) if len(left_out) else 0.0
