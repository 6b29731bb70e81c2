import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.catalog import RmiaParams
from engine import references
from engine.audits import rmia, roc, scoring
from engine.audits.groups import Groups

LOGITS = np.array([[2.0, -1.0, 0.5], [-9.0, 3.0, 1.0], [40.0, 0.0, -3.0]])
LABELS = np.array([0, 2, 0])


def taylor(x, degree):
    return sum(x**power / math.factorial(power) for power in range(degree + 1))


@pytest.mark.parametrize("degree", [3, 4])
def test_the_taylor_signal_is_its_formula(degree):
    params = RmiaParams(taylor_degree=degree)
    for row, label in enumerate(LABELS):
        c = LOGITS[row] / 2.0
        own = taylor(c[label] - 0.6, degree)
        others = sum(taylor(c[j], degree) for j in range(3) if j != label)
        assert rmia.signals(LOGITS, LABELS, params)[row] == pytest.approx(own / (own + others))


def test_degree_three_can_be_negative_and_degree_four_cannot():
    logits = np.linspace(-30, 5, 200)[:, None] + np.array([0.0, 1.0])
    labels = np.zeros(200, dtype=np.int64)
    assert rmia.signals(logits, labels, RmiaParams(taylor_degree=3)).min() < 0
    assert rmia.signals(logits, labels, RmiaParams(taylor_degree=4)).min() > 0


def test_the_softmax_signal_survives_large_logits_and_halves():
    params = RmiaParams(signal="softmax", temperature=1)
    expected = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    assert rmia.signals(LOGITS, LABELS, params) == pytest.approx(expected[[0, 1, 2], LABELS])
    huge = np.array([[6e4, 0.0, 6e4]], dtype=np.float16)
    assert rmia.signals(huge, np.array([0]), params) == pytest.approx([0.5])


def test_log_odds_are_exact_where_the_probability_rounds_to_one():
    assert rmia.log_odds(np.array([[200.0, 0.0, 0.0]]), np.array([0]))[0] == pytest.approx(200 - math.log(2))
    p = np.exp(LOGITS[0]) / np.exp(LOGITS[0]).sum()
    assert rmia.log_odds(LOGITS[:1], LABELS[:1])[0] == pytest.approx(math.log(p[0] / (1 - p[0])))


def pool(models=6, samples=11, seed=0):
    random = np.random.default_rng(seed)
    membership = random.random((models, samples)).argsort(0).argsort(0) < models // 2
    return random.random(samples), random.random((models, samples)), membership


def slow_ratios(target, references, membership):
    result = []
    for x in range(len(target)):
        inside = [references[k, x] for k in range(len(references)) if membership[k, x]]
        outside = [references[k, x] for k in range(len(references)) if not membership[k, x]]
        result.append(target[x] / (0.5 * np.mean(inside) + 0.5 * np.mean(outside)))
    return np.array(result)


def test_ratios_and_their_leave_one_out_equal_the_slow_definition():
    target, references, membership = pool()
    assert rmia.ratios(target, references, membership) == pytest.approx(slow_ratios(target, references, membership))
    for left_out, got in enumerate(rmia.leave_one_out_ratios(target, references, membership)):
        kept = np.arange(6) != left_out
        assert got == pytest.approx(slow_ratios(target, references[kept], membership[kept]))


def test_an_erased_column_is_nan_and_touches_no_other():
    target, references, membership = pool()
    whole = rmia.ratios(target, references, membership)
    references[:, 4] = np.nan
    erased = rmia.ratios(target, references, membership)
    assert np.isnan(erased[4])
    assert np.array_equal(np.delete(erased, 4), np.delete(whole, 4))


def brute_force(ratios, population, gamma):
    """Pr over z of r_x / r_z > gamma, without dividing: the product changes sides with the sign of r_z."""
    counts = []
    for x in ratios:
        hits = 0
        for z in population:
            hits += x > gamma * z if z > 0 else x < gamma * z if z < 0 else x > 0
        counts.append(hits / len(population))
    return np.array(counts)


values = st.one_of(st.floats(-3, 3, allow_subnormal=False), st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]))


@given(
    arrays.arrays(np.float64, st.integers(1, 30), elements=values),
    arrays.arrays(np.float64, st.integers(1, 30), elements=values),
    st.sampled_from([0.5, 1.0, 1.7, 2.0]),
)
def test_scores_equal_brute_force_with_ties_zeros_and_negatives(ratios, population, gamma):
    assert np.array_equal(rmia.scores(ratios, population, gamma), brute_force(ratios, population, gamma))


def test_scores_equal_the_ratio_of_likelihood_ratios():
    random = np.random.default_rng(3)
    ratios = random.normal(0.8, 0.5, 400)
    by_division = (ratios[:, None] / ratios[None, :] > 2).mean(1)
    assert np.array_equal(rmia.scores(ratios, ratios, 2.0), by_division)


def test_gamma_only_adds_ties_to_an_auc():
    random = np.random.default_rng(4)
    members, others = random.normal(1.2, 0.4, 500) ** 2, random.normal(1, 0.4, 500) ** 2
    direct = roc.auc(members, others)
    scored = [rmia.scores(each, others, 2.0) for each in (members, others)]
    assert roc.auc(*scored) == pytest.approx(direct, abs=0.02)


def test_a_sample_that_nobody_gives_any_probability_tells_nothing():
    membership = np.array([[True, False, True], [False, True, False]])
    target, values = np.array([0.0, 0.5, 0.2]), np.array([[0.0, 0.5, np.nan], [0.0, 0.5, np.nan]])
    found = rmia.ratios(target, values, membership)
    assert found[:2].tolist() == [1.0, 1.0]
    assert np.isnan(found[2])


def test_gamma_adds_no_ties():
    """With the confidences of a fitted model most ratios lie between 1/2 and 2, so that few scores differ."""
    random = np.random.default_rng(0)
    labels, inside = np.zeros(900, dtype=np.int64), np.arange(900) < 450
    design = references.membership(8, 900, 1)

    def answers(knows):
        return np.stack([random.normal(4, 1, 900) + 2.0 * knows, np.zeros(900)], axis=1)

    signals = [references.ReferenceSignal(answers(row), answers(row)[:, 0], row) for row in design]
    params = RmiaParams(signal="softmax", temperature=1)
    groups = Groups(np.flatnonzero(inside), np.arange(0), np.flatnonzero(~inside))
    pool = scoring.pool_of(references.stack(signals), labels, params)
    values = scoring.plain_scores(answers(inside), labels, groups, pool, params)
    stepped = rmia.scores(values, values[~inside], 2.0)
    assert len(np.unique(stepped)) < 10
    assert len(np.unique(values)) > 800
    assert roc.auc(stepped[inside], stepped[~inside]) < roc.auc(values[inside], values[~inside]) - 0.03
