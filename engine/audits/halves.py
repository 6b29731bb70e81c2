"""Two halves of a pool of references: one chooses candidates, the other judges them (docs/methods.md, Reference
models)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.references import ReferenceSignals

FEWEST_TO_PART = 16  # of eight, a random half holds fewer than two IN or two OUT models of a sample in a hundred
TRIES = 64


def halves(membership: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Return which of the K models belong to the choosing half, (K,) bool; None where K is too small to divide.

    Of 64 random partitions from a fixed seed it is the one with the most even counts of IN and OUT models of each
    sample. It depends on the pool alone, never on a forget set or on a result.

    membership: (K, N).
    """
    count = len(membership)
    if count < FEWEST_TO_PART:
        return None
    draws = np.random.default_rng(0).random((TRIES, count))
    choosing = draws.argsort(axis=1) < count // 2
    inside = membership.astype(np.float32)
    uneven = [float(np.square(row @ inside - inside.sum(axis=0) / 2).sum()) for row in choosing.astype(np.float32)]
    best: NDArray[np.bool_] = choosing[int(np.argmin(uneven))]
    return best


def part(references: ReferenceSignals, chosen: NDArray[np.bool_]) -> ReferenceSignals:
    """The references at `chosen` (K,) bool."""
    return ReferenceSignals(
        logits=references.logits[chosen], log_odds=references.log_odds[chosen], membership=references.membership[chosen]
    )
