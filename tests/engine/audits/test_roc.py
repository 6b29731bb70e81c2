import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from engine.audits import roc

few = st.lists(st.integers(0, 6).map(float), min_size=2, max_size=25).map(np.array)


def oracle_kernel(positives, negatives):
    return (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)


@given(few, few)
def test_auc_is_the_share_of_ordered_pairs(positives, negatives):
    assert roc.auc(positives, negatives) == pytest.approx(oracle_kernel(positives, negatives).mean())


@given(few, few)
def test_delong_equals_its_definition(positives, negatives):
    kernel = oracle_kernel(positives, negatives)
    expected = kernel.mean(1).var(ddof=1) / len(positives) + kernel.mean(0).var(ddof=1) / len(negatives)
    assert roc.delong_variance(positives, negatives) == pytest.approx(expected)


def test_delong_is_near_the_bootstrap():
    random = np.random.default_rng(0)
    positives, negatives = random.normal(0.7, 1, 200), random.normal(0, 1, 300)
    draws = [roc.auc(random.choice(positives, 200), random.choice(negatives, 300)) for _ in range(800)]
    assert roc.delong_variance(positives, negatives) == pytest.approx(np.var(draws), rel=0.2)


def test_the_exchangeable_variance_is_that_of_random_orders():
    random = np.random.default_rng(1)
    draws = [roc.auc(each[:6], each[6:]) for each in (random.random(20) for _ in range(4000))]
    assert roc.exchangeable_variance(6, 14) == pytest.approx(np.var(draws), rel=0.08)


def test_one_sample_has_no_spread_but_an_auc():
    one, many = np.array([2.0]), np.array([1.0, 2.0, 3.0, 4.0])
    assert roc.auc(one, many) == pytest.approx(1.5 / 4)
    assert np.isfinite(roc.delong_variance(one, many))


@given(few, few)
def test_the_curve_goes_from_corner_to_corner_over_the_auc(positives, negatives):
    fpr, tpr = roc.roc_curve(positives, negatives)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()
    assert np.trapezoid(tpr, fpr) == pytest.approx(roc.auc(positives, negatives))


def test_a_long_curve_is_thinned_evenly():
    random = np.random.default_rng(2)
    positives, negatives = random.normal(1, 1, 5000), random.normal(0, 1, 5000)
    fpr, tpr = roc.roc_curve(positives, negatives)
    assert 100 < len(fpr) <= 200
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(tpr, fpr) == pytest.approx(roc.auc(positives, negatives), abs=1e-3)
    assert max(np.diff(fpr) + np.diff(tpr)) < 0.02


@given(few, few, st.sampled_from([0.0, 0.1, 0.3, 0.5]))
def test_tpr_at_fpr_is_the_best_threshold_under_the_bound(positives, negatives, rate):
    thresholds = np.concatenate([negatives, positives])
    best = max((positives > t).mean() for t in thresholds if (negatives > t).mean() <= rate + 1e-12)
    tpr, low, high = roc.tpr_at_fpr(positives, negatives, rate)
    assert tpr == pytest.approx(best)
    exact = stats.binomtest(round(tpr * len(positives)), len(positives)).proportion_ci(method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-9)


@given(few, few)
def test_mann_whitney_equals_scipy(a, b):
    if len(set(a) | set(b)) == 1:
        assert roc.mann_whitney_p(a, b) == 1
        return
    expected = stats.mannwhitneyu(a, b, method="asymptotic", use_continuity=False).pvalue
    assert roc.mann_whitney_p(a, b) == pytest.approx(expected)


def test_chi_square_equals_scipy_and_ignores_classes_that_nobody_has():
    a, b = np.array([10, 0, 20, 5]), np.array([100, 0, 130, 90])
    expected = stats.chi2_contingency(np.stack([a, b])[:, [0, 2, 3]], correction=False).pvalue
    assert roc.chi_square_p(a, b) == pytest.approx(expected)
    assert roc.chi_square_p(np.array([5, 0]), np.array([9, 0])) == 1
