"""Probes with a retrain beside them: numerics against closed forms and SciPy, and what they say of known models."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn

from app.catalog import (
    CompletenessParams,
    MostVulnerableParams,
    NeighboursParams,
    ResidualParams,
    TwoVersionsParams,
)
from engine import seeding
from engine.audits import exposure, probes
from engine.audits.probes import ProbeCase
from engine.audits.residual import recognised
from engine.data.samples import Samples
from engine.errors import ProbeError
from engine.references import ReferenceSignals

RNG = np.random.default_rng(7)


# -- completeness ----------------------------------------------------------------------------------


def test_the_gumbel_distribution_has_the_mean_and_deviation_that_were_asked_for():
    mean, deviation = RNG.normal(size=20), RNG.uniform(0.1, 3, 20)
    values = mean + RNG.normal(size=20) * 3
    scale = deviation * np.sqrt(6) / np.pi
    oracle = stats.gumbel_r(loc=mean - np.euler_gamma * scale, scale=scale)
    assert oracle.mean() == pytest.approx(mean)
    assert oracle.std() == pytest.approx(deviation)
    assert exposure.gumbel(values, mean, deviation) == pytest.approx(oracle.cdf(values))


def test_completeness_is_one_below_all_models_and_zero_above_and_the_formula_between():
    before, shadow = np.full(3, 4.0), np.full(3, 1.0)
    after = np.array([100.0, -100.0, 2.5])
    found = exposure.completeness(after, before, shadow, 0.5, 3)
    assert found[:2] == pytest.approx([0, 1])
    weights = np.array([1, 2, 3]) / 3
    oracle = stats.gumbel_r(
        loc=1 + 3 * weights - np.euler_gamma * 0.5 * np.sqrt(6) / np.pi, scale=0.5 * np.sqrt(6) / np.pi
    )
    assert found[2] == pytest.approx(1 - (weights * oracle.cdf(2.5)).sum() / weights.sum())


def test_completeness_falls_with_what_is_still_known():
    after = np.linspace(0, 8, 30)
    found = exposure.completeness(after, np.full(30, 4.0), np.full(30, 1.0), 0.7, 10)
    assert (np.diff(found) < 0).all()


# -- likelihood with few references ----------------------------------------------------------------


def references(models=8, samples=200, gap=3.0, noise=1.0, seed=0):
    """Log-odds of models (K, N) that move by `gap` where a model saw the sample, and which saw which."""
    rng = np.random.default_rng(seed)
    membership = np.argsort(np.argsort(rng.random((models, samples)), axis=0), axis=0) < models // 2
    ease = rng.normal(0, 2, samples)
    return ease + gap * membership + rng.normal(0, noise, (models, samples)), membership, ease


def test_the_predictive_distribution_is_the_conjugate_one():
    values, membership, _ = references(models=6, samples=5)
    found = exposure.predictive(values, membership, prior=4.0)
    squares = [((values[membership[:, n], n] - values[membership[:, n], n].mean()) ** 2).sum() for n in range(5)]
    pooled = sum(squares) / (5 * 2)
    for n in range(5):
        mine = values[membership[:, n], n]
        # Normal-inverse-gamma: alpha = prior / 2, beta = prior * pooled / 2, no weight on the mean (Murphy 2007).
        alpha, beta = (4.0 + len(mine) - 1) / 2, (4.0 * pooled + squares[n]) / 2
        oracle = stats.t(2 * alpha, mine.mean(), np.sqrt(beta / alpha * (1 + 1 / len(mine))))
        x = np.full(5, 1.7)
        assert found.log_density(x)[n] == pytest.approx(oracle.logpdf(1.7))


def test_a_strong_prior_is_the_pooled_gaussian_and_none_is_the_samples_own():
    values, membership, _ = references(models=8, samples=3, noise=2.0)
    x = np.array([0.5, -1.0, 3.0])
    strong = exposure.predictive(values, membership, prior=1e6)
    none = exposure.predictive(values, membership, prior=1e-9)
    mine = [values[membership[:, n], n] for n in range(3)]
    pooled = np.sqrt(np.mean([each.var(ddof=1) for each in mine]))
    wider = np.sqrt(1 + 1 / 4)
    for n, each in enumerate(mine):
        gaussian = stats.norm(each.mean(), pooled * wider)
        own = stats.t(3, each.mean(), each.std(ddof=1) * wider)
        assert strong.log_density(x)[n] == pytest.approx(gaussian.logpdf(x[n]), abs=1e-3)
        assert none.log_density(x)[n] == pytest.approx(own.logpdf(x[n]), abs=1e-6)


def test_the_ratio_tells_seen_from_unseen_and_is_even_where_nothing_moves():
    values, membership, ease = references()
    seen = exposure.log_ratio(ease + 3.0, values, membership, 4.0)
    unseen = exposure.log_ratio(ease, values, membership, 4.0)
    assert seen.mean() > 1 > -1 > unseen.mean()
    values, membership, ease = references(gap=0.0)
    assert abs(exposure.log_ratio(ease, values, membership, 4.0).mean()) < 0.2


def test_one_model_of_each_kind_says_nothing_of_their_spread():
    with pytest.raises(ValueError, match="two models"):
        exposure.predictive(np.zeros((2, 3)), np.array([[True] * 3, [False] * 3]), 4.0)


def test_vulnerability_finds_the_samples_that_move():
    values, membership, _ = references(models=16, gap=0.0)
    values[:, :20] += 5 * membership[:, :20]
    found = exposure.vulnerability(values, membership)
    assert set(np.argsort(-found)[:20]) == set(range(20))
    assert found[:20].mean() == pytest.approx(5, abs=0.5)


# -- the nearest class -----------------------------------------------------------------------------


def test_what_the_class_itself_is_given_does_not_matter():
    logits, labels = RNG.normal(size=(40, 5)), RNG.integers(0, 5, 40)
    nearest = exposure.nearest_classes(logits, labels)
    hidden = logits.copy()
    hidden[np.arange(40), labels] -= RNG.uniform(0, 50, 40)
    assert exposure.nearest_classes(hidden, labels) == nearest
    scores = exposure.neighbour_scores(logits, labels, nearest)
    assert exposure.neighbour_scores(hidden, labels, nearest) == pytest.approx(scores)
    for row in range(40):
        others = np.delete(np.arange(5), labels[row])
        shares = special.softmax(logits[row, others])
        own = shares[list(others).index(nearest[int(labels[row])])]
        assert scores[row] == pytest.approx(np.log(own / (1 - own)))


# -- a small change --------------------------------------------------------------------------------


class Line(nn.Module):
    """Two classes on the two sides of a plane through the middle of grey pictures."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.register_buffer("normal", torch.ones(pixels) / pixels**0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        side = (images.flatten(1) - 0.5) @ self.normal
        return torch.stack([-side, side], dim=1)


def test_a_small_change_crosses_a_plane_as_often_as_geometry_says():
    values = np.array([120, 124, 127, 128, 131, 135])
    images = torch.from_numpy(np.repeat(values, 16).reshape(6, 1, 4, 4).astype(np.uint8))
    samples = Samples(images, torch.ones(6, dtype=torch.int64))
    params = ResidualParams(norm="l2", radius=0.08, draws=1000, batch_size=4)
    found = recognised(Line(16), samples, torch.arange(6), params, seeding.generator(0))
    distance = (values / 255 - 0.5) * 4  # sqrt(16)
    assert found.plain.tolist() == (distance > 0).tolist()
    for signed, share in zip(distance, found.share, strict=True):
        if abs(signed) >= 0.08:  # no change of that length reaches the plane
            assert share == (signed > 0)
            continue
        cap = 0.5 * special.betainc(7.5, 0.5, 1 - (signed / 0.08) ** 2)  # of the sphere in 16 dimensions
        expected = cap if signed < 0 else 1 - cap
        assert share == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 1000))


def test_every_model_sees_the_same_changes():
    samples = Samples(torch.full((3, 1, 4, 4), 127, dtype=torch.uint8), torch.ones(3, dtype=torch.int64))
    for norm in ("l2", "linf"):
        params = ResidualParams(norm=norm, radius=0.1, draws=5)
        one, two = (recognised(Line(16), samples, torch.arange(3), params, seeding.generator(3)) for _ in range(2))
        assert one.share.tolist() == two.share.tolist()


# -- the probes, on models whose answers are written down ------------------------------------------


class Table(nn.Module):
    """A model that answers picture n (its first two pixels hold n) with row n of a table."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("table", torch.from_numpy(logits.astype(np.float32)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = (images.flatten(1)[:, :2] * 255).round().long()
        return self.table[pixels[:, 0] * 256 + pixels[:, 1]]


FORGET, REMAIN, HOLDOUT = np.arange(100), np.arange(100, 300), np.arange(300, 600)
VALUES, MEMBERSHIP, EASE = references(models=8, samples=600)


def answers(seed: int, seen: np.ndarray) -> nn.Module:
    """Log-odds as of a model that saw `seen`, with noise of its own, in two classes."""
    rng = np.random.default_rng(seed)
    odds = EASE + 3.0 * np.isin(np.arange(600), seen) + rng.normal(size=600)
    return Table(np.stack([np.zeros(600), odds], axis=1))


def case(candidate: nn.Module, **changed) -> ProbeCase:
    images = np.zeros((600, 1, 1, 2), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(600) // 256, np.arange(600) % 256
    whole = ProbeCase(
        candidate=candidate,
        parent=answers(1, np.arange(300)),
        samples=Samples(torch.from_numpy(images), torch.ones(600, dtype=torch.int64)),
        forget=FORGET,
        holdout=HOLDOUT,
        retrained=lambda: answers(2, REMAIN),
        references=ReferenceSignals(np.empty((8, 600, 0), np.float16), VALUES.astype(np.float32), MEMBERSHIP),
        remain=REMAIN,
    )
    return replace(whole, **changed)


def figure(probe, params, of: ProbeCase):
    (found,) = probe(of, params)["candidate"]["probed"].values()
    return found


WITH_A_CONTROL = [
    (probes.complete, CompletenessParams()),
    (probes.most_vulnerable, MostVulnerableParams(share=0.5)),
    (probes.two_versions, TwoVersionsParams()),
]


@pytest.mark.parametrize(("probe", "params"), WITH_A_CONTROL)
def test_the_retrain_beside_it_is_the_null(probe, params):
    """A model that never saw the set is where the retrain is; the untouched one is not."""
    clean, untouched = (
        figure(probe, params, case(model)) for model in (answers(3, REMAIN), answers(1, np.arange(300)))
    )
    low, high = clean.excess.interval.low, clean.excess.interval.high
    assert low < 0 < high, clean
    assert untouched.value - untouched.control == pytest.approx(untouched.excess.value)
    assert abs(untouched.excess.value) > 0.2
    assert not untouched.excess.interval.low < 0 < untouched.excess.interval.high
    assert untouched.control == clean.control
    assert figure(probe, params, case(answers(3, REMAIN), retrained=None)).excess is None


def test_which_side_of_the_retrain_a_model_is_on_that_still_knows_the_set():
    untouched = case(answers(1, np.arange(300)))
    assert figure(probes.complete, CompletenessParams(), untouched).excess.value < 0, "less complete"
    found = figure(probes.most_vulnerable, MostVulnerableParams(), untouched)
    assert found.samples == 10
    assert found.value > 0.8 > 0.4 > found.control
    assert found.details["mean_log_ratio"] > found.details["mean_log_ratio_control"]
    assert figure(probes.two_versions, TwoVersionsParams(), untouched).value == 0.5, "nothing fell"


def test_both_versions_show_what_left_even_of_an_exact_retrain():
    found = figure(probes.two_versions, TwoVersionsParams(), case(answers(3, REMAIN)))
    assert found.value > 0.9
    assert found.control > 0.9


def test_probes_say_what_they_lack():
    lacking = [
        (probes.complete, CompletenessParams(), {"references": None}, "no reference models"),
        (probes.most_vulnerable, MostVulnerableParams(), {"references": None}, "no reference models"),
        (probes.complete, CompletenessParams(), {"parent": None}, "not here any more"),
        (probes.two_versions, TwoVersionsParams(), {"parent": None}, "not here any more"),
        (probes.two_versions, TwoVersionsParams(), {"forget": FORGET[:0]}, "no forget set"),
        (probes.residual_knowledge, ResidualParams(), {"forget": FORGET[:0]}, "no forget set"),
        (probes.neighbours, NeighboursParams(), {}, "not most of any class"),
    ]
    for probe, params, without, words in lacking:
        with pytest.raises(ProbeError, match=words):
            probe(case(answers(3, REMAIN), **without), params)
    halves = ReferenceSignals(np.empty((2, 600, 0), np.float16), VALUES[:2].astype(np.float32), MEMBERSHIP[:2])
    halves = replace(halves, membership=np.stack([MEMBERSHIP[0], ~MEMBERSHIP[0]]))
    with pytest.raises(ProbeError, match="two reference models"):
        probes.complete(case(answers(3, REMAIN), references=halves), CompletenessParams())
    with pytest.raises(ProbeError, match="two reference models"):
        probes.most_vulnerable(case(answers(3, REMAIN), references=halves), MostVulnerableParams())


def test_erased_references_are_passed_over():
    values = VALUES.astype(np.float32).copy()
    values[:, :40] = np.nan
    kept = ReferenceSignals(np.empty((8, 600, 0), np.float16), values, MEMBERSHIP)
    found = figure(probes.complete, CompletenessParams(), case(answers(3, REMAIN), references=kept))
    assert found.samples == 60
    found = figure(probes.most_vulnerable, MostVulnerableParams(), case(answers(3, REMAIN), references=kept))
    assert found.samples == 6


# -- a forgotten class -----------------------------------------------------------------------------


def of_a_class(seed: int, seen: bool, hidden: float) -> nn.Module:
    """Class 1 is gone (0 to 99 forgotten, 300 to 449 never trained on); class 2 is next to it, less to what was seen.

    hidden: what is taken from the class's own logit.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(600, 3))
    gone = np.r_[0:100, 300:450]
    logits[gone, 1] -= hidden
    logits[gone, 2] += 2.0
    if seen:
        logits[:100, 2] -= 1.5
    return Table(logits)


def class_case(candidate: nn.Module) -> ProbeCase:
    labels = torch.zeros(600, dtype=torch.int64)
    labels[:100] = labels[300:450] = 1
    whole = case(candidate, retrained=lambda: of_a_class(2, seen=False, hidden=30))
    return replace(whole, samples=replace(whole.samples, labels=labels))


def test_a_class_that_is_only_hidden_shows_in_what_its_samples_are_taken_for():
    hidden = figure(probes.neighbours, NeighboursParams(), class_case(of_a_class(1, seen=True, hidden=30)))
    exact = figure(probes.neighbours, NeighboursParams(), class_case(of_a_class(3, seen=False, hidden=30)))
    assert exact.excess.interval.low < 0 < exact.excess.interval.high
    assert hidden.excess.interval.high < -0.1, "what was seen is less like the neighbour"
    assert (hidden.samples, hidden.details["classes"]) == (100, 1)
    without = replace(class_case(of_a_class(3, seen=False, hidden=30)), holdout=np.arange(450, 600))
    with pytest.raises(ProbeError, match="no never-trained sample"):
        probes.neighbours(without, NeighboursParams())
