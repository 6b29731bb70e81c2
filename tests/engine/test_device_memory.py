"""When the device's memory does not suffice: smaller parts, the same result, then a clear failure."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from engine import evaluation, seeding
from engine.data.batches import Source, TrainingSet
from engine.data.samples import to_float
from engine.errors import DeviceMemoryError
from engine.memory import within_memory
from engine.training import NullProgress, Pass, Schedule, fit
from tests.engine.cases import digits, same, small_network

OPTIONS = {"epochs": 2, "learning_rate": 0.05, "batch_size": 32, "momentum": 0.9, "weight_decay": 5e-4}


class Small(nn.Module):
    """A device that holds at most so many images at once; counts how often it was asked for more."""

    def __init__(self, inner, most):
        super().__init__()
        self.inner, self.most, self.failures, self.passes = inner, most, 0, []

    def forward(self, x):
        if len(x) > self.most:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        self.passes.append(len(x))
        return self.inner(x)


def plain_network():
    """Without BatchNorm and dropout: the gradient of a batch is the mean of the gradients of its parts."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)).double()


def run(most, build=plain_network, n=90, **changed):
    samples = digits()[1]
    model = Small(seeding.seeded_model(build, 3), most)
    images = to_float(samples.images[:n]).to(next(model.parameters()).dtype)
    training_set = TrainingSet([Source(images, samples.labels, torch.arange(n), "crop_flip")])
    schedule, loop = Schedule(**OPTIONS), {"generator": seeding.generator(4), "progress": NullProgress()}
    fit(model, [Pass(training_set)], schedule, **loop, **changed)
    return model


@pytest.mark.parametrize("most", [16, 15, 7, 1])
@pytest.mark.parametrize("options", [{}, {"penalty": lambda done: torch.tensor(0.3 + done)}])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(most, options, monkeypatch):
    # The losses' dtype follows the weights, so that rounding does not hide a wrong weight of a part.
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)
    whole, parts = run(10**6, **options), run(most, **options)
    assert whole.failures == 0
    assert parts.failures > 0
    assert max(parts.passes) <= most
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_the_size_that_fits_is_found_once_not_at_every_step():
    model = run(8)
    assert model.failures == 2  # 32 and 16 failed in the first step
    assert sum(model.passes) == 2 * 90


def test_batch_norm_sees_each_part_by_itself_and_a_part_of_one_leaves_its_statistics_alone():
    parts, single = run(16, lambda: small_network().double()), run(1, lambda: small_network().double())
    fresh = seeding.seeded_model(small_network, 3)
    assert parts.inner[1].num_batches_tracked == 2 * 3 * 2  # two parts of each of three batches, two epochs
    assert not torch.equal(parts.inner[1].running_mean.float(), fresh[1].running_mean)
    assert torch.equal(single.inner[1].running_mean.float(), fresh[1].running_mean)
    assert not torch.equal(single.inner[0].weight.float(), fresh[0].weight)


def test_a_device_that_does_not_hold_one_sample_is_named():
    with pytest.raises(DeviceMemoryError, match="one sample"):
        run(0)


def test_logits_are_taken_in_smaller_batches(monkeypatch):
    monkeypatch.setattr(evaluation, "CPU_BATCH", 1024)  # as on a device
    samples = digits()[1]
    model = seeding.seeded_model(small_network, 1)
    limited = Small(model, 100)
    limited.train()
    expected = evaluation.logits(model, samples.images)
    assert torch.allclose(evaluation.logits(limited, samples.images), expected, atol=1e-5)
    assert limited.failures == 4  # 1024, 512, 256 and 128
    assert limited.training
    with pytest.raises(DeviceMemoryError):
        evaluation.logits(Small(model, 0), samples.images)


def test_large_images_are_taken_in_batches_of_few():
    model = Small(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), 10**6)
    images = torch.zeros(30, 3, 1024, 1024, dtype=torch.uint8)
    assert evaluation.logits(model, images).shape == (30, 2)
    assert model.passes == [5] * 6


def test_halving_ends_at_one_and_other_errors_pass():
    tried = []

    def attempt(size):
        tried.append(size)
        raise torch.OutOfMemoryError

    with pytest.raises(DeviceMemoryError):
        within_memory(attempt, 11)
    assert tried == [11, 6, 3, 2, 1]
    with pytest.raises(ZeroDivisionError):
        within_memory(lambda size: size // 0, 4)


def test_without_a_shortage_the_run_is_that_of_before_bit_for_bit():
    """The loop as it was written before batches could be cut: one step, one backward."""
    samples = digits()[1]
    training_set = TrainingSet([Source(samples.images, samples.labels, torch.arange(40))])
    options = OPTIONS | {"epochs": 1, "batch_size": 20}
    after = fit(
        seeding.seeded_model(small_network, 3),
        [Pass(training_set)],
        Schedule(**options),
        seeding.generator(4),
        NullProgress(),
    )
    model = seeding.seeded_model(small_network, 3).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    generator = seeding.generator(4)
    for rows in torch.split(torch.randperm(40, generator=generator), 20):
        images, labels = training_set.batch(rows, generator)
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert same(after, model)
