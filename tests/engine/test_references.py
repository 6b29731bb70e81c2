import numpy as np
import pytest
import torch
from scipy import stats

from engine import references
from engine.audits import rmia
from engine.data.samples import Samples
from engine.training import NullProgress
from tests.engine.cases import RECIPE, digits, small_network


def test_each_sample_is_in_exactly_half_of_the_models():
    design = references.membership(16, 3000, seed=1)
    assert design.shape == (16, 3000)
    assert (design.sum(0) == 8).all()
    spread = abs(design.sum(1) - 1500)
    assert spread.max() < 5 * np.sqrt(3000) / 2
    assert spread.max() > 0


def test_the_design_depends_on_its_seed_and_models_are_paired_evenly():
    assert np.array_equal(references.membership(8, 50, 1), references.membership(8, 50, 1))
    assert not np.array_equal(references.membership(8, 50, 1), references.membership(8, 50, 2))
    together = np.array(
        [[(a & b).sum() for b in design] for design in [references.membership(4, 6000, 3)] for a in design]
    )
    pairs = together[~np.eye(4, dtype=bool)]
    assert stats.chisquare(pairs).pvalue > 1e-4
    assert pairs.mean() == pytest.approx(6000 / 6, rel=0.02)


def test_the_design_is_one_draw_whatever_part_of_it_is_drawn_at_once(monkeypatch):
    """Pools that exist were drawn whole; a pool's later models must belong to the same design."""
    whole = np.random.default_rng(9).random((6, 100)).argsort(axis=0) < 3
    for columns in (1, 7, 100, 1000):
        monkeypatch.setattr(references, "COLUMNS_AT_ONCE", columns)
        assert np.array_equal(references.membership(6, 100, 9), whole)


@pytest.mark.parametrize("models", [0, 1, 3, -2])
def test_an_odd_or_empty_pool_is_refused(models):
    with pytest.raises(ValueError, match="even"):
        references.membership(models, 10, 0)


def small_pool():
    _, samples = digits()
    part = Samples(samples.images[:200], samples.labels[:200])
    design = references.membership(2, 200, 5)
    return (
        part,
        design,
        [references.train_reference(index, design, part, RECIPE, small_network, 9, NullProgress()) for index in (0, 1)],
    )


def test_a_reference_remembers_its_own_half_and_is_reproducible(tmp_path):
    samples, design, signals = small_pool()
    for row, signal in zip(design, signals, strict=True):
        assert signal.logits.shape == (200, 10)
        assert signal.logits.dtype == np.float16
        assert signal.log_odds.dtype == np.float32
        assert np.array_equal(signal.membership, row)
        assert signal.log_odds[row].mean() > signal.log_odds[~row].mean() + 1
        odds = rmia.log_odds(signal.logits, samples.labels.numpy())
        assert odds == pytest.approx(signal.log_odds, abs=0.05)
    again = references.train_reference(0, design, samples, RECIPE, small_network, 9, NullProgress())
    assert np.array_equal(again.logits, signals[0].logits)
    references.to_file(signals[1], tmp_path / "signal")
    back = references.from_file(tmp_path / "signal")
    assert all(np.array_equal(vars(back)[name], array) for name, array in vars(signals[1]).items())
    stacked = references.stack(signals)
    assert stacked.logits.shape == (2, 200, 10)
    assert np.array_equal(stacked.membership, design)


def test_erasing_leaves_nothing_of_a_sample_and_all_of_the_others():
    random = np.random.default_rng(0)
    signal = references.ReferenceSignal(
        random.random((6, 3)).astype(np.float16), random.random(6).astype(np.float32), np.arange(6) % 2 == 0
    )
    erased = references.erase(signal, np.array([1, 4]))
    assert np.isnan(erased.logits[[1, 4]]).all()
    assert np.isnan(erased.log_odds[[1, 4]]).all()
    kept = [0, 2, 3, 5]
    assert np.array_equal(erased.logits[kept], signal.logits[kept])
    assert np.array_equal(erased.log_odds[kept], signal.log_odds[kept])
    assert np.isfinite(signal.logits).all()


def test_a_reference_sees_no_image_outside_its_row():
    _, samples = digits()
    design = references.membership(2, 60, 5)
    blotted = samples.images[:60].clone()
    blotted[torch.from_numpy(~design[0])] = 0
    whole, part = (
        references.train_reference(
            0, design, Samples(images, samples.labels[:60]), RECIPE, small_network, 9, NullProgress()
        )
        for images in (samples.images[:60], blotted)
    )
    assert np.array_equal(whole.logits[design[0]], part.logits[design[0]])
