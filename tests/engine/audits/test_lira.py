import numpy as np
import pytest
from scipy import stats

from app.catalog import KnownMethodParams, LiraParams
from engine.audits import aucs, known_method, lira, roc
from engine.audits.groups import Groups


def pool(models=8, samples=9, seed=0):
    random = np.random.default_rng(seed)
    membership = random.random((models, samples)).argsort(0).argsort(0) < models // 2
    values = random.normal(3, 1, samples) + 1.5 * membership + random.normal(0, 0.7, (models, samples))
    return random.normal(3.5, 1, samples), values, membership


def slow_scores(target, values, membership, mode, spread):
    """Carlini et al. 2022, algorithm 1, sample by sample."""
    columns = [
        tuple([values[k, x] for k in range(len(values)) if membership[k, x] == side] for side in (True, False))
        for x in range(len(target))
    ]

    def deviation(x, side):
        if spread == "own":
            return np.std(columns[x][side], ddof=1)
        squares = sum(((np.array(c[side]) - np.mean(c[side])) ** 2).sum() for c in columns)
        return np.sqrt(squares / sum(len(c[side]) - 1 for c in columns))

    result = []
    for x, phi in enumerate(target):
        unseen = stats.norm(np.mean(columns[x][1]), deviation(x, 1))
        if mode == "offline":
            result.append(-np.log(unseen.sf(phi)))
        else:
            result.append(stats.norm(np.mean(columns[x][0]), deviation(x, 0)).logpdf(phi) - unseen.logpdf(phi))
    return np.array(result)


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("spread", ["own", "pooled", "auto"])
def test_scores_and_their_leave_one_out_equal_the_slow_definition(mode, spread):
    target, values, membership = pool()
    params = LiraParams(mode=mode, spread=spread)
    by = "own" if spread == "own" else "pooled"
    assert lira.scores(target, values, membership, params) == pytest.approx(
        slow_scores(target, values, membership, mode, by)
    )
    for left_out, got in enumerate(lira.leave_one_out_scores(target, values, membership, params)):
        kept = np.arange(len(values)) != left_out
        assert got == pytest.approx(slow_scores(target, values[kept], membership[kept], mode, by))


def test_auto_takes_each_samples_own_spread_once_there_are_models_enough():
    target, values, membership = pool(models=64)
    auto, own = (lira.scores(target, values, membership, LiraParams(spread=s)) for s in ("auto", "own"))
    assert np.array_equal(auto, own)


def test_the_tail_does_not_saturate():
    _, values, membership = pool()
    scores = [lira.scores(np.full(9, far), values, membership, LiraParams(mode="offline")) for far in (50.0, 60.0)]
    assert (scores[1] > scores[0]).all()
    assert np.isfinite(scores[1]).all()


def test_an_erased_column_is_nan_and_large_log_odds_keep_their_digits():
    target, values, membership = pool()
    whole = lira.scores(target, values, membership, LiraParams(spread="own"))
    shifted = lira.scores(target + 1e6, values + 1e6, membership, LiraParams(spread="own"))
    assert shifted == pytest.approx(whole, rel=1e-6)
    values[:, 4] = np.nan
    erased = lira.scores(target, values, membership, LiraParams(spread="own"))
    assert np.isnan(erased[4])
    assert np.delete(erased, 4) == pytest.approx(np.delete(whole, 4))


# -- the attack that knows the method --------------------------------------------------------------


def shadows(trace, samples=400, models=8, seed=0):
    """Log-odds by shadows that unlearned half of the samples, leaving `trace`, and never saw the others."""
    random = np.random.default_rng(seed)
    forgot = random.random((models, samples)).argsort(0) < models // 2
    ease = random.normal(0, 2, samples)
    values = ease + trace * forgot + random.normal(0, 0.5, (models, samples))
    return ease, np.where(forgot, values, np.nan), np.where(forgot, np.nan, values)


def test_its_scores_equal_the_slow_likelihood_ratio():
    ease, unlearned, never = shadows(1.0, samples=7)
    target = ease + 0.3
    for x, got in enumerate(known_method.scores(target, unlearned, never, "own")):
        kinds = [each[:, x][np.isfinite(each[:, x])] for each in (unlearned, never)]
        logs = [stats.norm(kind.mean(), kind.std(ddof=1)).logpdf(target[x]) for kind in kinds]
        assert got == pytest.approx(logs[0] - logs[1])
    without = known_method.left_out(target, unlearned, never, "own")
    kept = np.arange(8) != 3
    assert without[3] == pytest.approx(known_method.scores(target, unlearned[kept], never[kept], "own"))
    uneven = known_method.left_out(target, unlearned, never[:5], "pooled")
    assert uneven.shape == (13, 7)
    expected = known_method.scores(target, unlearned, np.delete(never[:5], 1, 0), "pooled")
    assert uneven[9] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("trace", "low", "high"), [(0.0, 0.45, 0.55), (1.0, 0.85, 1.0), (-1.0, 0.85, 1.0)])
def test_a_method_that_leaves_a_trace_is_told_from_never_seen_whichever_its_sign(trace, low, high):
    _, unlearned, never = shadows(trace)
    assert low <= known_method.separability(unlearned, never) <= high


def test_it_sees_an_over_forgotten_set_that_an_average_attack_takes_for_forgotten():
    ease, unlearned, never = shadows(-1.0)
    random = np.random.default_rng(5)
    forget, test = np.arange(200), np.arange(200, 400)
    target = ease + random.normal(0, 0.5, 400)
    target[forget] -= 1.0
    auc = aucs.known_method_auc(target, unlearned, never, Groups(forget, forget[:0], test), KnownMethodParams())
    assert auc.value > 0.85
    assert roc.auc(target[forget], target[test]) < 0.5
    clean = aucs.known_method_auc(
        ease + random.normal(0, 0.5, 400), unlearned, never, Groups(forget, forget[:0], test), KnownMethodParams()
    )
    assert clean.interval.low < 0.5 < clean.interval.high


def test_samples_without_shadows_are_left_out_and_none_is_said():
    ease, unlearned, never = shadows(1.0)
    groups = Groups(np.arange(200), np.arange(0), np.arange(200, 400))
    unlearned[:, :150] = np.nan
    assert aucs.known_method_auc(ease, unlearned, never, groups, KnownMethodParams()).positives == 50
    unlearned[:, :200] = np.nan
    assert aucs.known_method_auc(ease, unlearned, never, groups, KnownMethodParams()) is None
    with pytest.raises(ValueError, match="two models"):
        known_method.separability(np.full((2, 3), np.nan), np.zeros((2, 3)))
