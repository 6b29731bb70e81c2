"""The audit on synthetic worlds, where what each model remembers is planted, and on real digits."""

import numpy as np
import pytest
import torch
from scipy import stats

from app.catalog import LiraParams, MisParams, RmiaParams
from engine import evaluation, references
from engine.audits import aucs, measure, rmia, roc, scoring, verdict
from engine.training import NullProgress
from tests.engine.cases import RECIPE, digits, small_network, train_positions, trained

TRAIN, HOLDOUT, CLASSES, MODELS = 4000, 2500, 5, 8
N = TRAIN + HOLDOUT
PARAMS = RmiaParams(signal="softmax", temperature=1)
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, CLASSES, N)
EASE = RANDOM.normal(1, 1, N)


def answers(remembered, seed, bonus=2.0):
    """Logits of a model that knows `remembered` (N,) bool better by `bonus`."""
    noise = np.random.default_rng(seed).normal(0, 1, (N, CLASSES))
    noise[np.arange(N), LABELS] += EASE + bonus * remembered
    return noise


DESIGN = references.membership(MODELS, N, 1)
POOL = references.stack(
    [
        references.ReferenceSignal(
            (logits := answers(row, 100 + number)).astype(np.float16),
            rmia.log_odds(logits, LABELS).astype(np.float32),
            row,
        )
        for number, row in enumerate(DESIGN)
    ]
)
IN_TRAIN = np.arange(N) < TRAIN
HELD_OUT = np.flatnonzero(~IN_TRAIN)
FORGET = np.sort(np.random.default_rng(2).permutation(TRAIN)[:1500])


def without(forget):
    remembered = IN_TRAIN.copy()
    remembered[forget] = False
    return remembered


PARENT = answers(IN_TRAIN, 1)
RETRAINED = answers(without(FORGET), 2)


def audited(candidate, *, parent=PARENT, forget=FORGET, remain=None, holdout=HELD_OUT, pool=POOL, **options):
    remain = np.setdiff1d(np.arange(TRAIN), forget) if remain is None else remain
    return measure.audit(candidate, parent, LABELS, forget, remain, holdout, pool, PARAMS, **options)


def judged(*args, **options):
    return audited(*args, **options)[3]


def test_a_retrained_model_passes():
    candidate, parent, balance, judgement = audited(RETRAINED, utility_floor=0.5)
    assert judgement.verdict == "pass"
    assert judgement.null == pytest.approx(0.5, abs=0.02)
    assert judgement.null_models == MODELS
    assert judgement.parent_failed
    assert balance.random_like
    assert abs(candidate.ft_auc.value - 0.5) < 0.05
    assert candidate.rt_auc.value > 0.6
    assert candidate.fr_auc.value > 0.6
    assert parent.ft_auc.value > 0.6
    assert candidate.confidence.forget != parent.confidence.forget
    assert sum(candidate.confidence.forget) == len(FORGET)
    assert judgement.interval.low == pytest.approx(judgement.difference - 1.959964 * judgement.standard_error)


def test_the_parent_returned_unchanged_fails():
    judgement = judged(PARENT)
    assert judgement.verdict == "fail"
    assert judgement.reason.startswith("still remembered")


def test_forgetting_too_much_fails():
    forgotten = np.zeros(N, dtype=bool)
    forgotten[FORGET] = True
    judgement = judged(answers(without(FORGET), 3) + answers(forgotten, 3, bonus=-2) - answers(forgotten, 3, bonus=0))
    assert judgement.verdict == "fail"
    assert judgement.reason.startswith("over-forgotten")


def test_a_small_set_is_inconclusive_and_says_which_margin_it_could_have_passed():
    forget = FORGET[:60]
    judgement = judged(answers(without(forget), 4), forget=forget)
    assert judgement.verdict == "inconclusive"
    assert 0.1 < judgement.smallest_margin < 0.5
    assert f"{judgement.smallest_margin:.3f}" in judgement.reason


@pytest.mark.parametrize("forgotten", [1, 2])
def test_a_tiny_set_could_not_have_passed_and_its_interval_stays_possible(forgotten):
    forget = FORGET[:forgotten]
    judgement = judged(answers(without(forget), 4), forget=forget)
    assert judgement.verdict == "inconclusive"
    assert judgement.smallest_margin is None
    assert "could not have passed any margin" in judgement.reason
    assert -judgement.null <= judgement.interval.low <= judgement.interval.high <= 1 - judgement.null


def test_one_forgotten_sample_is_never_a_certainty():
    assert judged(PARENT, forget=FORGET[:1]).verdict == "inconclusive"


def whole_class():
    return np.flatnonzero(IN_TRAIN & (LABELS == 2))


def test_a_whole_class_is_judged_against_controls_of_that_class():
    forget = whole_class()
    candidate, _, balance, passed = audited(answers(without(forget), 5), forget=forget)
    assert (passed.verdict, passed.null_source) == ("pass", "same_classes")
    assert passed.null == pytest.approx(0.5, abs=0.03)
    assert passed.difference == pytest.approx(candidate.matched_ft_auc.value - passed.null)
    assert balance.class_p_value < 1e-6
    assert balance.difficulty_within_classes_p_value > 0.01
    assert candidate.matched_ft_auc.negatives == (LABELS[HELD_OUT] == 2).sum()
    assert judged(PARENT, forget=forget).verdict == "fail"


def test_without_controls_of_its_class_a_whole_class_has_no_valid_control():
    forget = whole_class()
    others = HELD_OUT[LABELS[HELD_OUT] != 2]
    candidate, _, balance, judgement = audited(answers(without(forget), 5), forget=forget, holdout=others)
    assert (judgement.verdict, judgement.null, judgement.difference) == ("inconclusive", None, None)
    assert judgement.null_source == "none"
    assert "no valid control" in judgement.reason
    assert candidate.matched_ft_auc is None
    assert balance.difficulty_within_classes_p_value is None


def test_the_matched_auc_compares_class_by_class():
    scored = scoring.Scores(np.random.default_rng(3).normal(size=N), np.zeros((1, N)))
    positives, negatives = FORGET[:200], HELD_OUT[:300]
    total = 0.0
    for x in positives:
        same = negatives[LABELS[negatives] == LABELS[x]]
        total += np.mean([scored.full[x] > scored.full[z] for z in same]) / len(positives)
    assert aucs.matched_auc(scored, LABELS, positives, negatives).value == pytest.approx(total)


def hardest():
    return np.argsort(EASE[:TRAIN])[: TRAIN // 10]


def retrains(forget, count):
    return [answers(without(forget), 50 + number) for number in range(count)]


def test_exact_retrains_give_a_shifted_set_its_null():
    forget = hardest()
    candidate, _, _, judgement = audited(
        answers(without(forget), 6), forget=forget, retrained_logits=retrains(forget, 5)
    )
    assert judgement.null_source == "retrained"
    assert judgement.null_models == 5
    assert judgement.null < 0.4
    assert judgement.difference == pytest.approx(candidate.ft_auc.value - judgement.null)
    assert judgement.verdict != "fail"
    values = [audited(each, forget=forget)[0].ft_auc.value for each in retrains(forget, 5)]
    assert judgement.null == pytest.approx(np.mean(values))
    spread = stats.t.ppf(0.975, 4) / 1.959964 * np.std(values, ddof=1) * np.sqrt(1 + 1 / 5)
    assert judgement.standard_error >= spread
    assert judgement.standard_error < np.hypot(candidate.ft_auc.standard_error, spread)
    assert judged(PARENT, forget=forget, retrained_logits=retrains(forget, 5)).verdict == "fail"


def tilted(strength, size=1500):
    """A draw that prefers easy samples (positive) or hard ones, a little."""
    odds = np.exp(strength * EASE[:TRAIN])
    return np.sort(np.random.default_rng(9).choice(TRAIN, size, replace=False, p=odds / odds.sum()))


@pytest.mark.parametrize("strength", [-0.25, 0.2])
def test_a_set_a_little_easier_or_harder_is_judged_with_what_that_may_have_done_to_the_null(strength):
    forget = tilted(strength)
    *_, balance, judgement = audited(answers(without(forget), 6), forget=forget)
    shift = balance.difficulty_shift
    assert not balance.random_like
    assert balance.difficulty_p_value < 0.01
    assert 0.024 < abs(shift) <= verdict.SMALL_SHIFT
    assert shift * strength > 0
    assert judgement.null_source == "exchangeable"
    assert judgement.null_bound == pytest.approx(max(abs(shift), abs(balance.left_out_shift)) / 2)
    assert (judgement.null - 0.5) * shift >= 0
    half = 1.959964 * judgement.standard_error + judgement.null_bound
    assert judgement.interval.high == pytest.approx(judgement.difference + half)
    assert judgement.verdict != "fail"
    assert judged(PARENT, forget=forget).verdict == "fail"
    nulls = [audited(each, forget=forget)[0].ft_auc.value - 0.5 for each in retrains(forget, 5)]
    low, high = sorted((0.0, shift))
    assert low - 0.01 <= np.mean(nulls) <= high + 0.01  # the standard error of an AUC here


def test_retrains_are_a_better_null_than_the_bound_of_a_small_shift():
    forget = tilted(0.2)
    judgement = judged(PARENT, forget=forget, retrained_logits=retrains(forget, 5))
    assert (judgement.null_source, judgement.null_bound) == ("retrained", None)
    assert judged(PARENT, forget=tilted(0.2), grouped=True).null_source == "none"


def test_a_set_far_easier_has_no_valid_control():
    *_, balance, judgement = audited(PARENT, forget=tilted(0.6))
    assert balance.difficulty_shift > verdict.SMALL_SHIFT
    assert (judgement.verdict, judgement.null_source) == ("inconclusive", "none")


def test_four_retrains_are_too_few_for_a_null():
    forget = hardest()
    judgement = judged(PARENT, forget=forget, retrained_logits=retrains(forget, 4))
    assert (judgement.verdict, judgement.null_source) == ("inconclusive", "none")


def test_samples_chosen_together_are_no_random_draw_whatever_the_tests_say():
    *_, balance, judgement = audited(RETRAINED, grouped=True)
    assert not balance.random_like
    assert judgement.null_source == "none"
    assert judged(RETRAINED, grouped=True, retrained_logits=retrains(FORGET, 6)).null_source == "retrained"
    assert judged(RETRAINED, forget=whole_class(), grouped=True).null_source == "none"


@pytest.mark.parametrize("params", [LiraParams(), LiraParams(mode="offline"), RmiaParams(mode="offline"), MisParams()])
def test_every_audit_fails_the_parent_and_not_the_retrained_model(params):
    remain = np.setdiff1d(np.arange(TRAIN), FORGET)
    verdicts = [
        measure.audit(candidate, PARENT, LABELS, FORGET, remain, HELD_OUT, POOL, params)
        for candidate in (PARENT, RETRAINED)
    ]
    assert verdicts[0][3].verdict == "fail"
    assert verdicts[1][3].verdict != "fail"
    assert set(verdicts[0][0].cross_checks) == {"rmia", "lira", "confidence"} - {
        {RmiaParams: "rmia", LiraParams: "lira", MisParams: "confidence"}[type(params)]
    }
    assert (verdicts[0][0].mis is not None) == isinstance(params, MisParams)


def test_convergence_ends_at_the_whole_pool():
    measured = audited(PARENT)[0]
    assert [point.models for point in measured.convergence] == [2, 4, 8]
    assert measured.convergence[-1].ft_auc == pytest.approx(measured.ft_auc.value)
    assert measured.convergence[-1].samples == len(FORGET)
    assert measured.convergence[0].samples < len(FORGET)
    assert measured.convergence[0].ft_auc < measured.convergence[-1].ft_auc


def test_the_hardest_samples_have_no_valid_control():
    forget = np.argsort(EASE[:TRAIN])[: TRAIN // 10]
    *_, balance, judgement = audited(answers(without(forget), 6), forget=forget)
    assert judgement.verdict == "inconclusive"
    assert balance.difficulty_p_value < 1e-6
    assert balance.class_p_value > 0.01


def test_samples_that_the_model_still_knows_show_the_signal_in_the_parents_place():
    known = np.setdiff1d(np.arange(TRAIN), FORGET)[:500]
    candidate, control, _, judgement = audited(RETRAINED, parent=None, known=known)
    assert judgement.verdict == "pass"
    assert judgement.reason.endswith("and the control failed the same test")
    assert candidate == audited(RETRAINED)[0]
    assert control.ft_auc.positives == 500
    assert control.ft_auc == audited(RETRAINED, forget=known, parent=None)[0].ft_auc
    assert judged(PARENT, parent=None, known=known).verdict == "fail"
    # Samples that it does not know, either: nothing shows that there is anything to see.
    blind = judged(RETRAINED, parent=None, forget=FORGET[:700], remain=known, known=FORGET[700:])
    assert blind.verdict == "inconclusive"
    assert "no signal: the control does not fail the same test" in blind.reason
    assert judged(RETRAINED, parent=None, known=known[:0]).parent_failed is None


def test_a_collapsed_model_does_not_pass():
    judgement = judged(np.random.default_rng(7).normal(0, 1e-3, (N, CLASSES)))
    assert judgement.verdict == "inconclusive"
    assert "lost its own membership signal" in judgement.reason


def test_a_model_under_the_utility_floor_does_not_pass():
    assert judged(RETRAINED, utility_floor=0.99).verdict == "inconclusive"
    assert "utility floor" in judged(RETRAINED, utility_floor=0.99).reason


def test_a_parent_that_passes_too_leaves_nothing_to_detect():
    judgement = judged(RETRAINED, parent=answers(without(FORGET), 8))
    assert judgement.verdict == "inconclusive"
    assert not judgement.parent_failed
    assert "no signal" in judgement.reason
    assert judged(RETRAINED, parent=None).parent_failed is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pool": None}, "no references"),
        ({"holdout": HELD_OUT[:0]}, "no never-trained controls"),
        ({"remain": FORGET[:0]}, "no retained samples"),
    ],
)
def test_what_is_missing_makes_it_inconclusive(options, reason):
    candidate, _, _, judgement = audited(RETRAINED, **options)
    assert judgement.verdict == "inconclusive"
    assert reason in judgement.reason
    assert 0 < candidate.accuracy_forget < 1


def test_erased_columns_are_left_out_and_counted_for_accuracies_only():
    erased = FORGET[::3]
    signals = [
        references.erase(references.ReferenceSignal(*each), erased)
        for each in zip(POOL.logits, POOL.log_odds, POOL.membership, strict=True)
    ]
    with_holes = audited(RETRAINED, pool=references.stack(signals))[0]
    smaller = audited(RETRAINED, forget=np.setdiff1d(FORGET, erased), remain=np.setdiff1d(np.arange(TRAIN), FORGET))[0]
    assert with_holes.ft_auc == smaller.ft_auc
    assert with_holes.rt_auc == smaller.rt_auc
    assert with_holes.accuracy_forget == audited(RETRAINED)[0].accuracy_forget
    assert judged(RETRAINED, pool=references.stack([references.erase(each, FORGET) for each in signals])).reason == (
        "no reference signals of the forget set"
    )


def test_tpr_is_reported_only_where_there_are_controls_enough():
    assert [part.fpr for part in audited(RETRAINED)[0].tpr] == [0.01]
    assert audited(RETRAINED, holdout=HELD_OUT[:999])[0].tpr == []


def test_the_worst_p_value_corrects_for_the_number_of_samples():
    controls = np.arange(99.0)
    assert measure._worst_p_value(np.array([200.0, 1.0]), controls) == pytest.approx(2 / 100)
    assert measure._worst_p_value(np.array([98.0]), controls) == pytest.approx(2 / 100)
    assert measure._worst_p_value(np.array([3.0] * 50), controls) == 1


def test_the_standard_error_is_delong_and_an_explicit_jackknife_over_smaller_pools():
    few, params = np.r_[FORGET[:40], HELD_OUT[:60]], RmiaParams(signal="softmax", gamma=1)
    labels, parent = LABELS[few], PARENT[few]
    part = references.ReferenceSignals(POOL.logits[:, few], POOL.log_odds[:, few], POOL.membership[:, few])
    target = rmia.signals(parent, labels, params)

    def scored(kept):
        signals = np.stack([rmia.signals(part.logits[number], labels, params) for number in kept])
        ratios = rmia.ratios(target, signals, part.membership[kept])
        return ratios[:40], ratios[40:]

    everyone = list(range(MODELS))
    values = [roc.auc(*scored([number for number in everyone if number != left_out])) for left_out in everyone]
    jackknife = (MODELS - 1) / MODELS * sum((value - np.mean(values)) ** 2 for value in values)
    over_samples = max(roc.delong_variance(*scored(everyone)), roc.exchangeable_variance(40, 60))
    sets = np.arange(40), np.arange(0), np.arange(40, 100)
    auc = measure.audit(parent, None, labels, *sets, part, params)[0].ft_auc
    assert auc.value == pytest.approx(roc.auc(*scored(everyone)))
    assert jackknife > 0
    assert auc.standard_error == pytest.approx(np.sqrt(over_samples + jackknife), rel=1e-6)


def digits_pool():
    _, samples = digits()
    design = references.membership(6, samples.n, 1)
    return references.stack(
        [
            references.train_reference(index, design, samples, RECIPE, small_network, 2, NullProgress())
            for index in range(6)
        ]
    )


def test_on_digits_an_untouched_model_always_fails_and_a_retrained_one_never_does():
    raw, samples = digits()
    pool, holdout = digits_pool(), np.flatnonzero(raw.holdout)
    for seed in range(5):
        train = np.random.default_rng(seed).permutation(train_positions())
        forget, remain = train[:300], train[300:]
        parent, retrained = (
            evaluation.logits(trained(torch.from_numpy(np.sort(positions)), 5 + seed), samples.images).numpy()
            for positions in (train, remain)
        )
        verdicts = [
            measure.audit(candidate, parent, raw.labels, forget, remain, holdout, pool, RmiaParams())[3].verdict
            for candidate in (parent, retrained)
        ]
        assert verdicts[0] == "fail"
        assert verdicts[1] != "fail"


def neighbours(count, seed):
    """A training sample of the digits and those nearest to it, by their pixels."""
    raw, _ = digits()
    train, pixels = train_positions(), raw.images.reshape(len(raw.images), -1).astype(np.float64)
    middle = np.random.default_rng(seed).choice(train)
    return np.sort(train[((pixels[train] - pixels[middle]) ** 2).sum(axis=1).argsort()[:count]])


def test_on_digits_near_neighbours_are_never_held_against_all_controls_and_an_exact_retrain_of_them_never_fails():
    """Against all controls a model retrained without them has an FT-AUC of 0.3 to 0.45."""
    raw, samples = digits()
    pool, holdout, everyone = digits_pool(), np.flatnonzero(raw.holdout), train_positions()
    for seed in range(5):
        forget = neighbours(200, seed)
        remain = np.setdiff1d(everyone, forget)
        candidate = evaluation.logits(trained(torch.from_numpy(remain), 5 + seed), samples.images).numpy()
        *_, balance, judgement = measure.audit(candidate, None, raw.labels, forget, remain, holdout, pool, RmiaParams())
        assert not balance.random_like
        assert judgement.null_source in ("same_classes", "none")
        assert judgement.verdict != "fail"


def test_half_a_pool_judges_each_sample_that_some_model_left_out():
    """Of four references half of the samples have one IN or one OUT model, and nothing to leave out: then the verdict
    holds for these references."""
    inside = DESIGN[:4].sum(axis=0)
    half = references.ReferenceSignals(POOL.logits[:4], POOL.log_odds[:4], DESIGN[:4])
    candidate, *_, judgement = audited(RETRAINED, pool=half)
    known = (inside < 4)[FORGET].sum()
    assert (inside == 2)[FORGET].sum() < known < len(FORGET)
    assert candidate.ft_auc.positives == known
    assert judgement.given_references
    assert judged(PARENT, pool=half).verdict == "fail"


def test_without_a_forget_set_the_models_own_signal_is_all():
    candidate, parent, balance, judgement = audited(PARENT, forget=FORGET[:0])
    assert candidate.rt_auc.value > 0.6
    assert (candidate.ft_auc, candidate.accuracy_forget, balance) == (None, None, None)
    assert parent.rt_auc is not None
    assert candidate.convergence[-1].rt_auc == pytest.approx(candidate.rt_auc.value)
    assert judgement.verdict == "inconclusive"
    assert judgement.reason.startswith("no forget set")


@pytest.mark.parametrize(("floor", "kept"), [(None, None), (0.0, True), (1.0, False)])
def test_a_judgement_says_whether_utility_was_kept_whatever_else_it_found(floor, kept):
    assert judged(PARENT, utility_floor=floor).utility_kept is kept


def pool_that_left_out(samples, models):
    """`models` references, each of which saw half of the rest and of FORGET all but `samples`."""
    design = references.membership(models, N, 5)
    design[:, FORGET] = ~np.isin(FORGET, samples)
    return references.stack(
        [
            references.ReferenceSignal(
                (logits := answers(seen, 300 + number)).astype(np.float16),
                rmia.log_odds(logits, LABELS).astype(np.float32),
                seen,
            )
            for number, seen in enumerate(design)
        ]
    )


@pytest.mark.parametrize("models", [2, 8])
def test_what_was_judged_in_part_does_not_pass_for_all(models):
    """References of the client's that left half of the forgotten samples out say nothing of the other half."""
    judgement = judged(RETRAINED, pool=pool_that_left_out(FORGET[::2], models))
    assert judgement.verdict == "inconclusive"
    assert f"of {len(FORGET)} forgotten samples {len(FORGET) // 2} can be judged" in judgement.reason
    assert judgement.smallest_margin is None
    assert judged(PARENT, pool=pool_that_left_out(FORGET[::2], models)).verdict == "fail"
    assert judged(RETRAINED, pool=pool_that_left_out(FORGET, models)).verdict == "pass"


@pytest.mark.parametrize("models", [1, 2, 3])
def test_an_attack_that_takes_more_references_goes_without_them_where_retrains_give_the_null(models):
    few = references.ReferenceSignals(POOL.logits[:models], POOL.log_odds[:models], DESIGN[:models])
    forget, remain = FORGET, np.setdiff1d(np.arange(TRAIN), FORGET)
    given = (RETRAINED, PARENT, LABELS, forget, remain, HELD_OUT, few, LiraParams())
    *_, none = measure.audit(*given)
    assert (none.verdict, none.null_source) == ("inconclusive", "none")
    *_, own = measure.audit(*given, retrained_logits=retrains(forget, 5))
    assert (own.verdict, own.null_source) == ("pass", "retrained")
