"""Whether a network does here what it did for its owner, and what explains a difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from app.formats.input_contract import InputContract
from app.formats.torchvision_weights import IMAGENET_MEAN, IMAGENET_STD
from engine import agreement, evaluation
from engine.agreement import Stated, compare
from engine.architectures import inputs

OWN = InputContract(mean=IMAGENET_MEAN, std=IMAGENET_STD)
IMAGES = torch.randint(0, 256, (64, 3, 8, 8), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def build(contract: InputContract) -> nn.Module:
    torch.manual_seed(3)
    layers = nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 5)
    return inputs.attach(nn.Sequential(*layers), contract, 3)


def theirs(images: torch.Tensor = IMAGES) -> np.ndarray:
    return evaluation.logits(build(OWN), images).numpy()


LABELS = theirs().argmax(axis=1)


def test_accuracies_agree_within_the_tolerance():
    logits = theirs()
    labels = LABELS.copy()
    labels[:6] = (labels[:6] + 1) % 5
    accuracy = 58 / 64
    assert compare(logits, labels, Stated(accuracy=round(accuracy, 3))).agrees
    assert compare(logits, labels, Stated(accuracy=0.9, tolerance=0.01)).agrees
    found = compare(logits, labels, Stated(accuracy=0.324))
    assert not found.agrees
    assert "accuracy of 32.4 % on these 64 samples, and it is 90.6 % here" in found.sentence
    assert "differ by 0.5 points" in found.sentence


def test_logits_agree_within_the_tolerance():
    logits = theirs()
    assert compare(logits, LABELS, Stated(logits=logits + 0.009)).agrees
    found = compare(logits, LABELS, Stated(logits=logits + 0.02))
    assert not found.agrees
    assert "differ from yours by up to 0.02" in found.sentence
    assert "64 of 64 samples have the same class" in found.sentence


@pytest.mark.parametrize("stated", [Stated(accuracy=1.0), Stated(logits=theirs())])
@pytest.mark.parametrize(
    ("contract", "cause"),
    [
        (InputContract(), "ImageNet's mean and standard deviation"),
        (InputContract(mean=(0.5,), std=(0.5,)), "ImageNet's mean and standard deviation"),
    ],
)
def test_a_contract_without_their_normalisation_is_named(contract, cause, stated):
    assert not compare(evaluation.logits(build(contract), IMAGES).numpy(), LABELS, stated).agrees
    found = agreement.causes(build, contract, IMAGES, LABELS, stated)
    assert cause in found[0]
    assert ("accuracy is 100.0 %" if stated.logits is None else "differ by 0") in found[0]


def test_other_channels_and_other_orders_of_classes_are_named():
    flipped = IMAGES.flip(1)
    found = agreement.causes(build, OWN, flipped, LABELS, Stated(logits=theirs()))
    assert "`input.channel_order` should say bgr: then the logits differ by 0" in found[0]
    order = [3, 0, 1, 4, 2]
    labels = np.argsort(order)[LABELS]
    found = agreement.causes(build, OWN, IMAGES, labels, Stated(accuracy=1.0))
    assert "another order than the dataset's labels" in found[0]


def test_where_nothing_explains_it_the_usual_causes_are_named():
    logits = np.random.default_rng(0).normal(size=(64, 5)) * 50
    found = agreement.causes(build, OWN, IMAGES, LABELS, Stated(logits=logits))
    assert "resize or crop" in found[0]


def test_chance():
    labels = np.repeat(np.arange(10), 50)
    assert "no better than chance (10.0 %)" in str(agreement.no_better_than_chance(0.102, labels))
    assert agreement.no_better_than_chance(0.2, labels) is None
    assert agreement.no_better_than_chance(0.92, np.array([0] * 95 + [1] * 5)) is not None, "always the commonest class"
