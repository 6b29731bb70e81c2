"""Avg. Gap, the significance of differences between methods, and offline RMIA's average."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from app.catalog import RmiaParams
from engine.audits import comparison, rmia

RUNS = np.array([[5.0, 99.0, 92.0, 51.0], [3.0, 98.0, 93.0, 55.0]])
RETRAINED = np.array([[4.0, 100.0, 94.0, 50.0], [6.0, 100.0, 92.0, 50.0], [5.0, 100.0, 93.0, 50.0]])


def test_the_gap_is_the_mean_distance_to_the_mean_retrained_run():
    assert comparison.gap_per_run(RUNS, RETRAINED) == pytest.approx([(0 + 1 + 1 + 1) / 4, (2 + 2 + 0 + 5) / 4])
    assert comparison.gap_of_means(RUNS, RETRAINED) == pytest.approx((1 + 1.5 + 0.5 + 3) / 4)


def test_the_gap_of_means_is_never_above_the_mean_gap():
    random = np.random.default_rng(0)
    for _ in range(50):
        runs, retrained = random.normal(0, 1, (5, 4)), random.normal(0, 1, (3, 4))
        mean_gap = comparison.gap_per_run(runs, retrained).mean()
        assert comparison.gap_of_means(runs, retrained) <= mean_gap + 1e-12


def test_the_paired_p_value_counts_all_signs():
    random = np.random.default_rng(1)
    for size in (1, 3, 6, 8):
        a, b = random.normal(0.4, 1, size), random.normal(0, 1, size)
        d = a - b
        extreme = [abs(np.dot(s, d)) >= abs(d.sum()) - 1e-12 for s in product((-1, 1), repeat=size)]
        assert comparison.paired_p(a, b) == pytest.approx(np.mean(extreme))
        assert comparison.paired_p(a, b) >= comparison.least_p(size)
    assert comparison.paired_p(a, a) == 1
    assert comparison.paired_p(np.arange(5.0) + 1, np.zeros(5)) == comparison.least_p(5) == 2 / 32


def test_with_many_runs_signs_are_drawn():
    random = np.random.default_rng(2)
    a = random.normal(0.35, 1, 40)
    p = comparison.paired_p(a, np.zeros(40))
    assert p == pytest.approx(stats.ttest_1samp(a, 0).pvalue, abs=0.02)
    assert p == comparison.paired_p(a, np.zeros(40))


def test_holm_is_its_definition():
    p = np.array([0.03, 0.001, 0.04, 0.5])
    assert comparison.holm(p) == pytest.approx([0.09, 0.004, 0.09, 0.5])
    assert comparison.holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])


@pytest.mark.parametrize("a", [0.0, 0.3, 1.0])
def test_offline_ratios_use_the_models_that_did_not_see_the_sample(a):
    random = np.random.default_rng(3)
    target, values = random.random(9), random.random((6, 9))
    membership = random.random((6, 9)).argsort(0) < 3
    average = rmia.normaliser(RmiaParams(mode="offline", offline_a=a))

    def slow(kept):
        out = np.array([values[kept][~membership[kept][:, x], x].mean() for x in range(9)])
        return target / (0.5 * ((1 + a) * out + (1 - a)))

    assert rmia.ratios(target, values, membership, average) == pytest.approx(slow(np.arange(6)))
    for number, got in enumerate(rmia.leave_one_out_ratios(target, values, membership, average)):
        assert got == pytest.approx(slow(np.arange(6) != number))
