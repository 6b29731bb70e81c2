"""Small cases that several engine tests share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from app.catalog import DigitsSource, SgdRecipe, SmallCnnParams
from engine import seeding
from engine.architectures import small_cnn
from engine.data.samples import RawData, Samples
from engine.data.sources import digits as digits_source
from engine.recipes import Recipe
from engine.recipes.sgd import sgd
from engine.training import NullProgress

torch.set_num_threads(1)

RECIPE = Recipe(sgd, SgdRecipe(epochs=15))


class KeptProgress:
    """Keeps every state, and stops after `stop_after` epochs as a lost lease would."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.fractions: list[float] = []
        self.stop_after = stop_after

    def update(self, fraction: float) -> None:
        self.fractions.append(fraction)
        if self.stop_after is not None and len(self.states) >= self.stop_after:
            raise InterruptedError

    def load(self) -> dict[str, Tensor] | None:
        return self.states[-1] if self.states else None

    def save(self, state: Callable[[], dict[str, Tensor]]) -> None:
        self.states.append(state())


@cache
def digits() -> tuple[RawData, Samples]:
    raw = digits_source(DigitsSource())
    return raw, Samples.from_arrays(raw.images, raw.labels)


def small_network() -> nn.Module:
    return small_cnn.build(SmallCnnParams(), 1, 10)


def trained(positions: Tensor, seed: int) -> nn.Module:
    _, samples = digits()
    model = seeding.seeded_model(small_network, seed)
    return RECIPE.train(model, samples, positions, seeding.generator(seed), NullProgress())


@cache
def original_state() -> dict[str, Tensor]:
    return trained(torch.from_numpy(train_positions()), 1).state_dict()


def original() -> nn.Module:
    """A fresh copy of the model trained on all training digits."""
    model = seeding.seeded_model(small_network, 0)
    model.load_state_dict(original_state())
    return model.eval()


def train_positions() -> np.ndarray:
    return np.flatnonzero(~digits()[0].holdout)


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)
