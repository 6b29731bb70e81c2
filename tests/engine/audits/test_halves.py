"""The two halves of a pool: fixed, disjoint, as even as can be, and enough of each kind in both."""

from __future__ import annotations

import numpy as np
import pytest

from engine import references
from engine.audits.halves import FEWEST_TO_PART, halves, part
from engine.audits.measure import FEWEST_OF_A_KIND

SAMPLES = 600


@pytest.mark.parametrize("count", [16, 18, 32, 64])
def test_both_halves_have_models_of_both_kinds_for_nearly_all_samples(count: int) -> None:
    design = references.membership(count, SAMPLES, 3)
    choosing = halves(design)
    assert choosing is not None
    assert choosing.sum() == count // 2
    for half in (design[choosing], design[~choosing]):
        inside = half.sum(axis=0)
        known = (inside >= FEWEST_OF_A_KIND) & (len(half) - inside >= FEWEST_OF_A_KIND)
        assert known.mean() > 0.97


def test_a_small_pool_is_not_parted() -> None:
    assert halves(references.membership(FEWEST_TO_PART - 2, SAMPLES, 3)) is None


def test_the_parting_is_the_same_each_time_and_better_than_any_one_draw() -> None:
    design = references.membership(16, SAMPLES, 5)
    first, again = halves(design), halves(design.copy())
    assert first is not None
    assert again is not None
    assert (first == again).all()

    def uneven(choosing: np.ndarray) -> float:
        return float(((design[choosing].sum(axis=0) - 4.0) ** 2).sum())

    random = np.random.default_rng(9)
    draws = [random.permutation(16) < 8 for _ in range(20)]
    assert uneven(first) < np.mean([uneven(draw) for draw in draws])


def test_a_part_holds_the_chosen_references_alone() -> None:
    design = references.membership(16, 5, 1)
    logits = np.arange(16 * 5 * 2, dtype=np.float16).reshape(16, 5, 2)
    pool = references.ReferenceSignals(logits=logits, log_odds=logits[..., 0].astype(np.float32), membership=design)
    chosen = np.arange(16) % 2 == 0
    half = part(pool, chosen)
    assert (half.logits == logits[::2]).all()
    assert (half.membership == design[::2]).all()
    assert len(half.log_odds) == 8
