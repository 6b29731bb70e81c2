"""Small networks that calibration trains: on the digits, or fine-tuned on CIFAR-10 from a base of other classes.

One object has the pools, the parent and the retrains of one seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.catalog import DigitsSource, SgdRecipe, SmallCnnParams
from engine import evaluation, references, seeding
from engine.architectures import small_cnn
from engine.audits import Positions
from engine.data.samples import RawData, Samples
from engine.data.sources import digits
from engine.recipes import Recipe
from engine.recipes.sgd import sgd
from engine.references import ReferenceSignals
from engine.training import NullProgress
from experiments.data import Data, load

OLD, NEW = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)  # classes of the base, and of the model that is fine-tuned from it
BASE_SAMPLES, TUNED_SAMPLES, HELD_OUT = 5000, 2000, 2000
PER_PERSON = 3


@dataclass
class Networks:
    """raw: with subjects. start: a model before training. forgets: samples of a forget set; by person a whole number of
    people with about as many."""

    seed: int
    raw: RawData
    subjects: NDArray[np.int64]
    start: Callable[[], nn.Module]
    recipe: Recipe
    forgets: int
    _pools: dict[int, ReferenceSignals] = field(default_factory=dict)
    _parent: nn.Module | None = None

    def __post_init__(self) -> None:
        self.samples = Samples.from_arrays(self.raw.images, self.raw.labels)
        self.train, self.holdout = (np.flatnonzero(self.raw.holdout == side) for side in (False, True))

    def pool(self, count: int) -> ReferenceSignals | None:
        if count and count not in self._pools:
            design = references.membership(count, self.samples.n, self.seed + count)
            each = (
                references.train_reference(
                    at, design, self.samples, self.recipe, self.start, self.seed + count, NullProgress()
                )
                for at in range(count)
            )
            self._pools[count] = references.stack(list(each))
        return self._pools.get(count)

    def trained(self, positions: Positions, seed: int) -> nn.Module:
        model = seeding.seeded_model(self.start, seed)
        rows = torch.from_numpy(positions)
        return self.recipe.train(model, self.samples, rows, seeding.generator(seed), NullProgress())

    def parent(self) -> nn.Module:
        if self._parent is None:
            self._parent = self.trained(self.train, self.seed)
        return self._parent

    def logits(self, model: nn.Module) -> NDArray[np.float32]:
        found: NDArray[np.float32] = evaluation.logits(model, self.samples.images).numpy()
        return found

    def tuned(self, remain: Positions, epochs: int, *, head: bool) -> nn.Module:
        """The parent after some epochs on the remain set at a small rate: of its last layer alone, or of all."""
        model = self.start().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.load_state_dict({name: value.clone() for name, value in self.parent().state_dict().items()})
        if head:
            kept = {name for name, _ in _last(model).named_parameters(prefix=_last_name(model))}
            for name, weights in model.named_parameters():
                weights.requires_grad_(name in kept)
        little = Recipe(sgd, SgdRecipe(epochs=epochs, batch_size=64, learning_rate=0.001))
        rows = torch.from_numpy(remain)
        return little.train(model, self.samples, rows, seeding.generator(self.seed), NullProgress())


def _last_name(model: nn.Module) -> str:
    return list(dict(model.named_children()))[-1]


def _last(model: nn.Module) -> nn.Module:
    return dict(model.named_children())[_last_name(model)]


def on_digits(seed: int) -> Networks:
    raw = digits(DigitsSource(per_person=2))
    people = np.unique([str(name) for name in raw.subjects or ()], return_inverse=True)[1]
    recipe = Recipe(sgd, SgdRecipe(epochs=20, batch_size=64))
    return Networks(seed, raw, people, lambda: small_cnn.build(SmallCnnParams(), 1, 10), recipe, 200)


def on_cifar10(seed: int, folder: Path) -> Networks:
    """A base is trained on five classes of CIFAR-10 in `folder`. What is audited starts from it, with a new head, and
    learns pictures of the five others. Three pictures of one class are one person's.

    Raises:
        NotMeasured: the folder has no CIFAR-10.
    """
    whole = load(Data("cifar10"), folder)
    body = _body(_part(whole, OLD, BASE_SAMPLES, 0, seed), seed)

    def start() -> nn.Module:
        model = _network()
        state = model.state_dict()
        model.load_state_dict(state | {name: value for name, value in body.items() if name in state})
        return model

    raw = _part(whole, NEW, TUNED_SAMPLES, HELD_OUT, seed)
    recipe = Recipe(sgd, SgdRecipe(epochs=12, batch_size=64, learning_rate=0.05))
    return Networks(seed, raw, people_of(raw), start, recipe, 100 * PER_PERSON)


def people_of(raw: RawData) -> NDArray[np.int64]:
    """(N,): the next `PER_PERSON` samples of one class and half are one person's; nobody is in both halves."""
    numbers = np.full(len(raw.labels), -1)
    known = 0
    for half in (False, True):
        for label in np.unique(raw.labels):
            rows = np.flatnonzero((raw.holdout == half) & (raw.labels == label))
            numbers[rows] = known + np.arange(len(rows)) // PER_PERSON
            known += -(-len(rows) // PER_PERSON)
    return numbers.astype(np.int64)


def _network() -> nn.Module:
    return small_cnn.build(SmallCnnParams(width=32), 3, len(NEW))


def _body(raw: RawData, seed: int) -> dict[str, Tensor]:
    """All of a network but its last layer, trained on `raw`."""
    samples = Samples.from_arrays(raw.images, raw.labels)
    model = seeding.seeded_model(_network, seed)
    recipe = Recipe(sgd, SgdRecipe(epochs=4, batch_size=64))
    model = recipe.train(model, samples, torch.arange(samples.n), seeding.generator(seed), NullProgress())
    head = f"{_last_name(model)}."
    return {name: value for name, value in model.state_dict().items() if not name.startswith(head)}


def _part(raw: RawData, classes: tuple[int, ...], train: int, test: int, seed: int) -> RawData:
    """So many samples of each half, of these classes, which are numbered anew."""
    random = np.random.default_rng(seed)
    rows = [
        np.sort(random.permutation(np.flatnonzero((raw.holdout == half) & np.isin(raw.labels, classes)))[:count])
        for half, count in ((False, train), (True, test))
    ]
    kept = np.concatenate(rows)
    labels: Any = np.searchsorted(classes, raw.labels[kept])
    return RawData([raw.ids[row] for row in kept], raw.images[kept], labels.astype(np.int64), raw.holdout[kept])
