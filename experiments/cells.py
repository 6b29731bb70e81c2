"""The cells of `lethe bench`: what can be computed, as plain values. Equal cells are computed once.

`experiments.computing` computes them. A class's name and its fields are part of a cell's key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from app import catalog
from app.catalog import Params
from engine import seeding
from engine.audits import Positions
from engine.data.samples import RawData
from experiments.data import Data
from experiments.store import Cell, NotMeasured


@dataclass(frozen=True)
class Configuration:
    """A name of the catalog's table `kind` with parameters, as JSON text; defaults are left out."""

    kind: str
    name: str
    params: str = "{}"

    def parsed(self) -> Params:
        """Raises `NotMeasured` where the catalog has no such name."""
        if self.name not in catalog.KINDS[self.kind]:
            raise NotMeasured(f"no {self.kind.removesuffix('s')} {self.name!r} in the catalog")
        return catalog.parse(self.kind, self.name, json.loads(self.params))

    def but(self, **params: Any) -> Configuration:
        """The same with these parameters in addition, or instead."""
        return configuration(self.kind, self.name, {**json.loads(self.params), **params})


def configuration(kind: str, name: str, params: Mapping[str, Any]) -> Configuration:
    return Configuration(kind, name, json.dumps(dict(params), sort_keys=True))


@dataclass(frozen=True)
class World:
    """Data, architecture and recipe: what models and their references have in common."""

    data: Data
    architecture: Configuration
    recipe: Configuration


@dataclass(frozen=True)
class Forget:
    """Which training samples go: a share of all, or of those of some classes, or one of `parts` equal requests
    of that share (with `whole` that one and those before it). Drawn from `seed`, so that sets of one seed nest."""

    share: float
    seed: int
    classes: tuple[int, ...] = ()
    part: int = 0
    parts: int = 1
    whole: bool = False

    def positions(self, raw: RawData) -> Positions:
        train = np.flatnonzero(~raw.holdout)
        if self.classes:
            train = train[np.isin(raw.labels[train], self.classes)]
        drawn = np.random.default_rng(self.seed).permutation(train)[: round(self.share * len(train))]
        pieces = np.array_split(drawn, self.parts)
        return np.sort(np.concatenate(pieces[: self.part + 1]) if self.whole else pieces[self.part])

    def until_here(self) -> tuple[Forget, ...]:
        """This request and those before it."""
        return tuple(replace(self, part=number) for number in range(self.part + 1))


@dataclass(frozen=True)
class Reference(Cell):
    """One of `models` reference models; each sample is in half of them."""

    world: World
    models: int
    index: int
    seed: int = 0


@dataclass(frozen=True)
class Trained(Cell):
    """A model trained on all training samples but those of `without`: an original, or an exact retrain."""

    world: World
    seed: int
    without: Forget | None = None
    run: int = 0


@dataclass(frozen=True)
class Adversarial(Cell):
    """An adversarial set for `forget`, searched on `model`, or taken over from `donor` by `transfer`."""

    model: Trained | Unlearned
    forget: Forget
    attack: Configuration
    donor: Adversarial | None = None


Substitute = Literal["", "Orig", "AdvL", "RL", "ARL", "ARS"]


@dataclass(frozen=True)
class Unlearned(Cell):
    """`method` on `start`, with the remain set or without it; `gone` were unlearned before.

    substitute: what stands in the place of the adversarial set (AMUN paper, 6.2.1). by_epoch: keep the logits after
    each epoch (then the seconds include that). keep: keep the weights.
    """

    start: Trained | Unlearned
    forget: Forget
    method: Configuration
    remain: bool
    adversarial: Adversarial | None = None
    gone: tuple[Forget, ...] = ()
    substitute: Substitute = ""
    run: int = 0
    by_epoch: bool = False
    keep: bool = False

    @property
    def world(self) -> World:
        return self.start.world


@dataclass(frozen=True)
class Measured(Cell):
    """What a model shows of `forget`, by `models` references; `gone` were unlearned too.

    epoch: of a subject with logits by epoch, from 1; 0: the end.
    """

    subject: Trained | Unlearned
    forget: tuple[Forget, ...]
    models: int
    gone: tuple[Forget, ...] = ()
    epoch: int = 0


@dataclass(frozen=True)
class Judged(Cell):
    """The service's own audit of `subject`, with `original` as its parent: the verdict, and what led to it."""

    subject: Trained | Unlearned
    original: Trained
    forget: Forget
    models: int


@dataclass(frozen=True)
class Theory(Cell):
    """Theorem 4.1 on a convex model that interpolates; see `experiments.theory`."""

    instances: int
    seed: int = 0


@dataclass(frozen=True)
class Taught(Cell):
    """A model that was trained on what `forget` leaves and, of what is dealt to `shadows` shadows, on its own half."""

    world: World
    forget: Forget
    shadows: int
    number: int

    @property
    def seed(self) -> int:
        return seeding.derive(self.number, "shadow")


@dataclass(frozen=True)
class Shadow(Cell):
    """`taught` once it has unlearned its half by `method`, the remain set at hand: log-odds (N,) of all samples."""

    taught: Taught
    method: Configuration
    attack: Configuration | None


@dataclass(frozen=True)
class Probed(Cell):
    """What `probe` finds of `subject`, which keeps its weights; `shadows` imitate a method, for the probe that asks."""

    subject: Trained | Unlearned
    original: Trained
    forget: Forget
    probe: Configuration
    shadows: tuple[Shadow, ...] = ()
