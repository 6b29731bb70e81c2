import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from app.catalog import MixUnlearnParams
from engine import seeding
from engine.data.samples import gather, to_float
from engine.errors import MethodError
from engine.methods.mixing import Generator, mixing_loss, pairs, real_loss
from engine.methods.mixunlearn import _draw, generator_loss, unlearner_loss, with_features
from tests.engine.cases import digits, original, small_network
from tests.engine.methods.cases import accuracy, confidence, loss, run, split

RATES = {"batch_size": 16, "pairing": "diagonal", "learning_rate": 0.01}
EQUAL = MixUnlearnParams(temperature_mix=3, temperature_generator=3, real_weight=0)


def drawn(params, n=6):
    whole = split()
    sets = [
        (to_float(gather(whole.samples.images, rows)), whole.samples.labels[rows])
        for rows in (whole.forget[:n], whole.remain[:n])
    ]
    return _draw(original(), *sets, params)


def a_generator(channels=16):
    return seeding.seeded_model(lambda: Generator(channels, 8, 4), 0)


def distributions(*shape):
    return torch.rand(*shape, 5, generator=seeding.generator(sum(shape))).softmax(-1)


def far(a, b):
    """1 - cos, from the formula."""
    return 1 - (a @ b).item() / math.sqrt((a @ a).item() * (b @ b).item())


# -- losses, against loops written from the formulas ------------------------------------------------


@pytest.mark.parametrize(("share", "tau"), [(0.3, 1.0), (0.9, 4.0), (0.0, 0.2)])
def test_the_mixing_loss_of_dense_pairs(share, tau):
    n, m = 4, 3
    blends, forget, remain = distributions(n, m), distributions(n), distributions(m)
    expected = 0.0
    for j in range(m):
        expected += sum((1 - share) * far(blends[i, j], remain[j]) for i in range(n)) / n
        expected -= math.log(sum(math.exp(share * far(blends[i, j], forget[i]) / tau) for i in range(n)))
    first, second = pairs(n, m, "dense", torch.device("cpu"))
    got = mixing_loss(blends.flatten(0, 1), forget[first], remain[second], share, tau, m)
    assert got.item() == pytest.approx(expected / m, abs=1e-5)


def test_the_mixing_loss_of_diagonal_pairs():
    blends, forget, remain = distributions(4), distributions(1, 4)[0], distributions(2, 4)[0]
    first, second = pairs(4, 4, "diagonal", torch.device("cpu"))
    expected = sum(0.4 * far(blends[k], remain[k]) for k in range(4)) / 4
    expected -= math.log(sum(math.exp(0.6 * far(blends[k], forget[k]) / 2) for k in range(4)))
    got = mixing_loss(blends, forget[first], remain[second], 0.6, 2.0, 1)
    assert got.item() == pytest.approx(expected, abs=1e-5)


def test_the_loss_on_real_samples():
    forget, forget_targets, remain, remain_targets = (distributions(k, 3)[0] for k in range(1, 5))
    expected = sum(far(remain[j], remain_targets[j]) for j in range(3)) / 3
    expected -= math.log(sum(math.exp(far(forget[i], forget_targets[i]) / 0.5) for i in range(3)))
    got = real_loss(forget, forget_targets, remain, remain_targets, 0.5)
    assert got.item() == pytest.approx(expected, abs=1e-5)


def test_small_temperatures_stay_finite():
    one = distributions(4)
    assert mixing_loss(one, distributions(1, 4)[0], one, 1.0, 1e-4, 1).isfinite()


# -- the generator ----------------------------------------------------------------------------------


def test_masks_keep_lambda_as_the_share_of_the_forget_sample():
    generator = a_generator()
    features = torch.rand(2, 5, 16, 8, 8, generator=seeding.generator(1))
    means = []
    for share in (0.0, 0.2, 0.5, 0.8, 1.0):
        mask = generator(*features, share, (8, 8))
        assert mask.shape == (5, 1, 8, 8)
        assert ((mask > 0) & (mask < 1)).all()
        means.append(mask.mean().item())
    assert means == pytest.approx([0, 0.2, 0.5, 0.8, 1], abs=0.03)
    mask = generator(*features, 0.5, (8, 8))
    assert (mask.flatten(1).std(1) > 0).all()


def test_blends_lie_between_their_two_images():
    params = MixUnlearnParams()
    batch = drawn(params, 3)
    blends = batch.blends(a_generator(), 0.5)
    first, second = pairs(3, 3, "dense", torch.device("cpu"))
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(i, j) for i in range(3) for j in range(3)]
    low = torch.minimum(batch.forget[first], batch.remain[second])
    high = torch.maximum(batch.forget[first], batch.remain[second])
    assert ((blends >= low - 1e-6) & (blends <= high + 1e-6)).all()


def test_early_features_are_those_of_the_convolution_asked_for():
    model, images = original(), torch.rand(2, 1, 8, 8)
    assert torch.equal(with_features(model, images, 1)[1], model[0](images))
    assert with_features(model, images, 3)[1].shape[1] == 32
    assert torch.equal(with_features(model, images, 1)[0], model(images))
    with pytest.raises(MethodError, match="3 convolutions"):
        with_features(model, images, 4)
    assert not model[0]._forward_hooks


# -- two players ------------------------------------------------------------------------------------


def test_the_two_players_have_opposite_gradients():
    """On the same blends, judged by the unlearner itself and with equal temperatures."""
    batch, generator, model = drawn(EQUAL), a_generator(), original()
    generator_loss(model, generator, batch, 0.4, EQUAL).backward()
    from_generator = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    unlearner_loss(model, generator, batch, 0.4, EQUAL).backward()
    for one, other in zip(from_generator, model.parameters(), strict=True):
        assert torch.allclose(one, -other.grad, rtol=1e-3, atol=1e-6)
    assert sum(parameter.grad.abs().sum() for parameter in model.parameters()) > 0.01


def test_each_players_step_moves_the_loss_its_own_way_and_only_itself():
    batch, generator, model = drawn(EQUAL), a_generator(), original()
    with torch.no_grad():
        start = unlearner_loss(model, generator, batch, 0.4, EQUAL)

    def stepped(player, value, rate):
        gradients = torch.autograd.grad(value, list(player.parameters()), allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(player.parameters(), gradients, strict=True):
                if gradient is not None:
                    parameter -= rate * gradient
            return unlearner_loss(model, generator, batch, 0.4, EQUAL)

    harder = stepped(generator, generator_loss(model, generator, batch, 0.4, EQUAL), 1.0)
    assert harder > start
    assert stepped(model, unlearner_loss(model, generator, batch, 0.4, EQUAL), 1e-3) < harder
    value = unlearner_loss(model, generator, batch, 0.4, EQUAL)
    assert torch.autograd.grad(value, list(model.parameters()))
    assert not any(blend.requires_grad for blend in [batch.forget, batch.remain])


def test_targets_are_labels_or_sharpened_predictions_of_the_model_as_it_was():
    aware, agnostic = drawn(MixUnlearnParams()), drawn(MixUnlearnParams(targets="predictions"))
    _, samples = digits()
    whole = split()
    assert torch.equal(aware.forget_targets.argmax(1), samples.labels[whole.forget[:6]])
    assert torch.equal(aware.remain_targets.sum(1), torch.ones(6))
    p = original()(agnostic.remain).softmax(1).detach() ** (1 / 0.3)
    assert torch.allclose(agnostic.remain_targets, p / p.sum(1, keepdim=True), atol=1e-5)


@pytest.mark.parametrize("targets", ["labels", "predictions"])
def test_mixunlearn_forgets_a_class_and_keeps_the_rest(targets):
    """The method's own protocol: the whole of class 0."""
    whole = split()
    train = torch.cat([whole.forget, whole.remain])
    is_zero = whole.samples.labels[train] == 0
    whole = replace(whole, forget=train[is_zero], remain=train[~is_zero])
    after = run("mixunlearn", whole, targets=targets, **RATES)
    zeros = whole.samples.labels[whole.holdout] == 0
    assert accuracy(after, whole, whole.forget) < 0.2
    assert accuracy(after, whole, whole.holdout[zeros]) < 0.2
    kept = whole.holdout[~zeros]
    assert accuracy(after, whole, kept) > accuracy(original(), whole, kept) - 0.06


def test_mixunlearn_lowers_confidence_most_on_a_random_forget_set():
    whole = split()
    after = run("mixunlearn", whole, **RATES)
    falls = [
        confidence(original(), whole, positions) - confidence(after, whole, positions)
        for positions in (whole.forget, whole.remain)
    ]
    assert falls[0] > falls[1]
    assert loss(after, whole, whole.forget) > loss(original(), whole, whole.forget)


def test_batch_norm_statistics_stay():
    before, after = original(), run("mixunlearn", split(), epochs=1, **RATES)
    for (name, one), (_, other) in zip(before.named_buffers(), after.named_buffers(), strict=True):
        assert torch.equal(one, other), name


def test_a_judge_that_follows_at_once_is_the_unlearner():
    """generator_ema 0 and 0.999 differ only through the generator."""
    whole = split()
    runs = [run("mixunlearn", whole, generator_ema=decay, epochs=1, **RATES) for decay in (0, 0.999)]
    assert not torch.equal(runs[0][0].weight, runs[1][0].weight)


def test_a_model_without_so_many_convolutions_is_refused():
    assert sum(isinstance(module, nn.Conv2d) for module in small_network().modules()) == 3
    with pytest.raises(MethodError, match="feature_layer"):
        run("mixunlearn", split(), feature_layer=9)
