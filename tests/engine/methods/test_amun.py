from dataclasses import replace

import pytest
import torch
from torch import nn

from app.catalog import AmunParams, RetrainParams, SgdRecipe
from engine.attacks import AttackResult
from engine.data.samples import Samples, Split, to_float
from engine.errors import MethodError
from engine.methods.amun import amun
from engine.methods.retrain import retrain
from engine.recipes import Recipe
from engine.recipes.sgd import sgd
from tests.engine.cases import original, same, small_network
from tests.engine.methods.cases import accuracy, attacked, confidence, context, split, without_remain

AMUN = AmunParams(epochs=10, learning_rate=0.1, batch_size=64, decay_every=5)
AMUN_ALONE = AmunParams(epochs=10, learning_rate=0.01, batch_size=64)


@pytest.mark.parametrize("remain", [True, False])
def test_amun_lowers_confidence_on_the_forget_set_and_keeps_test_accuracy(remain):
    whole = split()
    given = whole if remain else without_remain(whole)
    before = original()
    after = amun(original(), given, AMUN if remain else AMUN_ALONE, attacked(whole), context())
    falls = [
        confidence(before, whole, positions) - confidence(after, whole, positions)
        for positions in (whole.forget, whole.remain, whole.holdout)
    ]
    assert falls[0] > 1.5
    assert max(falls[1:]) < falls[0] / 2
    assert accuracy(after, whole, whole.holdout) > accuracy(before, whole, whole.holdout) - 0.03


class Recorder(nn.Module):
    """Remembers the images and lets every sample tell who it is: the first pixel is its position / 255."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, x):
        self.seen += (x[:, 0, 0, 0] * 255).round().int().tolist()
        return self.weight + torch.zeros(len(x), 300)


def recorded(method_params, remain, augment="none"):
    """What one epoch of AMUN shows a model: remain 0..19, forget 20..29, their adversarial images 120..129."""
    images = torch.arange(40, dtype=torch.uint8).reshape(40, 1, 1, 1).expand(40, 1, 3, 3)
    samples = Samples(images, torch.zeros(40, dtype=torch.int64))
    found = torch.arange(10) != 3
    adversarial = AttackResult(
        to_float((100 + torch.arange(20, 30)).to(torch.uint8).reshape(10, 1, 1, 1).expand(10, 1, 3, 3)),
        torch.ones(10, dtype=torch.int64),
        found,
        torch.zeros(10),
        torch.zeros(10, dtype=torch.int32),
        torch.zeros(10),
    )
    model = Recorder()
    sets = torch.arange(20, 30), torch.arange(20 if remain else 0), torch.arange(30, 40)
    params = AmunParams(epochs=1, fine_tuning_set=method_params)
    recipe = Recipe(sgd, SgdRecipe(augment=augment))
    amun(model, Split(samples, *sets), params, adversarial, context(recipe))
    return sorted(model.seen)


FOUND = [120, 121, 122, *range(124, 130)]


@pytest.mark.parametrize(
    ("fine_tuning_set", "remain", "expected"),
    [
        ("forget_and_adversarial", True, [*range(30), *FOUND]),
        ("adversarial_only", True, [*range(20), *FOUND]),
        ("forget_and_adversarial", False, [*range(20, 30), *FOUND]),
        ("adversarial_only", False, FOUND),
    ],
)
def test_the_four_fine_tuning_sets(fine_tuning_set, remain, expected):
    assert recorded(fine_tuning_set, remain) == expected


def test_adversarial_images_are_never_augmented():
    seen = recorded("forget_and_adversarial", True, "crop_flip")
    assert [pixel for pixel in seen if pixel >= 100] == FOUND
    assert seen != [*range(30), *FOUND]


@pytest.mark.parametrize("found", [None, torch.zeros(90, dtype=torch.bool)])
def test_amun_without_any_adversarial_example_says_so(found):
    whole = split()
    result = None if found is None else replace(attacked(whole), found=found)
    with pytest.raises(MethodError, match="adversarial"):
        amun(original(), whole, AMUN, result, context())


def test_retraining_starts_afresh_and_never_sees_the_forget_set():
    whole = split()
    images = whole.samples.images.clone()
    images[whole.forget] = 255 - images[whole.forget]
    altered = replace(whole, samples=Samples(images, whole.samples.labels))
    models = [
        retrain(model, each, RetrainParams(), None, context())
        for model, each in ((original(), whole), (small_network(), altered))
    ]
    assert same(*models)
    assert accuracy(models[0], whole, whole.remain) > accuracy(models[0], whole, whole.forget)


def test_retraining_without_remain_set_says_so():
    with pytest.raises(MethodError, match="remain"):
        retrain(original(), without_remain(split()), RetrainParams(), None, context())
