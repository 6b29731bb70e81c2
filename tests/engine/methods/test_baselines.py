"""Each baseline's defining property, and what all methods owe: equal bits, resumption, odd forget sets."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from app import catalog
from app.catalog import L1SparseParams, SgdRecipe
from engine import evaluation, seeding
from engine.data.batches import Source, TrainingSet
from engine.data.samples import Samples, Split, gather, to_float
from engine.errors import DivergedError, MethodError
from engine.methods.boundary_shrink import nearest_wrong_labels
from engine.methods.fine_tune import l1_strength
from engine.methods.gradient_ascent import gradient_ascent
from engine.methods.random_label import other_label, relabelled_set
from engine.methods.saliency import saliency_mask
from engine.recipes import Recipe
from engine.recipes.sgd import sgd
from engine.training import NullProgress, Pass, Schedule, fit
from tests.engine.cases import KeptProgress, digits, original, same, train_positions
from tests.engine.methods.cases import (
    accuracy,
    attacked,
    attacked_by_default,
    confidence,
    context,
    log_odds_of,
    loss,
    run,
    split,
    without_remain,
)

WITH_EPOCHS = sorted(name for name, entry in catalog.METHODS.items() if "epochs" in entry.params.model_fields)
QUICK = {
    name: {**entry.example, **({"epochs": 2} if name in WITH_EPOCHS else {})} for name, entry in catalog.METHODS.items()
}
NEED_REMAIN = sorted(name for name, entry in catalog.METHODS.items() if entry.needs_remain)


def adversarial_for(name, whole):
    return attacked(whole) if catalog.METHODS[name].needs_adversarial else None


class Tape(nn.Module):
    """Remembers which samples it was shown: the first pixel is the position."""

    def __init__(self, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, classes))
        self.passes = []

    def forward(self, x):
        self.passes.append((x[:, 0, 0, 0] * 255).round().int().tolist())
        return x.mean((1, 2, 3))[:, None] * self.weight


def numbered(n=40, classes=4):
    """Samples whose first pixel is their position; forget 0..9, remain 10..29."""
    images = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).expand(n, 1, 8, 8)
    samples = Samples(images, torch.arange(n) % classes)
    return Split(samples, torch.arange(10), torch.arange(10, 30), torch.arange(30, n))


# -- fine-tuning and l1-sparse ---------------------------------------------------------------------


def test_fine_tuning_is_the_training_loop_on_the_remain_set():
    whole = split()
    params = {"epochs": 2, "learning_rate": 0.05, "batch_size": 64}
    samples = whole.samples
    straight = fit(
        original(),
        [Pass(TrainingSet([Source(samples.images, samples.labels, whole.remain)]))],
        Schedule(**params, momentum=0.9, weight_decay=5e-4),
        seeding.generator(11),
        NullProgress(),
    )
    assert same(run("fine_tune", whole, **params), straight)


def test_the_l1_penalty_decays_and_the_norm_shrinks():
    params = L1SparseParams(alpha=0.01, epochs=4)
    strengths = [l1_strength(params, done) for done in (0, 0.9, 1, 2.5, 3.99)]
    assert strengths == pytest.approx([0.01, 0.01, 0.0075, 0.005, 0.0025])
    whole = split()
    norms = [
        sum(parameter.abs().sum().item() for parameter in model.parameters())
        for model in (
            run("fine_tune", whole, epochs=3),
            run("l1_sparse", whole, epochs=3, alpha=1e-3),
            run("l1_sparse", whole, epochs=3, alpha=1e-2),
        )
    ]
    assert norms[0] > norms[1] > norms[2]
    assert norms[2] < 0.9 * norms[0]


def test_the_penalty_of_a_batch_is_alpha_times_the_norm():
    """One step without momentum or decay: theta - lr (grad CE + alpha sign theta)."""
    whole = split()
    fixed = {"epochs": 1, "learning_rate": 0.01, "batch_size": 2000, "momentum": 0, "weight_decay": 0}
    plain, sparse = run("fine_tune", whole, **fixed), run("l1_sparse", whole, alpha=0.1, **fixed)
    for before, one, other in zip(original().parameters(), plain.parameters(), sparse.parameters(), strict=True):
        assert torch.allclose(one - other, 0.01 * 0.1 * before.sign(), atol=1e-6)


# -- random labels and SalUn -----------------------------------------------------------------------


def test_random_labels_are_wrong_uniform_and_drawn_anew():
    labels = torch.arange(5).repeat(4000)
    draw, rng = other_label(5), seeding.generator(0)
    first, second = draw(labels, rng), draw(labels, rng)
    assert not (first == labels).any()
    assert 0.2 < (first == second).double().mean() < 0.3
    counts = torch.bincount(labels * 5 + first, minlength=25).reshape(5, 5)
    off = counts[~torch.eye(5, dtype=torch.bool)].double()
    assert ((off - 1000).abs() < 150).all()


def test_the_remain_set_keeps_its_own_labels_beside_random_ones():
    training_set = relabelled_set(numbered(), context(Recipe(sgd, SgdRecipe())))
    images, labels = training_set.batch(torch.arange(30).flip(0), seeding.generator(0))
    positions = (images[:, 0, 0, 0] * 255).round().long()
    assert sorted(positions.tolist()) == list(range(30))
    forget = positions < 10
    assert torch.equal(labels[~forget], positions[~forget] % 4)
    assert not (labels[forget] == positions[forget] % 4).any()


@pytest.mark.parametrize("name", ["random_label", "salun", "boundary_shrink"])
@pytest.mark.parametrize("remain", [True, False])
def test_wrong_labels_lower_confidence_most_on_the_forget_set(name, remain):
    whole = split()
    given, rate = (whole, 0.003) if remain else (without_remain(whole), 0.0008)
    after = run(name, given, learning_rate=rate, batch_size=64)
    falls = [
        confidence(original(), whole, positions) - confidence(after, whole, positions)
        for positions in (whole.forget, whole.remain, whole.holdout)
    ]
    assert falls[0] > 1
    assert falls[0] > max(falls[1:])


def test_one_class_leaves_no_wrong_label():
    whole = split()
    whole = replace(whole, samples=Samples(whole.samples.images, torch.zeros_like(whole.samples.labels)))
    for name in ("random_label", "salun", "boundary_shrink"):
        with pytest.raises(MethodError, match="two classes"):
            run(name, whole)


@pytest.mark.parametrize("ratio", [1e-9, 0.1, 0.5, 1])
def test_the_mask_holds_the_largest_gradients_of_all_parameters_together(ratio):
    whole, model = split(), original()
    mask = saliency_mask(model, whole, ratio)
    images = to_float(gather(whole.samples.images, whole.forget))
    nn.functional.cross_entropy(model(images), whole.samples.labels[whole.forget]).backward()
    assert {name: part.shape for name, part in mask.items()} == {
        name: parameter.shape for name, parameter in model.named_parameters()
    }
    sizes = torch.cat([parameter.grad.abs().flatten() for parameter in model.parameters()])
    chosen = torch.cat([part.flatten() for part in mask.values()])
    assert chosen.sum() == max(1, round(ratio * len(sizes)))
    if not chosen.all():
        assert sizes[chosen].min() >= sizes[~chosen].max() * 0.999


@pytest.mark.parametrize("name", ["salun", "amun_salun"])
def test_weights_outside_the_mask_stay_bit_identical(name):
    """Under momentum and heavy weight decay, which a masked gradient would not stop."""
    whole, before = split(), original()
    mask = saliency_mask(before, whole, 0.3)
    adversarial = attacked_by_default() if name == "amun_salun" else None
    after = run(name, whole, adversarial, mask_ratio=0.3, weight_decay=0.1, epochs=2)
    pairs = list(zip(mask.values(), before.parameters(), after.parameters(), strict=True))
    assert all(torch.equal(one[~free], other[~free]) for free, one, other in pairs)
    moved = torch.cat([(one != other)[free] for free, one, other in pairs])
    assert moved.double().mean() > 0.95
    assert not torch.equal(before[1].running_mean, after[1].running_mean)


def test_a_full_mask_is_the_method_without_it():
    whole = split()
    rate = {"learning_rate": 0.01, "epochs": 2}
    assert same(run("salun", whole, mask_ratio=1, **rate), run("random_label", whole, **rate))
    adversarial = attacked_by_default()
    assert same(run("amun_salun", whole, adversarial, mask_ratio=1, **rate), run("amun", whole, adversarial, **rate))


# -- gradient ascent -------------------------------------------------------------------------------


@pytest.mark.parametrize(("remain", "rate"), [(True, 0.05), (False, 0.1)])
def test_gradient_ascent_raises_the_loss_on_the_forget_set(remain, rate):
    whole = split()
    after = run("gradient_ascent", whole if remain else without_remain(whole), learning_rate=rate)
    assert loss(after, whole, whole.forget) > 2 * loss(original(), whole, whole.forget)
    if remain:
        assert loss(after, whole, whole.remain) < loss(after, whole, whole.forget)
        assert accuracy(after, whole, whole.holdout) > accuracy(original(), whole, whole.holdout) - 0.06


def test_one_ascent_step_is_the_gradient_added():
    whole = without_remain(split())
    model = original().train()
    images = to_float(gather(whole.samples.images, whole.forget))
    nn.functional.cross_entropy(model(images), whole.samples.labels[whole.forget]).backward()
    after = run("gradient_ascent", whole, epochs=1, batch_size=90, learning_rate=0.5, weight_decay=0)
    for before, end in zip(model.parameters(), after.parameters(), strict=True):
        assert torch.allclose(end, before + 0.5 * before.grad, atol=1e-4)


def test_each_epoch_descends_on_the_remain_set_then_ascends_on_the_forget_set():
    model = Tape(4)
    params = catalog.parse("methods", "gradient_ascent", {"epochs": 2, "batch_size": 10})
    gradient_ascent(model, numbered(), params, None, context(Recipe(sgd, SgdRecipe())))
    epochs = [model.passes[:3], model.passes[3:]]
    for first, second, third in epochs:
        assert sorted(first + second) == list(range(10, 30))
        assert sorted(third) == list(range(10))


def test_a_forget_set_of_one_does_not_freeze_batch_norm_on_the_remain_set():
    before, after = original(), run("gradient_ascent", split(1), epochs=1)
    assert not torch.equal(before[1].running_mean, after[1].running_mean)


# -- boundary shrink -------------------------------------------------------------------------------


def test_the_nearest_wrong_label_is_found_on_the_model_as_it_was():
    whole = split()
    model = original()
    images, labels = to_float(gather(whole.samples.images, whole.forget)), whole.samples.labels[whole.forget]
    found = nearest_wrong_labels(model, images, labels, 0.1)
    for image, label, got in list(zip(images, labels, found, strict=True))[:20]:
        point = image[None].clone().requires_grad_()
        nn.functional.cross_entropy(model(point), label[None]).backward()
        answer = model((point + 0.1 * point.grad.sign()).clamp(0, 1))[0].detach()
        answer[label] = -math.inf
        assert got == answer.argmax()
    assert not (found == labels).any()
    assert not model.training
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_input_gradient_of_zero_still_yields_the_second_likeliest_label():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([3.0, 1.0, 2.0]) + 0 * x.sum((1, 2, 3))[:, None]

    images = torch.rand(2, 1, 8, 8)
    assert nearest_wrong_labels(Constant(), images, torch.tensor([0, 1]), 0.1).tolist() == [2, 0]


# -- what every method owes ------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalog.METHODS)
def test_equal_seeds_give_equal_bits(name):
    whole = split(60)
    adversarial = adversarial_for(name, whole)
    with seeding.deterministic():
        first, second = (run(name, whole, adversarial, **QUICK[name]) for _ in range(2))
    assert same(first, second)
    assert not same(first, original())
    assert not first.training


@pytest.mark.parametrize("name", WITH_EPOCHS)
def test_a_resumed_method_equals_the_straight_one(name):
    whole = split(60)
    adversarial = adversarial_for(name, whole)
    params = QUICK[name] | {"epochs": 3}
    stopped = KeptProgress(2)
    with pytest.raises(InterruptedError):
        run(name, whole, adversarial, stopped, **params)
    resumed = KeptProgress()
    resumed.states = [stopped.states[-1]]
    again = run(name, whole, adversarial, resumed, **params)
    assert same(again, run(name, whole, adversarial, **params))
    assert len(resumed.states) == 2


@pytest.mark.parametrize("name", NEED_REMAIN)
def test_a_method_that_needs_the_remain_set_says_so(name):
    with pytest.raises(MethodError, match="needs the remain set"):
        run(name, without_remain(split()), **QUICK[name])


@pytest.mark.parametrize("name", sorted(set(catalog.METHODS) - set(NEED_REMAIN)))
def test_the_others_run_on_the_forget_set_alone(name):
    whole = without_remain(split(33))  # a last batch of one, were batches not evened out
    after = run(name, whole, adversarial_for(name, whole), **QUICK[name])
    assert not same(after, original())


def odd_split(kind):
    """A forget set of one sample, a whole class, half of the data, or samples that the model mislabels."""
    raw, samples = digits()
    train, holdout = torch.from_numpy(train_positions()), torch.from_numpy(np.flatnonzero(raw.holdout))
    forget = {
        "one": train[:1],
        "class": train[samples.labels[train] == 0],
        "half": train[::2],
        "mislabelled": holdout[
            evaluation.logits(original(), samples.images, holdout).argmax(1) != samples.labels[holdout]
        ],
    }[kind]
    return Split(samples, forget, train[~torch.isin(train, forget)], holdout)


@pytest.mark.parametrize("kind", ["one", "class", "half", "mislabelled"])
@pytest.mark.parametrize("name", catalog.METHODS)
def test_odd_forget_sets(name, kind):
    whole = odd_split(kind)
    short = QUICK[name] | ({"epochs": 1} if name in WITH_EPOCHS else {})
    for given in [whole] if name in NEED_REMAIN else [whole, without_remain(whole)]:
        after = run(name, given, adversarial_for(name, whole), **short)
        assert all(tensor.isfinite().all() for tensor in after.state_dict().values())
        assert np.isfinite(log_odds_of(after, whole, whole.holdout)).all()


@pytest.mark.parametrize("name", WITH_EPOCHS)
def test_a_rate_that_blows_the_weights_up_is_reported(name):
    whole = split(60)
    wild = {"epochs": 4, "batch_size": 8, "learning_rate": 10, "weight_decay": 0.9}
    with pytest.raises(DivergedError, match="diverged"):
        run(name, whole, adversarial_for(name, whole), **wild)
