import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from engine import evaluation, seeding
from engine.data.batches import Source, TrainingSet, batch_sizes, crop_flip
from engine.data.samples import Samples, gather, to_float
from engine.errors import DivergedError
from engine.training import NullProgress, Pass, Schedule, cosine, fit, steps
from tests.engine.cases import RECIPE, KeptProgress, digits, same, small_network, train_positions

OPTIONS = {"epochs": 3, "learning_rate": 0.05, "batch_size": 16, "momentum": 0.9, "weight_decay": 5e-4}


@given(st.integers(1, 5000), st.integers(1, 600))
def test_batches_are_even_complete_and_never_tiny(n, batch_size):
    sizes = batch_sizes(n, batch_size)
    assert sum(sizes) == n
    assert len(sizes) == math.ceil(n / batch_size)
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size
    assert min(sizes) >= min(n, batch_size) // 2


def mixed_set(augment="none"):
    """Two uint8 sources over the same images and a float one, as AMUN has them."""
    _, samples = digits()
    adversarial = torch.rand(5, 1, 8, 8, generator=seeding.generator(1))
    labels = torch.arange(100, 105)
    sources = [
        Source(samples.images, samples.labels, torch.tensor([3, 9, 4]), augment),
        Source(samples.images, samples.labels, torch.tensor([], dtype=torch.int64)),
        Source(adversarial, labels, torch.tensor([4, 0, 2])),
        Source(samples.images, samples.labels, torch.tensor([7])),
    ]
    images = torch.cat(
        [
            to_float(samples.images[[3, 9, 4]]),
            adversarial[[4, 0, 2]],
            to_float(samples.images[[7]]),
        ]
    )
    return (
        TrainingSet(sources),
        images,
        torch.cat([samples.labels[[3, 9, 4]], labels[[4, 0, 2]], samples.labels[[7]]]),
    )


def test_a_mixed_batch_equals_rows_of_the_plain_concatenation():
    training_set, images, labels = mixed_set()
    assert training_set.n == 7
    for indices in (torch.arange(7), torch.tensor([5, 0, 6, 3, 3]), torch.tensor([2])):
        got_images, got_labels = training_set.batch(indices, seeding.generator(0))
        assert torch.equal(got_images, images[indices])
        assert torch.equal(got_labels, labels[indices])


def test_augmentation_stays_with_its_source():
    training_set, images, _ = mixed_set("crop_flip")
    got, _ = training_set.batch(torch.arange(7), seeding.generator(0))
    assert torch.equal(got[3:], images[3:])
    assert not torch.equal(got[:3], images[:3])


def test_an_empty_training_set_is_refused():
    _, samples = digits()
    with pytest.raises(ValueError, match="empty"):
        TrainingSet([Source(samples.images, samples.labels, torch.tensor([], dtype=torch.int64))])


def test_crop_and_flip_yield_windows_of_the_padded_image():
    images = torch.randint(1, 255, (64, 3, 6, 7), dtype=torch.uint8, generator=seeding.generator(2))
    out = crop_flip(images, seeding.generator(3))
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    seen = set()
    for image, canvas in zip(out, padded, strict=True):
        windows = {
            (down, right, flip): canvas[:, down : down + 6, right : right + 7].flip(2 if flip else ())
            for down in range(9)
            for right in range(9)
            for flip in (False, True)
        }
        hits = [key for key, window in windows.items() if torch.equal(window, image)]
        assert hits
        seen |= set(hits)
    assert {flip for *_, flip in seen} == {False, True}
    assert {down for down, *_ in seen} == set(range(9))


class Recorder(nn.Module):
    """Answers zeros and remembers the first pixel of what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.batches = []

    def forward(self, x):
        self.batches.append((x[:, 0, 0, 0] * 255).round().int().tolist())
        return self.weight * torch.zeros(len(x), 2)


def test_every_sample_is_visited_once_an_epoch_in_a_new_order():
    samples = Samples(torch.arange(50, dtype=torch.uint8).reshape(50, 1, 1, 1), torch.zeros(50, dtype=torch.int64))
    model = Recorder()
    positions = torch.arange(50)
    fit(
        model,
        [Pass(TrainingSet([Source(samples.images, samples.labels, positions)]))],
        Schedule(**OPTIONS),
        seeding.generator(0),
        NullProgress(),
    )
    assert [len(batch) for batch in model.batches] == [13, 13, 12, 12] * 3
    epochs = [list(itertools.chain(*model.batches[start : start + 4])) for start in (0, 4, 8)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def digits_run(progress, positions=None, **changed):
    _, samples = digits()
    positions = torch.from_numpy(train_positions()[:100]) if positions is None else positions
    return fit(
        seeding.seeded_model(small_network, 3),
        [Pass(TrainingSet([Source(samples.images, samples.labels, positions, "crop_flip")]))],
        Schedule(**OPTIONS | {"factor": cosine(3)} | changed),
        seeding.generator(4),
        progress,
    )


def test_equal_seeds_give_equal_bits():
    with seeding.deterministic():
        assert same(digits_run(NullProgress()), digits_run(NullProgress()))


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_run_equals_the_straight_one_bit_for_bit(stop_after):
    stopped = KeptProgress(stop_after)
    with pytest.raises(InterruptedError):
        digits_run(stopped)
    resumed = KeptProgress()
    resumed.states = [stopped.states[-1]]
    assert same(digits_run(resumed), digits_run(NullProgress()))
    assert len(resumed.states) == 1 + 3 - stop_after


def taught(progress, limit=10**6):
    """A pass towards a teacher's answers after one of cross-entropy, on a device that holds `limit` images at once."""
    samples, teacher = digits()[1], seeding.seeded_model(small_network, 9).eval()
    sizes = []

    def as_taught(forward, images, labels):
        sizes.append(len(images))
        if len(images) > limit:
            raise torch.OutOfMemoryError
        with torch.no_grad():
            answers = teacher(images)
        return nn.functional.mse_loss(forward(images), answers)

    first, second = (
        TrainingSet([Source(samples.images, samples.labels, torch.arange(*ends))]) for ends in ((0, 40), (40, 100))
    )
    model = seeding.seeded_model(small_network, 3)
    fit(model, [Pass(first), Pass(second, as_taught)], Schedule(**OPTIONS), seeding.generator(4), progress)
    return model, sizes


def test_a_pass_with_an_objective_of_its_own_is_resumed():
    stopped, resumed = KeptProgress(2), KeptProgress()
    with pytest.raises(InterruptedError):
        taught(stopped)
    resumed.states = [stopped.states[-1]]
    assert same(taught(resumed)[0], taught(NullProgress())[0])


def test_a_pass_with_an_objective_of_its_own_is_divided_where_memory_does_not_suffice():
    _, sizes = taught(NullProgress(), limit=5)
    assert sizes[:2] == [15, 8]  # what did not fit
    assert max(sizes[2:]) <= 5
    assert sum(sizes[2:]) == 3 * 60


def test_a_pass_may_be_part_of_the_first_epochs_only():
    first, second = (
        TrainingSet([Source(torch.full((8, 1, 1, 1), value), torch.zeros(8, dtype=torch.int64), torch.arange(8))])
        for value in (1.0, 0.0)
    )
    model = Recorder()
    fit(
        model,
        [Pass(first, epochs=2), Pass(second)],
        Schedule(**OPTIONS | {"epochs": 4}),
        seeding.generator(0),
        NullProgress(),
    )
    assert [batch[0] for batch in model.batches] == [255, 0, 255, 0, 0, 0]
    with pytest.raises(ValueError, match="no pass"):
        fit(model, [Pass(first, epochs=2)], Schedule(**OPTIONS | {"epochs": 4}), seeding.generator(0), NullProgress())


def test_a_finished_state_is_not_trained_further():
    done = KeptProgress()
    straight = digits_run(done)
    again = KeptProgress()
    again.states = [done.states[-1]]
    assert same(digits_run(again), straight)
    assert again.fractions == []


def test_progress_ends_at_one_and_never_falls():
    progress = KeptProgress()
    digits_run(progress)
    assert progress.fractions[-1] == 1
    assert progress.fractions == sorted(progress.fractions)


def test_a_loss_that_is_not_finite_stops_the_run_at_its_epoch():
    with pytest.raises(DivergedError) as caught:
        digits_run(NullProgress(), learning_rate=1e20)
    assert caught.value.epoch == 0


def test_weights_that_the_last_step_blew_up_stop_the_run_too():
    with pytest.raises(DivergedError, match="not finite"):
        digits_run(NullProgress(), epochs=1, batch_size=100, learning_rate=1e38)


@pytest.mark.parametrize("n", [1, 17])
def test_a_batch_of_one_leaves_batch_norm_statistics_alone(n):
    fresh = seeding.seeded_model(small_network, 3)
    model = digits_run(NullProgress(), positions=torch.arange(n), batch_size=1)
    assert torch.equal(model[1].running_mean, fresh[1].running_mean)
    assert not torch.equal(model[0].weight, fresh[0].weight)
    assert not model.training


def test_larger_batches_move_batch_norm_statistics():
    fresh = seeding.seeded_model(small_network, 3)
    assert not torch.equal(digits_run(NullProgress())[1].running_mean, fresh[1].running_mean)


def test_schedules():
    assert [steps(5)(done) for done in (0, 4.9, 5, 10)] == pytest.approx([1, 1, 0.1, 0.01])
    assert [cosine(10)(done) for done in (0, 5, 10)] == pytest.approx([1, 0.5, 0])


def test_the_recipe_learns_digits():
    raw, samples = digits()
    model = RECIPE.train(
        seeding.seeded_model(small_network, 1),
        samples,
        torch.from_numpy(train_positions()),
        seeding.generator(1),
        NullProgress(),
    )
    holdout = torch.from_numpy(raw.holdout)
    answers = evaluation.logits(model, samples.images)
    assert evaluation.accuracy(answers[holdout], samples.labels[holdout]) > 0.8


def test_logits_do_not_depend_on_batches_and_leave_modes_as_they_were():
    _, samples = digits()
    model = seeding.seeded_model(small_network, 1).train()
    model[1].eval()
    positions = torch.arange(30).flip(0)
    whole = evaluation.logits(model, samples.images, positions)
    parts = evaluation.logits(model, to_float(gather(samples.images, positions)), batch=7)
    assert torch.allclose(whole, parts, atol=1e-5)
    assert not whole.requires_grad
    assert model.training
    assert not model[1].training
    assert model[4].training


def test_frozen_weights_thaw_and_only_those_that_were_free():
    model = seeding.seeded_model(small_network, 1)
    model[0].weight.requires_grad_(False)
    with evaluation.frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()][:2] == [False, True]
