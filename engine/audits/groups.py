"""Which samples an audit compares with which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.audits import Positions

Part = tuple[float, Positions, Positions]
"""A weight with the positives and the negatives that are compared with each other."""


@dataclass(frozen=True)
class Groups:
    """Positions (into the pool's N samples) of the three groups that the audit compares."""

    forget: Positions
    retain: Positions
    test: Positions


def whole(groups: Groups) -> list[Part]:
    """Forget set against controls, all together."""
    return [(1.0, groups.forget, groups.test)]


def strata(labels: NDArray[np.int64], positives: Positions, negatives: Positions) -> list[Part] | None:
    """Cut both sets by class: the class's share of `positives`, and its members of each set.

    None where a class of `positives` has no member in `negatives`: then they cannot be compared.
    """
    parts = []
    for label in np.unique(labels[positives]):
        own = positives[labels[positives] == label], negatives[labels[negatives] == label]
        if not len(own[1]):
            return None
        parts.append((len(own[0]) / len(positives), *own))
    return parts
