"""Probes on models: relearning, robust accuracy."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from app.catalog import RelearnParams, RobustParams
from engine import evaluation, seeding
from engine.audits.relearn import relearn, target_of
from engine.audits.robust import robust_accuracy
from engine.data.samples import Samples
from tests.engine.attacks.test_pgd_l2 import linear_case
from tests.engine.cases import digits, original, same, train_positions, trained

PARAMS = RelearnParams(learning_rate=0.005, most_steps=60)


def halves():
    train = np.random.default_rng(0).permutation(train_positions())
    return torch.from_numpy(np.sort(train[:200])), torch.from_numpy(np.sort(train[200:]))


def test_a_model_that_remembers_relearns_sooner_than_a_retrained_one():
    _, samples = digits()
    forget, remain = halves()
    parent, retrained = original(), trained(remain, 2)
    slightly = original()
    with torch.no_grad():
        for parameter in slightly.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    target = 1.2 * target_of(parent, samples, forget, PARAMS)
    steps = [
        relearn(model, samples, forget, PARAMS, seeding.generator(1), target).steps
        for model in (parent, slightly, retrained)
    ]
    assert steps[0] == 0
    assert steps[1] < (steps[2] or PARAMS.most_steps + 1)


def test_the_steps_are_those_of_plain_sgd_and_the_model_is_left_alone():
    samples = Samples(torch.randint(0, 255, (6, 1, 2, 2)).to(torch.uint8), torch.tensor([0, 1, 0, 1, 1, 0]))
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    forget = torch.tensor([1, 2, 4, 5])
    params = RelearnParams(learning_rate=0.1, batch_size=4, momentum=0.0, most_steps=3)
    weight, bias = (each.detach().clone().requires_grad_() for each in model.parameters())
    x, y = samples.images[forget].flatten(1) / 255, samples.labels[forget]
    losses = []
    for _ in range(4):
        loss = functional.cross_entropy(x @ weight.T + bias, y)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, [weight, bias])
        with torch.no_grad():
            weight -= 0.1 * gradients[0]
            bias -= 0.1 * gradients[1]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = relearn(model, samples, forget, params, seeding.generator(0), 0.0)
    assert result.losses == pytest.approx(losses, abs=1e-5)
    assert result.steps is None
    reached = relearn(model, samples, forget, params, seeding.generator(0), losses[2] + 1e-6)
    assert reached.steps == 2
    assert len(reached.losses) == len(reached.accuracies) == 3
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_accuracy_may_be_the_target_and_batchnorm_keeps_its_statistics():
    _, samples = digits()
    forget, remain = halves()
    params = RelearnParams(reaches="accuracy", target=0.97, learning_rate=0.02, most_steps=200)
    model = trained(remain, 2)
    copy = trained(remain, 2)
    assert target_of(original(), samples, forget, params) == 0.97
    result = relearn(model, samples, forget, params, seeding.generator(1), 0.97)
    assert result.steps == len(result.losses) - 1
    assert result.accuracies[-1] >= 0.97 > max(result.accuracies[:-1], default=0)
    assert same(model, copy)
    measured = target_of(model, samples, forget, RelearnParams(reaches="accuracy"))
    logits = evaluation.logits(model, samples.images, forget)
    assert measured == evaluation.accuracy(logits, samples.labels[forget])


def test_robust_accuracy_of_a_linear_model_is_the_share_beyond_the_radius():
    model, images, labels, distances = linear_case(200)
    samples = Samples(images, labels)
    params = RobustParams(epsilon=0.2, batch_size=64)
    assert robust_accuracy(model, samples, torch.arange(200), params) == (distances > 0.2).double().mean().item()
    wrong = Samples(images, torch.where(torch.arange(200) < 50, 1 - labels, labels))
    expected = ((distances > 0.2) & (torch.arange(200) >= 50)).double().mean().item()
    assert robust_accuracy(model, wrong, torch.arange(200), params) == expected
    with pytest.raises(ValueError, match="no sample"):
        robust_accuracy(model, samples, torch.arange(0), params)


def test_robust_accuracy_falls_with_the_radius():
    _, samples = digits()
    positions = torch.from_numpy(train_positions()[:100])
    values = [robust_accuracy(original(), samples, positions, RobustParams(epsilon=e)) for e in (1e-6, 0.2, 0.5, 2)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.9
    assert values[-1] < 0.1
