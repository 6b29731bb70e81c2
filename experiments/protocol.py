"""The protocol of the tables: which methods, how their rate is chosen, which runs are reported (docs/methods.md,
Avg. Gap)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from app import catalog
from engine.audits import Floats
from engine.audits.comparison import gap_per_run
from experiments.cells import (
    Adversarial,
    Configuration,
    Forget,
    Measured,
    Reference,
    Trained,
    Unlearned,
    World,
    configuration,
)
from experiments.lab import Lab
from experiments.store import Cell, Result

FIGURES = ("ua", "ra", "ta", "ft")
UNTUNED = (0.0,)
"""The grid of a method without a parameter to tune."""


@dataclass(frozen=True)
class Method:
    """A row of the tables: a method of the catalog with what sets it apart from its siblings."""

    label: str
    name: str
    params: str = "{}"

    @property
    def needs_remain(self) -> bool:
        return catalog.METHODS[self.name].needs_remain

    @property
    def needs_adversarial(self) -> bool:
        return catalog.METHODS[self.name].needs_adversarial

    @property
    def parameters(self) -> Collection[str]:
        return catalog.METHODS[self.name].params.model_fields

    @property
    def tuned(self) -> str | None:
        """The parameter that is tuned; None: the method runs with the parameters that it has."""
        return next((each for each in ("learning_rate", "damping") if each in self.parameters), None)


def rows() -> dict[str, Method]:
    """By label, a row for each method of the catalog that is not exact, and for each of its variants."""
    return {
        label: Method(label, name, json.dumps(params))
        for name, entry in catalog.METHODS.items()
        if not entry.exact
        for label, params in {entry.label or name: {}, **entry.variants}.items()
    }


AMUN, AMUN_ADVERSARIAL_ONLY, AMUN_SALUN = (rows()[label] for label in ("AMUN", "AMUN, no D_F", "AMUN+SalUn"))
SALUN, RL, FT, GA, MIXUNLEARN = (rows()[label] for label in ("SalUn", "RL", "FT", "GA", "MixUnlearn style"))


@dataclass(frozen=True)
class Setting:
    """A world and the size of its tables.

    models, forgets: seeds of the originals and of the reported forget sets; every pair is a run, `runs` times.
    tuning: seeds of forget sets, not reported, on the first model, on which the rates are chosen from `rates`
    (learning rates; damping for the Newton step): equally many for each method. fixed: parameters by method,
    and under "" those of every method with an SGD schedule, as JSON text. disjoint: so many forget sets are the parts
    of one draw, numbered by their seeds from 0, at shares of which so many fit; 0: each is a draw of its own.
    labels: of the rows; empty: of every method.
    """

    name: str
    world: World
    references: int
    models: tuple[int, ...]
    forgets: tuple[int, ...]
    tuning: tuple[int, ...]
    rates: tuple[float, ...]
    dampings: tuple[float, ...]
    fixed: str
    attack: Configuration
    shares: tuple[float, ...] = (0.1, 0.5)
    runs: int = 1
    disjoint: int = 0
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.rates) != len(self.dampings):
            raise ValueError("the grids must be equally long")
        if set(self.tuning) & set(self.forgets):
            raise ValueError("a forget set that rates are tuned on is not reported")

    def forget(self, share: float, seed: int) -> Forget:
        """The forget set of that seed: the tuning sets and those that are reported have none in common where `disjoint`
        sets of that share fit."""
        if self.disjoint * share > 1 or not self.disjoint:
            return Forget(share, seed)
        return Forget(self.disjoint * share, 0, part=seed, parts=self.disjoint)

    def methods(self, remain: bool) -> list[Method]:
        wanted = [method for label, method in rows().items() if not self.labels or label in self.labels]
        return [method for method in wanted if remain or not method.needs_remain]

    def grid(self, method: Method) -> tuple[float, ...]:
        return {"learning_rate": self.rates, "damping": self.dampings, None: UNTUNED}[method.tuned]

    def original(self, seed: int) -> Trained:
        return Trained(self.world, seed)

    def retrain(self, forget: Forget, model: int, run: int = 0) -> Measured:
        return self.measured(Trained(self.world, model, forget, run), forget)

    def measured(self, subject: Trained | Unlearned, forget: Forget) -> Measured:
        return Measured(subject, (forget,), self.references)

    def configured(self, method: Method, rate: float, **more: object) -> Configuration:
        fixed, known = json.loads(self.fixed), method.parameters
        common = {each: value for each, value in fixed.get("", {}).items() if "epochs" in known and each in known}
        tuned = {method.tuned: rate} if method.tuned else {}
        given = {**common, **fixed.get(method.name, {}), **json.loads(method.params), **tuned, **more}
        return configuration("methods", method.name, given)

    def unlearned(
        self,
        method: Method,
        rate: float,
        forget: Forget,
        remain: bool,
        model: int,
        *,
        attack: Configuration | None = None,
        run: int = 0,
        **more: object,
    ) -> Unlearned:
        start = self.original(model)
        adversarial = Adversarial(start, forget, attack or self.attack) if method.needs_adversarial else None
        return Unlearned(start, forget, self.configured(method, rate, **more), remain, adversarial, run=run)

    def pairs(self) -> list[tuple[int, int, int]]:
        """(model, forget, run) of every reported run, the first of each forget set first."""
        return [(model, forget, run) for run in range(self.runs) for model in self.models for forget in self.forgets]

    def base(self, share: float) -> Iterator[Cell]:
        """What every table of this share rests on: references, originals, retrains and second retrains."""
        for index in range(self.references):
            yield Reference(self.world, self.references, index)
        for model in self.models:
            yield self.original(model)
        for seed in self.tuning:
            yield self.retrain(self.forget(share, seed), self.models[0])
        for model, seed, run in self.pairs():
            forget = self.forget(share, seed)
            if not run:
                yield self.measured(self.original(model), forget)
                yield self.retrain(forget, model)
        for model, seed, run in self.pairs():
            if not run:
                yield self.retrain(self.forget(share, seed), model, 1)

    def tuning_cells(
        self, method: Method, share: float, remain: bool, attack: Configuration | None = None
    ) -> Iterator[tuple[float, Measured]]:
        for seed in self.tuning:
            forget = self.forget(share, seed)
            for rate in self.grid(method):
                subject = self.unlearned(method, rate, forget, remain, self.models[0], attack=attack)
                yield rate, self.measured(subject, forget)

    def prepared(self, wanted: Iterable[tuple[Method, bool]]) -> Iterator[Cell]:
        """What the rates of `wanted` methods, with the remain set or without, are known by, at the first share."""
        yield from self.base(self.shares[0])
        for method, remain in wanted:
            for _, cell in self.tuning_cells(method, self.shares[0], remain):
                yield cell

    def tuned(
        self, lab: Lab, method: Method, share: float, remain: bool, attack: Configuration | None = None
    ) -> tuple[float, dict[float, float]] | None:
        """The rate with the least Avg. Gap on the tuning sets, and the gap of each; None while any is missing.

        The gap is to the retrained model: an oracle that no service has. It is the same oracle for every method.
        """
        retrained = [lab.peek(self.retrain(self.forget(share, seed), self.models[0])) for seed in self.tuning]
        gaps: dict[float, list[float]] = {}
        for rate, cell in self.tuning_cells(method, share, remain, attack):
            found = lab.peek(cell)
            if found is None or any(each is None for each in retrained):
                return None
            gaps.setdefault(rate, []).append(gap(found, [each for each in retrained if each is not None]))
        means = {rate: float(np.mean(values)) for rate, values in gaps.items()}
        best = min(means, key=lambda rate: means[rate])
        return (best, means) if np.isfinite(means[best]) else None

    def final(
        self, method: Method, rate: float, share: float, remain: bool, attack: Configuration | None = None
    ) -> list[tuple[Unlearned, Measured]]:
        """The reported runs at that rate."""
        cells = []
        for model, seed, run in self.pairs():
            forget = self.forget(share, seed)
            subject = self.unlearned(method, rate, forget, remain, model, attack=attack, run=run)
            cells.append((subject, self.measured(subject, forget)))
        return cells


def row(found: Result) -> Floats:
    """UA, RA, TA and FT-AUC in percent; NaN where the method failed."""
    if "failed" in found.figures:
        return np.full(len(FIGURES), np.nan)
    return np.array([found.figures[name] for name in FIGURES], dtype=np.float64)


def gap(found: Result, retrained: list[Result]) -> float:
    """Avg. Gap of one run; infinite where the method failed."""
    value = float(gap_per_run(row(found)[None], np.stack([row(each) for each in retrained]))[0])
    return value if np.isfinite(value) else float("inf")
