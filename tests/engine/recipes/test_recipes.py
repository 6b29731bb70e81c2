"""Recipes: what each computes, and what all of them owe."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from app import catalog
from app.catalog import SgdRecipe, TradesRecipe
from engine import evaluation, places, seeding
from engine.architectures import vit
from engine.audits.robust import robust_accuracy
from engine.errors import DivergedError
from engine.evaluation import eval_mode
from engine.methods import clean
from engine.recipes import Recipe
from engine.recipes import spectral_clipping as clipping
from engine.recipes.trades import divergence, trades, worst
from engine.training import NullProgress, forward_of, triangular
from tests.engine.cases import KeptProgress, digits, same, small_network, train_positions
from tests.engine.methods.cases import context, split


def recipe(name, **changed):
    return Recipe(
        places.recipe(name), catalog.parse("recipes", name, {**catalog.RECIPES[name].example, "epochs": 3, **changed})
    )


def trained(chosen, progress=None, positions=None, build=small_network):
    positions = torch.from_numpy(train_positions()[:150]) if positions is None else positions
    return chosen.train(
        seeding.seeded_model(build, 3),
        digits()[1],
        positions,
        seeding.generator(4),
        progress or NullProgress(),
    )


# -- what every recipe owes ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in catalog.RECIPES if name != "linear_probe"])
def test_methods_augment_and_compute_as_the_recipe_did(name):
    chosen = recipe(name, augment="crop_flip", precision="bfloat16")
    assert clean(split(4), torch.arange(4), context(chosen)).augment == "crop_flip"
    assert chosen.precision == "bfloat16"


@pytest.mark.parametrize("name", catalog.RECIPES)
@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_recipe_equals_the_straight_run_bit_for_bit(name, stop_after):
    with seeding.deterministic():
        stopped = KeptProgress(stop_after)
        with pytest.raises(InterruptedError):
            trained(recipe(name), stopped)
        resumed = KeptProgress()
        resumed.states = [stopped.states[-1]]
        again = trained(recipe(name), resumed)
        assert len(resumed.states) == 1 + 3 - stop_after
        assert same(again, trained(recipe(name)))
    assert not again.training


def dropping():
    return vit.build(catalog.VitParams(width=16, depth=1, heads=2, dropout=0.4), 1, 10, (8, 8))


@pytest.mark.parametrize("name", catalog.RECIPES)
def test_dropout_is_drawn_from_the_seed_also_after_a_resume(name):
    torch.manual_seed(1)
    straight = trained(recipe(name), build=dropping)
    torch.manual_seed(2)
    expected = torch.rand(2)
    torch.manual_seed(2)
    stopped = KeptProgress(1)
    with pytest.raises(InterruptedError):
        trained(recipe(name), stopped, build=dropping)
    resumed = KeptProgress()
    resumed.states = [stopped.states[-1]]
    assert same(trained(recipe(name), resumed, build=dropping), straight)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("name", catalog.RECIPES)
def test_a_rate_that_blows_the_weights_up_stops_with_a_reason(name):
    wild = {"learning_rate": 10, "weight_decay": 0.99, "epochs": 40, "batch_size": 8}
    with pytest.raises(DivergedError, match="diverged: epoch"):
        trained(recipe(name, **wild))


@pytest.mark.parametrize("name", catalog.RECIPES)
@pytest.mark.parametrize("n", [1, 2, 33])
def test_tiny_sets_and_a_last_batch_of_one(name, n):
    model = trained(recipe(name, batch_size=32), positions=torch.arange(n))
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@pytest.mark.parametrize("name", [name for name in catalog.RECIPES if name != "linear_probe"])
def test_every_recipe_learns_digits(name):
    raw, samples = digits()
    short = {"epochs": 8} | ({"steps": 3, "epsilon": 0.02, "step": 0.01, "step_every": 7} if name == "trades" else {})
    short |= {"augment": "none"}
    model = trained(recipe(name, **short), positions=torch.from_numpy(train_positions()))
    holdout = torch.from_numpy(raw.holdout)
    answers = evaluation.logits(model, samples.images)
    assert evaluation.accuracy(answers[holdout], samples.labels[holdout]) > 0.75


def test_a_recipe_without_the_new_field_keeps_its_name_in_a_pool():
    """Pools of references are found by this text."""
    assert SgdRecipe(epochs=15).model_dump_json() == (
        '{"epochs":15,"learning_rate":0.1,"batch_size":64,"momentum":0.9,"weight_decay":0.0005,'
        '"schedule":"cosine","step_every":40,"augment":"none"}'
    )
    assert '"precision":"bfloat16"' in SgdRecipe(precision="bfloat16").model_dump_json()


def test_bfloat16_trains_float32_weights_to_the_same_accuracy():
    raw, samples = digits()
    holdout, everything = torch.from_numpy(raw.holdout), torch.from_numpy(train_positions())
    models = [
        trained(recipe("sgd", epochs=10, precision=each), positions=everything) for each in ("float32", "bfloat16")
    ]
    assert not same(*models)
    assert {tensor.dtype for tensor in models[1].parameters()} == {torch.float32}
    full, low = (
        evaluation.accuracy(evaluation.logits(model, samples.images)[holdout], samples.labels[holdout])
        for model in models
    )
    assert abs(full - low) < 0.05


def test_the_triangular_schedule_rises_to_its_peak_and_falls_to_zero():
    schedule = triangular(10, 2.5)
    assert [schedule(done) for done in (0, 1.25, 2.5, 6.25, 10)] == pytest.approx([0, 0.5, 1, 0.5, 0])


# -- TRADES ----------------------------------------------------------------------------------------


def images_and_labels(n=12):
    samples = digits()[1]
    return samples.images[:n].float() / 255, samples.labels[:n]


def test_the_divergence_is_the_mean_of_the_definition_and_pulls_both_sides():
    clean = torch.randn(5, 4, generator=seeding.generator(0), dtype=torch.float64, requires_grad=True)
    other = torch.randn(5, 4, generator=seeding.generator(1), dtype=torch.float64, requires_grad=True)
    p, q = clean.softmax(1), other.softmax(1)
    value = divergence(clean, other)
    assert torch.allclose(value, (p * (p / q).log()).sum(1).mean())
    value.backward()
    assert torch.allclose(other.grad, (q - p).detach() / 5)
    assert clean.grad.abs().max() > 1e-3
    assert torch.autograd.gradcheck(lambda c: divergence(c, other.detach()), clean)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_worst_image_is_in_reach_and_worse_than_noise(norm):
    params = TradesRecipe(norm=norm, epsilon=0.3, step=0.1, steps=7)
    images, _ = images_and_labels()
    model = seeding.seeded_model(small_network, 1).train()
    near = worst(model, forward_of(model, torch.device("cpu"), "float32"), images, params, seeding.generator(5))
    far = (near - images).flatten(1)
    reach = far.abs().amax(1) if norm == "linf" else far.norm(dim=1)
    assert (reach <= 0.3 + 1e-5).all()
    assert (reach > 0.2).any()
    assert near.min() >= 0
    assert near.max() <= 1
    with eval_mode(model), torch.no_grad():
        noise = torch.randn(images.shape, generator=seeding.generator(6)).sign()
        noise = noise * (0.3 if norm == "linf" else 0.3 / 8)  # of 64 pixels
        assert divergence(model(images), model(near)) > 2 * divergence(
            model(images), model((images + noise).clamp(0, 1))
        )


def test_the_search_is_in_eval_mode_and_leaves_the_model_as_it_was():
    images, _ = images_and_labels()
    model = seeding.seeded_model(small_network, 1).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = []
    model.register_forward_hook(lambda module, *_: modes.append(module.training))
    worst(model, model, images, TradesRecipe(steps=2), seeding.generator(5))
    assert modes == [False] * 3
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_gradient_of_exactly_zero_moves_nothing_beyond_the_noise():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([3.0, 1.0, 2.0]) + 0 * x.sum((1, 2, 3))[:, None]

    images, _ = images_and_labels()
    for norm in ("linf", "l2"):
        near = worst(Constant(), Constant(), images, TradesRecipe(norm=norm, steps=3), seeding.generator(0))
        assert torch.isfinite(near).all()
        assert (near - images).abs().max() < 0.01


def test_one_step_of_trades_is_sgd_on_cross_entropy_plus_beta_kl():
    """The whole set in one batch, one epoch: the weights move along the gradient of the loss as written."""
    positions = torch.arange(20)
    params = TradesRecipe(epochs=1, steps=3, weight_decay=0, momentum=0, learning_rate=0.05, augment="none", beta=2.5)
    after = trained(Recipe(trades, params), positions=positions)
    model = seeding.seeded_model(small_network, 3).train()
    generator = seeding.generator(4)
    order = torch.randperm(20, generator=generator)
    images, labels = digits()[1].images[order].float() / 255, digits()[1].labels[order]
    near = worst(model, model, images, params, generator)
    clean, other = model(images), model(near)
    p, q = clean.softmax(1), other.softmax(1)
    (functional.cross_entropy(clean, labels) + 2.5 * (p * (p / q).log()).sum(1).mean()).backward()
    for moved, parameter in zip(after.parameters(), model.parameters(), strict=True):
        assert torch.allclose(moved, parameter - 0.05 * parameter.grad, atol=1e-6)


def test_trades_is_more_robust_than_plain_training():
    raw, samples = digits()
    holdout = torch.from_numpy(raw.holdout.nonzero()[0])
    everything = torch.from_numpy(train_positions())
    plain = trained(recipe("sgd", epochs=8), positions=everything)
    robust = trained(
        recipe("trades", epochs=8, step_every=7, steps=5, epsilon=0.1, step=0.04, augment="none"), positions=everything
    )
    params = catalog.RobustParams(epsilon=0.5)
    assert robust_accuracy(robust, samples, holdout, params) > robust_accuracy(plain, samples, holdout, params) + 0.1


# -- clipping --------------------------------------------------------------------------------------

LAYERS = {
    "padded": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 6, 5)),
    "strided": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1), (2, 7, 7)),
    "unpadded": (lambda: nn.Conv2d(3, 2, (3, 2)), (3, 5, 6)),
    "dilated": (lambda: nn.Conv2d(2, 2, 3, dilation=2, padding=2), (2, 6, 6)),
    "grouped": (lambda: nn.Conv2d(4, 4, 3, groups=2, padding=1, bias=False), (4, 5, 5)),
    "one by one": (lambda: nn.Conv2d(3, 5, 1, stride=2), (3, 5, 5)),
    "linear": (lambda: nn.Linear(12, 7), (12,)),
}


def layer_of(kind):
    make, shape = LAYERS[kind]
    return seeding.seeded_model(make, 1).double(), shape


def matrix(layer, shape):
    """The layer without its bias as an explicit matrix (outputs, inputs)."""
    size = torch.Size(shape).numel()
    apply = clipping.operator(layer)
    return apply(torch.eye(size, dtype=torch.float64).reshape(size, *shape), layer.weight.detach()).flatten(1).T


def orthonormal(count, shape):
    vectors = torch.randn(count, *shape, generator=seeding.generator(0), dtype=torch.float64)
    return torch.linalg.qr(vectors.flatten(1).T)[0].T.reshape(count, *shape)


def converged(layer, shape, count=1, rounds=2000):
    vectors, apply = orthonormal(min(count, torch.Size(shape).numel()), shape), clipping.operator(layer)
    for _ in range(rounds):
        vectors, norms = clipping.iterate(apply, layer.weight.detach(), vectors)
    return vectors, norms


def exact_norm(layer, shape):
    return torch.linalg.matrix_norm(matrix(layer, shape), 2).item()


@pytest.mark.parametrize("kind", LAYERS)
def test_the_operator_is_the_layer_without_its_bias(kind):
    layer, shape = layer_of(kind)
    inputs = torch.randn(3, *shape, generator=seeding.generator(1), dtype=torch.float64)
    own = layer.forward  # without hooks: the shapes that clipping sees are those behind them
    assert torch.allclose(clipping.operator(layer)(inputs, layer.weight), own(inputs) - own(torch.zeros_like(inputs)))


@pytest.mark.parametrize("kind", LAYERS)
def test_the_norm_equals_that_of_the_explicit_matrix(kind):
    layer, shape = layer_of(kind)
    _, norms = converged(layer, shape)
    assert norms.item() == pytest.approx(exact_norm(layer, shape), rel=1e-4)


@pytest.mark.parametrize("kind", LAYERS)
def test_one_vector_from_nowhere_finds_the_norm_within_a_few_percent(kind):
    layer, shape = layer_of(kind)
    _, norms = converged(layer, shape, count=1, rounds=clipping.ITERATIONS)
    assert norms.item() == pytest.approx(exact_norm(layer, shape), rel=0.05)


def test_several_vectors_yield_the_largest_singular_values_in_order():
    layer, shape = layer_of("strided")
    _, norms = converged(layer, shape, count=6)
    assert torch.allclose(norms[:3], torch.linalg.svdvals(matrix(layer, shape))[:3], rtol=1e-3)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_clips_bring_the_explicit_norm_to_the_bound_and_go_no_further(kind, share):
    layer, shape = layer_of(kind)
    bound = share * exact_norm(layer, shape)
    layers = clipping.Layers(nn.Sequential(layer), shape, seeding.generator(0))
    while layers.clip(bound, 5, slack=1.005):
        for _ in range(clipping.ITERATIONS):
            layers.iterate()
    assert 0.999 * bound <= exact_norm(layer, shape) <= 1.06 * bound


def test_a_gradient_step_of_fixed_length_would_diverge_on_a_smooth_vector():
    layer = seeding.seeded_model(lambda: nn.Conv2d(1, 1, 3, padding=1), 0).double()
    with torch.no_grad():
        layer.weight.fill_(1.0)
    vector = torch.full((1, 1, 16, 16), 1 / 16, dtype=torch.float64)
    apply = clipping.operator(layer)
    start = apply(vector, layer.weight.detach())
    curvature = torch.autograd.functional.hessian(lambda w: apply(vector, w).square().sum() / 2, layer.weight.detach())
    assert 0.35 * torch.linalg.eigvalsh(curvature.reshape(9, 9)).max() > 2
    clipping.clip(apply, layer.weight, vector, 1.0, 5)
    after = apply(vector, layer.weight.detach())
    assert torch.allclose(after, start / start.norm(), atol=0.01)


def test_one_gradient_step_clips_a_matrix_exactly_along_its_vector():
    layer, shape = layer_of("linear")
    vectors, norms = converged(layer, shape)
    v, before = vectors[0], layer.weight.detach().clone()
    clipping.clip(clipping.operator(layer), layer.weight, v[None], norms[0].item() / 3, 1)
    assert torch.allclose(layer.weight, before - 2 / 3 * torch.outer(before @ v, v))


def test_layers_under_the_bound_stay():
    model = seeding.seeded_model(small_network, 1)
    before = [tensor.clone() for tensor in model.parameters()]
    layers = clipping.Layers(model, (1, 8, 8), seeding.generator(0))
    assert not layers.clip(1000.0, 5)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert layers.clip(0.1, 5)


def test_inputs_are_those_of_each_layer_in_the_network():
    found = clipping.inputs_of(seeding.seeded_model(small_network, 1), (1, 8, 8))
    assert [shape for _, shape in found] == [(1, 8, 8), (16, 4, 4), (32, 2, 2), (32,)]


def test_after_the_recipe_no_layer_exceeds_the_bound():
    chosen = recipe("spectral_clipping", bound=0.8, epochs=4)
    model = trained(chosen, positions=torch.from_numpy(train_positions()))
    for layer, shape in clipping.inputs_of(model, (1, 8, 8)):
        assert exact_norm(layer.double(), shape) <= 0.8 * 1.06
