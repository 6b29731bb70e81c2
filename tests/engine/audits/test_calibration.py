"""What the audit says against what is true, in simulated worlds: rates over many exact retrains and planted fakes.

Sizes are small and bounds generous, so that these take seconds; `lethe calibrate` has the large ones.
"""

import numpy as np
import pytest

from app.catalog import RmiaParams
from engine.audits import measure
from experiments.worlds import World

PARAMS = RmiaParams()


def worlds(count, seed, *, gap, train=700, holdout=700, references=8):
    """`count` drawn worlds, each with its pool and the generator to go on with."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        world = World.draw(random, train, holdout, gap=gap)
        yield random, world, world.references(random, references)


def audited(world, pool, candidate, parent, forget, **options):
    """The judgement of log-odds (N,) of a candidate."""
    remain = np.setdiff1d(np.arange(world.train), forget)
    logits = world.logits(candidate), None if parent is None else world.logits(parent)
    return measure.audit(*logits, world.labels, forget, remain, world.holdout, pool, PARAMS, **options)


@pytest.mark.parametrize(("size", "gap", "stated"), [(50, 0.7, (0.0, 0.1)), (300, 0.9, (0.9, 1.0))])
def test_at_the_smallest_margin_all_conditions_of_a_pass_are_met(size, gap, stated):
    """With 50 samples and RT-AUC 0.675 the interval alone fits into 0.14, and 3 % of retrains passed there."""
    found = []
    for random, world, pool in worlds(24, 0, gap=gap):
        forget = np.sort(random.choice(world.train, size, replace=False))
        retrained, parent = (world.log_odds(random, world.without(each)) for each in (forget, forget[:0]))
        found.append(audited(world, pool, retrained, parent, forget))
    margins = [judgement.smallest_margin for *_, judgement in found]
    share = np.mean([margin is not None for margin in margins])
    assert stated[0] <= share <= stated[1]
    if share > 0.5:
        margin = np.mean([margin for margin in margins if margin is not None])
        assert np.mean([_passes(*each[:2], margin) for each in found]) > 0.6
    else:
        reasons = [judgement.reason for *_, judgement in found if judgement.smallest_margin is None]
        assert any("could not have passed any margin" in reason for reason in reasons)


def _passes(candidate, parent, margin):
    spans = candidate.ft_auc.interval, parent.ft_auc.interval, candidate.rt_auc.interval
    own, before, signal = ((span.low - 0.5, span.high - 0.5) for span in spans)
    return -margin <= own[0] and own[1] <= margin and before[0] > margin and signal[0] > margin
