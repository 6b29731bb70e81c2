"""What a table says of one model: accuracies, membership AUCs, true-positive rates, MIS. All in percent."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.catalog import LiraParams, MisParams, RmiaParams
from engine.audits import mis, roc
from engine.audits.groups import Groups, strata
from engine.audits.scoring import PoolSignal, plain_scores, pool_of
from engine.references import ReferenceSignals

RMIA = RmiaParams()
SOFTMAX = RmiaParams(signal="softmax", temperature=1.0)
LIRA = LiraParams()
MIS = MisParams(most=2_000)
RATES = (0.01, 0.001)


class PoolReadings:
    """A pool of references, and what each attack reads off it, worked out once."""

    def __init__(self, signals: ReferenceSignals, labels: NDArray[np.int64]) -> None:
        self.signals = signals
        self.labels = labels

    @cached_property
    def taylor(self) -> PoolSignal:
        return pool_of(self.signals, self.labels, RMIA)

    @cached_property
    def softmax(self) -> PoolSignal:
        return pool_of(self.signals, self.labels, SOFTMAX)

    @cached_property
    def lira(self) -> PoolSignal:
        return pool_of(self.signals, self.labels, LIRA)


def measured(
    logits: NDArray[Any], labels: NDArray[np.int64], groups: Groups, pools: PoolReadings, holdout: NDArray[np.bool_]
) -> dict[str, Any]:
    """The figures of one model with `logits` (N, classes).

    ua, ra, ta: accuracy on the forgotten, retained and holdout samples. ft, fr, rt: AUC of RMIA, forgotten
    against holdout, retained against forgotten, retained against holdout; ft_error: DeLong's standard error.
    """
    right = logits.argmax(axis=1) == labels
    confidence = mis.confidence(logits, labels)
    figures: dict[str, Any] = {
        "ua": _percent(right[groups.forget]),
        "ra": _percent(right[groups.retain]),
        "ta": _percent(right[groups.test]),
        "ta_by_class": [_percent(right[holdout & (labels == label)]) for label in range(int(labels.max()) + 1)],
        "mis": None,
        "confidence": [_percent(confidence[each]) for each in (groups.forget, groups.retain, groups.test)],
    }
    unseen = mis.mis(confidence, groups.forget, groups.retain, groups.test, MIS)
    figures["mis"] = None if unseen is None else 100 * unseen
    scores = plain_scores(logits, labels, groups, pools.taylor, RMIA)
    forget, retain, test = scores[groups.forget], scores[groups.retain], scores[groups.test]
    figures |= {
        "ft": 100 * roc.auc(forget, test),
        "fr": 100 * roc.auc(retain, forget),
        "rt": 100 * roc.auc(retain, test),
        "ft_error": 100 * roc.delong_variance(forget, test) ** 0.5,
        "tpr": {
            f"{100 * rate:g}": 100 * roc.tpr_at_fpr(forget, test, rate)[0] for rate in RATES if len(test) * rate >= 10
        },
    }
    for name, params, pool in (("softmax", SOFTMAX, pools.softmax), ("lira", LIRA, pools.lira)):
        values = plain_scores(logits, labels, groups, pool, params)
        figures[f"ft_{name}"] = 100 * roc.auc(values[groups.forget], values[groups.test])
    parts = strata(labels, groups.forget, groups.test)
    if parts is not None:
        figures["ft_matched"] = 100 * sum(weight * roc.auc(scores[f], scores[t]) for weight, f, t in parts)
    return {name: _rounded(value) for name, value in figures.items()}


def _percent(values: NDArray[Any]) -> float | None:
    return 100 * float(values.mean()) if len(values) else None


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value
