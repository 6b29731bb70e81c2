import math

import pytest
import torch
from torch import nn

from app.catalog import PgdL2Params
from engine import evaluation
from engine.attacks.pgd_l2 import pgd_l2
from engine.data.samples import gather, to_float
from tests.engine.cases import digits, original, train_positions


class Scaled(nn.Module):
    """A model whose logits are multiplied, so that its softmax saturates."""

    def __init__(self, model, factor):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x):
        return self.model(x) * self.factor


class Silent(nn.Module):
    """Prefers class 0 whatever it sees: its gradient is exactly zero."""

    def forward(self, x):
        return torch.tensor([1.0, 0.0]).expand(len(x), 2) + 0 * x.sum((1, 2, 3))[:, None]


def linear_case(n, size=6, seed=0):
    """A two-class linear model, images away from the box's walls, labels as it says, distances to flip."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, 3 * size * size, generator=generator))
        model[1].bias.zero_()
        normal = model[1].weight[0] - model[1].weight[1]
        images = 0.5 + 0.02 * torch.randn(n, 3, size, size, generator=generator)
        on_boundary = images - ((images.flatten(1) @ normal) / normal.dot(normal))[:, None].mul(normal).view_as(images)
        distances = 0.03 * 40 ** torch.rand(n, generator=generator)
        sides = torch.randint(0, 2, (n,), generator=generator) * 2 - 1
        images = on_boundary + (sides * distances)[:, None, None, None] * (normal / normal.norm()).view(3, size, size)
        labels = (sides < 0).long()
    assert images.min() > 0
    assert images.max() < 1
    return model, images, labels, distances


def digits_case(n=48):
    _, samples = digits()
    positions = torch.from_numpy(train_positions()[:n])
    model = original()
    images = to_float(gather(samples.images, positions))
    return model, images, evaluation.logits(model, images).argmax(1)


def check(model, images, labels, result, params):
    """What holds of every row: order, box, verified flips, distances and radii."""
    assert len(result.images) == len(images)
    said = evaluation.logits(model, result.images, batch=17).argmax(1)
    assert torch.equal(said, result.labels)
    assert torch.equal(result.found, said != labels)
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    norms = (result.images - images).flatten(1).norm(dim=1)
    assert torch.allclose(norms, result.norms, atol=1e-6)
    assert (norms <= result.radii * (1 + 1e-5)).all()
    doublings = (result.radii[result.radii > 0] / params.epsilon).log2()
    assert torch.allclose(doublings, doublings.round(), atol=1e-4)


@pytest.mark.parametrize("batch_size", [512, 7, 1])
def test_on_a_linear_model_every_image_flips_near_the_closed_form(batch_size):
    params = PgdL2Params(batch_size=batch_size)
    model, images, labels, distances = linear_case(20 if batch_size == 1 else 150)
    result = pgd_l2(model, images, labels, params)
    check(model, images, labels, result, params)
    assert result.found.all()
    assert (result.norms <= 1.25 * distances).all()
    assert (result.norms >= 0.999 * distances).all()


def test_rows_keep_their_order_whatever_the_batches():
    model, images, labels, _ = linear_case(60)
    whole = pgd_l2(model, images, labels, PgdL2Params())
    shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    parts = pgd_l2(model, images[shuffled], labels[shuffled], PgdL2Params(batch_size=11))
    assert torch.allclose(parts.images, whole.images[shuffled], atol=1e-4)


@pytest.mark.parametrize("factor", [1.0, 6.0, 1000.0])
def test_confident_models_are_fooled_all_the_same(factor):
    model, images, labels = digits_case()
    confident = Scaled(model, factor)
    result = pgd_l2(confident, images, labels, PgdL2Params(steps=10))
    check(confident, images, labels, result, PgdL2Params(steps=10))
    assert result.found.all()
    if factor == 1000.0:
        logits = evaluation.logits(confident, images)
        assert (nn.functional.cross_entropy(logits, labels, reduction="none") == 0).all()


def test_the_first_step_follows_the_cross_entropy_gradient():
    model, images, labels = digits_case(4)
    free = images.clone().requires_grad_()
    gradient = torch.autograd.grad(nn.functional.cross_entropy(model(free), labels, reduction="sum"), free)[0]
    direction = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    by_hand = (images + 0.004 * direction).clamp(0, 1)
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    pgd_l2(model, images, labels, PgdL2Params(steps=1, max_doublings=1))
    assert torch.equal(seen[0], images)
    assert torch.equal(seen[1], images)
    assert torch.allclose(seen[2], by_hand, atol=1e-6)


def test_a_search_starts_afresh_at_each_radius():
    model, images, labels = digits_case(1)
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    result = pgd_l2(model, images, labels, PgdL2Params(steps=2, max_doublings=3))
    starts = [torch.equal(points, images) for points in seen[1:-1]]
    assert sum(starts) == 1 + round(math.log2(result.radii.item() / 0.04)) > 1
    assert starts[0::3] == [True] * len(starts[0::3])


def test_a_cap_ends_the_search_and_keeps_the_row():
    model, images, labels, distances = linear_case(40)
    params = PgdL2Params(max_doublings=2)
    result = pgd_l2(model, images, labels, params)
    check(model, images, labels, result, params)
    assert torch.equal(result.found, distances < 0.16 * 0.999)
    lost = ~result.found
    assert lost.any()
    assert torch.equal(result.images[lost], images[lost])
    assert torch.equal(result.labels[lost], labels[lost])
    assert (result.iterations[lost] == 3 * 50).all()


def test_what_is_mislabelled_already_is_its_own_example():
    model, images, labels, _ = linear_case(10)
    labels[4] = 1 - labels[4]
    result = pgd_l2(model, images, labels, PgdL2Params())
    assert result.found.all()
    assert torch.equal(result.images[4], images[4])
    assert [result.norms[4], result.iterations[4], result.radii[4]] == [0, 0, 0]
    everything_wrong = pgd_l2(model, images, 1 - result.labels.where(torch.arange(10) == 4, labels), PgdL2Params())
    assert everything_wrong.found[torch.arange(10) != 4].all()


def test_a_gradient_of_exactly_zero_leaves_the_image_and_no_nan():
    images = torch.rand(3, 1, 4, 4)
    result = pgd_l2(Silent(), images, torch.zeros(3, dtype=torch.int64), PgdL2Params(steps=3, max_doublings=2))
    assert not result.found.any()
    assert torch.equal(result.images, images)
    assert (result.norms == 0).all()


def test_the_attack_leaves_the_model_as_it_was():
    model, images, labels = digits_case(8)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pgd_l2(model, images, labels, PgdL2Params(steps=5))
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
