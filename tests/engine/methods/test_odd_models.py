"""Methods and attacks on models without BatchNorm, with dropout, and with gradients of exactly zero."""

from functools import cache

import pytest
import torch
from torch import nn

from app import catalog
from engine import evaluation, places, seeding
from engine.architectures import vit
from engine.attacks.pgd_l2 import pgd_l2
from engine.data.samples import gather, to_float
from engine.methods import MethodContext
from engine.recipes import Recipe
from engine.recipes.sgd import fast, sgd
from engine.training import NullProgress
from tests.engine.cases import digits, same, train_positions
from tests.engine.methods.cases import split

ATTACKS = [name for name, entry in catalog.ATTACKS.items() if not entry.needs_given]


def transformer():
    """No BatchNorm at all, and dropout."""
    return vit.build(catalog.VitParams(width=16, depth=1, heads=2, dropout=0.3), 1, 10, (8, 8))


class Dead(nn.Module):
    """A convolution whose ReLU never opens: the logits are the last bias, and no gradient passes below it."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(4, 10)
        with torch.no_grad():
            self.convolution.bias.fill_(-1e3)

    def forward(self, x):
        return self.head(torch.relu(self.convolution(x)).mean((2, 3)))


BUILDS = {"transformer": transformer, "dead": Dead}


@cache
def trained_state(kind):
    model = seeding.seeded_model(BUILDS[kind], 1)
    if kind == "transformer":
        recipe = Recipe(sgd, catalog.SgdRecipe(epochs=4, learning_rate=0.05))
        positions = torch.from_numpy(train_positions())
        recipe.train(model, digits()[1], positions, seeding.generator(1), NullProgress())
    return model.state_dict()


def model_of(kind):
    model = seeding.seeded_model(BUILDS[kind], 0)
    model.load_state_dict(trained_state(kind))
    return model.eval()


def adversarial_for(name, kind, whole):
    if not catalog.METHODS[name].needs_adversarial:
        return None
    images = to_float(gather(whole.samples.images, whole.forget))
    result = pgd_l2(model_of(kind), images, whole.samples.labels[whole.forget], catalog.PgdL2Params(steps=5))
    assert result.found.any()
    return result


def run(name, kind, whole, adversarial, model=None):
    own = MethodContext(
        seeding.generator(11),
        NullProgress(),
        Recipe(sgd, catalog.SgdRecipe(epochs=1)),
        lambda: seeding.seeded_model(BUILDS[kind], 12),
    )
    params = catalog.parse("methods", name, catalog.METHODS[name].example)
    return places.method(name)(model or model_of(kind), whole, params, adversarial, own)


@pytest.mark.parametrize("kind", BUILDS)
@pytest.mark.parametrize("name", catalog.METHODS)
def test_every_method_ends_in_eval_mode_finite_and_the_same_whatever_the_global_seed(name, kind):
    whole = split(40)
    adversarial = adversarial_for(name, kind, whole)
    torch.manual_seed(1)
    first = run(name, kind, whole, adversarial)
    torch.manual_seed(2)
    second = run(name, kind, whole, adversarial)
    assert same(first, second)
    assert not any(module.training for module in first.modules())
    assert all(tensor.isfinite().all() for tensor in first.state_dict().values())
    assert not same(first, model_of(kind))


@pytest.mark.parametrize("name", catalog.METHODS)
def test_dropout_drops_while_a_method_trains_and_not_where_it_measures(name):
    """Methods that go through the training loop train with dropout; the others, and every measurement, without."""
    whole, seen = split(40), set()
    model = model_of("transformer")
    dropout = next(module for module in model.modules() if isinstance(module, nn.Dropout))
    dropout.register_forward_hook(lambda module, inputs, _: seen.add((module.training, inputs[0].requires_grad)))
    run(name, "transformer", whole, adversarial_for(name, "transformer", whole), model)
    if name == "retrain":
        assert not seen
    elif name in ("mixunlearn", "certified_newton"):
        assert {training for training, _ in seen} == {False}
    else:
        assert (True, True) in seen
        assert (True, False) not in seen


@pytest.mark.parametrize("kind", BUILDS)
@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("n", [1, 2, 33])
def test_attacks_on_sets_of_one_and_on_a_last_batch_of_one(name, kind, n):
    samples = digits()[1]
    images, labels = to_float(samples.images[:n]), samples.labels[:n]
    model = model_of(kind)
    params = catalog.parse("attacks", name, {"batch_size": 32})
    result = places.attack(name)(model, images, labels, params)
    said = evaluation.logits(model, result.images).argmax(1)
    assert torch.equal(result.found, said != labels)
    assert result.images.isfinite().all()
    assert torch.equal(result.images[~result.found], images[~result.found])
    if kind == "dead":
        assert torch.equal(result.images, images)


def test_a_method_computes_in_the_precision_of_the_recipe():
    seen = []
    model = model_of("dead")
    model.convolution.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    own = MethodContext(seeding.generator(1), NullProgress(), Recipe(fast, catalog.FastRecipe()), Dead)
    places.method("fine_tune")(model, split(40), catalog.FineTuneParams(epochs=1), None, own)
    assert set(seen) == {torch.bfloat16}
    assert model.convolution.weight.dtype == torch.float32
