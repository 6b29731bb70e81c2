"""Does a network do here what it did for its owner? What is measured, and the likeliest causes where it differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from app.formats.input_contract import InputContract
from app.formats.torchvision_weights import IMAGENET_MEAN, IMAGENET_STD
from engine import evaluation
from engine.data.samples import to_float

ACCURACY_TOLERANCE = 0.005
LOGITS_TOLERANCE = 0.01
MOST_TRIED = 512
"""Images on which causes are tried: the figures of causes are about these alone."""
MOST_CAUSES = 3

Build = Callable[[InputContract], nn.Module]
"""The network of a checkpoint under another contract, on the device of the images."""


@dataclass(frozen=True)
class Stated:
    """What the owner measured: the accuracy, or logits (n, classes) in the dataset's order of classes.

    tolerance: largest difference that is agreement, of the accuracy or of any logit; None: the default of each.
    """

    accuracy: float | None = None
    logits: NDArray[Any] | None = None
    tolerance: float | None = None

    @property
    def empty(self) -> bool:
        return self.accuracy is None and self.logits is None

    def part(self, rows: NDArray[np.int64]) -> Stated:
        """The same of these rows."""
        return self if self.logits is None else replace(self, logits=self.logits[rows])

    @property
    def allowed(self) -> float:
        default = ACCURACY_TOLERANCE if self.logits is None else LOGITS_TOLERANCE
        return default if self.tolerance is None else self.tolerance


@dataclass(frozen=True)
class Measured:
    """difference: of the accuracies, or the largest of a logit. sentence: both figures, in words."""

    difference: float
    agrees: bool
    accuracy: float
    sentence: str


def compare(logits: NDArray[Any], labels: NDArray[np.int64], stated: Stated) -> Measured:
    """`logits` (n, classes) and `labels` (n,) of the samples that were measured, against what was stated of them."""
    n, predicted = len(labels), logits.argmax(axis=1)
    accuracy = float((predicted == labels).mean())
    if stated.logits is None:
        theirs = stated.accuracy or 0.0
        difference = abs(accuracy - theirs)
        sentence = (
            f"you measured an accuracy of {percent(theirs)} on these {n} samples, and it is {percent(accuracy)} here; "
            f"they may differ by {100 * stated.allowed:g} points"
        )
    else:
        difference = float(np.abs(logits - stated.logits).max())
        same = int((predicted == stated.logits.argmax(axis=1)).sum())
        sentence = (
            f"the logits of these {n} samples differ from yours by up to {difference:.3g}, and may differ by "
            f"{stated.allowed:g}; {same} of {n} samples have the same class"
        )
    # An accuracy that was written down with few digits is still the same one.
    return Measured(difference, difference <= stated.allowed + 1e-9, accuracy, sentence)


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def tried(n: int) -> NDArray[np.int64]:
    """Which of `n` samples causes are tried on: spread evenly, since a dataset may be in the order of its classes."""
    return np.unique(np.linspace(0, n - 1, min(n, MOST_TRIED)).astype(np.int64))


def causes(
    build: Build, contract: InputContract, images: Tensor, labels: NDArray[np.int64], stated: Stated
) -> list[str]:
    """What explains a disagreement, tried on `images` (n, C, H, W): the changes that come nearest, nearest first."""
    own = _logits(build(contract), images)
    before = compare(own, labels, stated)
    found = [(each.difference, text, each) for text, each in _tried(build, contract, images, labels, stated, own)]
    better = sorted((item for item in found if item[0] < 0.5 * before.difference), key=lambda item: item[0])
    said = [
        f"{text}: then {'the accuracy is ' + percent(each.accuracy) if stated.logits is None else _logit(each)}"
        for _, text, each in better[:MOST_CAUSES]
    ]
    return said or [
        "another resize or crop than `input.geometry` says",
        "a holdout or ids other than those you measured",
        "other weights, or weights of another training",
    ]


def _logit(each: Measured) -> str:
    return f"the logits differ by {each.difference:.2g}"


def _tried(
    build: Build,
    contract: InputContract,
    images: Tensor,
    labels: NDArray[np.int64],
    stated: Stated,
    own: NDArray[np.float32],
) -> Iterator[tuple[str, Measured]]:
    coloured = contract.channels_of(images.shape[1]) == 3
    for what, mean, std in [
        ("no normalisation (mean 0, std 1)", None, None),
        ("ImageNet's mean and standard deviation", IMAGENET_MEAN, IMAGENET_STD),
        ("mean 0.5 and standard deviation 0.5", (0.5,), (0.5,)),
        ("pixels of 0 to 255 (std 1/255)", None, (1 / 255,)),
    ]:
        changed = contract.model_copy(update={"mean": mean, "std": std})
        if (mean is None or len(mean) == 1 or coloured) and changed != contract:
            text = f"`input.mean` and `input.std` should say {what}"
            yield text, compare(_logits(build(changed), images), labels, stated)
    if images.shape[1] == 3:
        other: Literal["rgb", "bgr"] = "rgb" if contract.channel_order == "bgr" else "bgr"
        changed = contract.model_copy(update={"channel_order": other})
        yield f"`input.channel_order` should say {other}", compare(_logits(build(changed), images), labels, stated)
    if (order := _order(own, labels, stated)) is not None:
        yield (
            "the network's outputs are in another order than the dataset's labels (`input.class_names`)",
            compare(own[:, order], labels, stated),
        )


def _order(logits: NDArray[np.float32], labels: NDArray[np.int64], stated: Stated) -> NDArray[np.int64] | None:
    """By label the output that mostly stands for it; None where there is no such order."""
    from scipy.optimize import linear_sum_assignment

    classes = logits.shape[1]
    theirs = labels if stated.logits is None else stated.logits.argmax(axis=1)
    together = np.zeros((classes, classes))
    np.add.at(together, (theirs, logits.argmax(axis=1)), 1)
    order: NDArray[np.int64] = linear_sum_assignment(-together)[1].astype(np.int64)
    return None if np.array_equal(order, np.arange(classes)) else order


def _logits(network: nn.Module, images: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = evaluation.logits(network, to_float(images)).cpu().numpy()
    return found


def no_better_than_chance(accuracy: float, labels: NDArray[np.int64]) -> str | None:
    """A warning where an accuracy on samples of `labels` (n,) is not above that of always saying the commonest class,
    by two standard errors; else None."""
    n = len(labels)
    chance = float(np.bincount(labels).max() / n)
    if accuracy > chance + 2 * sqrt(chance * (1 - chance) / n):
        return None
    return (
        f"its accuracy here is {percent(accuracy)} on {n} samples, no better than chance ({percent(chance)}): check "
        "`input`, the order of classes and the checkpoint; say the accuracy that you measured, and the import compares"
    )
