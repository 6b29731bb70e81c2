"""From logits to membership scores, by every audit of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from scipy import special

from app.catalog import LiraParams, MisParams, Params, RmiaParams
from app.formats.audit_report import ConvergencePoint
from engine.audits import Floats, lira, mis, rmia, roc
from engine.audits.groups import Groups
from engine.audits.nulls import NullModel
from engine.references import ReferenceSignals

Logits = NDArray[Any]
Labels = NDArray[np.int64]
ReadBy = TypeVar("ReadBy", bound=Params)


@dataclass(frozen=True)
class PoolSignal:
    """A pool of K references as one audit reads it: signal and membership, (K, N) each.

    fixed: there are too few to leave one out. Then all that is said holds for these references.
    """

    signal: Floats
    membership: NDArray[np.bool_]
    fixed: bool = False


@dataclass(frozen=True)
class Scores:
    """Scores of N samples: with all K references (N,), and without each of them in turn (K, N), or (0, N) where none is
    left out."""

    full: Floats
    left_out: Floats


def readable(references: ReferenceSignals | None, params: ReadBy) -> ReadBy:
    """`params` as far as the pool can be read: of one that has log-odds alone, the confidence itself."""
    if references is None or references.logits.shape[2] or not isinstance(params, RmiaParams):
        return params
    return cast(ReadBy, params.model_copy(update={"signal": "softmax", "temperature": 1.0}))


def pool_of(references: ReferenceSignals, labels: Labels, params: Params) -> PoolSignal:
    """What the audit of `params`, made `readable`, reads off the pool."""
    if isinstance(params, RmiaParams) and not references.logits.shape[2]:
        return PoolSignal(special.expit(references.log_odds.astype(np.float64)), references.membership)
    if isinstance(params, RmiaParams):
        signal = np.stack([rmia.signals(each, labels, params) for each in references.logits])
        return PoolSignal(signal, references.membership)
    if isinstance(params, MisParams) and params.signal != "confidence":
        return PoolSignal(
            np.stack([mis.signals(each, labels, params) for each in references.logits]), references.membership
        )
    return PoolSignal(references.log_odds.astype(np.float64), references.membership)


def _rmia(logits: Logits, labels: Labels, groups: Groups, pool: PoolSignal, params: RmiaParams) -> Iterator[Floats]:
    target, average = rmia.signals(logits, labels, params), rmia.normaliser(params)
    full = rmia.ratios(target, pool.signal, pool.membership, average)
    for ratios in chain([full], rmia.leave_one_out_ratios(target, pool.signal, pool.membership, average)):
        yield _scored(ratios, groups.test, params)


def _scored(ratios: Floats, controls: NDArray[np.int64], params: RmiaParams) -> Floats:
    """The ratio itself, which orders the samples as RMIA's score does, without its ties.

    The score is the share of controls z with r_x > gamma * r_z: a step function of r_x. Where many ratios are near 1
    and gamma is 2, most samples have the score 0, and the ties cost up to 0.1 of an AUC. A cubic Taylor signal may be
    negative, and then the score is no function of the ratio's order: it is taken as the public code does.
    """
    if params.signal == "taylor" and params.taylor_degree == 3:
        return rmia.scores(ratios, ratios[controls], params.gamma)
    return ratios


def _lira(logits: Logits, labels: Labels, groups: Groups, pool: PoolSignal, params: LiraParams) -> Iterator[Floats]:  # noqa: ARG001
    target = rmia.log_odds(logits, labels)
    yield lira.scores(target, pool.signal, pool.membership, params)
    yield from lira.leave_one_out_scores(target, pool.signal, pool.membership, params)


def _mis(logits: Logits, labels: Labels, groups: Groups, pool: PoolSignal, params: MisParams) -> Iterator[Floats]:  # noqa: ARG001
    """The signal itself: no reference enters, so leaving one out changes nothing."""
    values = mis.signals(logits, labels, params)
    yield values
    yield values


def null_models(groups: Groups, pool: PoolSignal, params: Params) -> Sequence[NullModel]:
    """Each reference as a null model of the samples that it left out, scored with the other references.

    For one that left out no control there is nothing to compare with; it is passed over.
    """
    if isinstance(params, RmiaParams):
        each = rmia.leave_one_out_ratios(pool.signal, pool.signal, pool.membership, rmia.normaliser(params))
    elif isinstance(params, LiraParams):
        each = lira.leave_one_out_scores(pool.signal, pool.signal, pool.membership, params)
    else:
        each = iter(pool.signal)
    found = []
    for values, member in zip(each, pool.membership, strict=True):
        controls = groups.test[~member[groups.test]]
        if len(controls):
            if isinstance(params, RmiaParams):
                values = _scored(values, controls, params)
            found.append(NullModel(values, ~member))
    return found


# The scores with all references, then those without each of them in turn.
SCORERS: Mapping[type[Params], Callable[[Logits, Labels, Groups, PoolSignal, Any], Iterator[Floats]]] = {
    RmiaParams: _rmia,
    LiraParams: _lira,
    MisParams: _mis,
}


def scores(logits: Logits, labels: Labels, groups: Groups, pool: PoolSignal | None, params: Params) -> Scores:
    """Score all N samples of a model with `logits` (N, classes) by the audit that `params` belong to.

    pool: None where there are no references. Then the scores are the model's own: of `mis` its signal, else the
    log-odds of the true class.
    """
    if pool is None or pool.fixed:
        return Scores(plain_scores(logits, labels, groups, pool, params), np.empty((0, len(labels))))
    each = SCORERS[type(params)](logits, labels, groups, pool, params)
    return Scores(next(each), np.stack(list(each)))


def plain_scores(logits: Logits, labels: Labels, groups: Groups, pool: PoolSignal | None, params: Params) -> Floats:
    """`scores` with all references alone."""
    if pool is None:
        return mis.signals(logits, labels, params) if isinstance(params, MisParams) else rmia.log_odds(logits, labels)
    return next(SCORERS[type(params)](logits, labels, groups, pool, params))


def convergence(
    logits: Logits,
    labels: Labels,
    groups: Groups,
    pool: PoolSignal,
    params: Params,
    seed: int = 0,
) -> list[ConvergencePoint]:
    """Return FT-AUC and RT-AUC with 2, 4, 8 ... and all K references: nested subsets in one random order.

    A subset leaves some samples without an IN or an OUT model; they are left out at that size and counted.
    """
    count = len(pool.membership)
    if pool.fixed:
        return [_point(logits, labels, groups, pool, np.arange(count), params)]
    order = np.random.default_rng(seed).permutation(count)
    sizes = [2**power for power in range(1, 32) if 2**power < count] + [count]
    return [_point(logits, labels, groups, pool, order[:size], params) for size in sizes]


def _point(
    logits: Logits, labels: Labels, groups: Groups, pool: PoolSignal, chosen: NDArray[np.int64], params: Params
) -> ConvergencePoint:
    part = PoolSignal(pool.signal[chosen], pool.membership[chosen], pool.fixed)
    inside = part.membership.sum(axis=0)
    known = np.isfinite(part.signal).all(axis=0) & ((inside > 0) | pool.fixed) & (inside < len(chosen))
    kept = Groups(*(each[known[each]] for each in (groups.forget, groups.retain, groups.test)))
    if not len(kept.test) or not (len(kept.forget) or len(kept.retain)):
        return ConvergencePoint(models=len(chosen), samples=len(kept.forget), ft_auc=None, rt_auc=None)
    values = plain_scores(logits, labels, kept, part, params)
    return ConvergencePoint(
        models=len(chosen),
        samples=len(kept.forget),
        ft_auc=roc.auc(values[kept.forget], values[kept.test]) if len(kept.forget) else None,
        rt_auc=roc.auc(values[kept.retain], values[kept.test]) if len(kept.retain) else None,
    )
