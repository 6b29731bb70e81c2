"""What a run of `lethe bench` has left to do, in core-hours: said before a long one begins.

A rough figure. Trainings, unlearning and attacks are priced by the samples that they walk over and by measured seconds
per sample; what is read off their answers is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch

from engine import evaluation, places, seeding
from engine.data.samples import gather, to_float
from engine.recipes import Recipe
from engine.training import NullProgress
from experiments.cells import Adversarial, Forget, Judged, Measured, Reference, Taught, Trained, Unlearned, World
from experiments.lab import Lab
from experiments.run import ORDER, STUDIES
from experiments.scales import Scale
from experiments.store import Cell, NotMeasured, Result, key

TIMED = 1024  # samples
ATTACKED = 16


@dataclass(frozen=True)
class Line:
    """A stage of a study: cells that are missing, and their core-hours."""

    stage: str
    cells: int
    hours: float


class _AnyFigure(dict[str, float]):
    """What a missing cell may have measured: nothing failed, and every figure is 0."""

    def __missing__(self, _name: str) -> float:
        return 0.0


class Supposing(Lab):
    """A lab that takes missing results as known, so that a plan that depends on them goes on."""

    def peek(self, cell: Cell) -> Result | None:
        return super().peek(cell) or Result(_AnyFigure())


def forecast(lab: Lab, scale: Scale, studies: list[str]) -> list[Line]:
    """What is missing of each stage, in the order of the work; a cell counts where it comes first."""
    supposing = Supposing(lab.store, lab.device, {}, lab.folder)
    price = _Prices(lab)
    seen: set[str] = set()
    lines = []
    for name, stage in ORDER:
        if name not in studies:
            continue
        missing = []
        for planned in STUDIES[name].plans[stage](supposing, scale):
            for cell in _with_inputs(planned):
                if key(cell) not in seen and lab.peek(cell) is None:
                    missing.append(cell)
                seen.add(key(cell))
        try:
            seconds = sum(price.seconds(cell) for cell in missing)
        except NotMeasured:  # its data are not here
            continue
        if missing:
            lines.append(Line(f"{name} {stage + 1}", len(missing), seconds / 3600))
    return lines


def said(lines: list[Line]) -> str:
    """The forecast as text."""
    total = sum(line.hours for line in lines)
    rows = [f"  {line.stage:<14} {line.cells:6,} cells {line.hours:8.1f} core-hours" for line in lines]
    return "\n".join([f"left to compute: about {total:.1f} core-hours (a rough forecast)", *rows])


def _with_inputs(cell: Cell) -> Iterator[Cell]:
    """The cells among the fields of `cell`, and theirs, the references that it is measured by, and `cell` itself."""
    if isinstance(cell, Measured | Judged):
        yield from (Reference(cell.subject.world, cell.models, index) for index in range(cell.models))
    for each in fields(cell):
        value = getattr(cell, each.name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Cell):
                yield from _with_inputs(one)
    yield cell


class _Prices:
    """Seconds of a cell, by what is measured once for its world."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._training = cache(self._measure)
        self._attacks = cache(self._measure_attack)

    def seconds(self, cell: Cell) -> float:
        match cell:
            case Reference():
                samples = self._lab.loaded(cell.world).samples.n
                return self._trains(cell.world, samples / 2) + self._looks(cell.world)
            case Trained():
                gone = self._size(cell.world, cell.without) if cell.without else 0
                return self._trains(cell.world, self._training_samples(cell.world) - gone) + self._looks(cell.world)
            case Taught():
                left = self._training_samples(cell.world) - self._size(cell.world, cell.forget) / 2
                return self._trains(cell.world, left)
            case Unlearned():
                return self._unlearns(cell)
            case Adversarial():
                world = cell.model.world
                return self._attacks(world, cell.attack) * self._size(world, cell.forget)
        return 0.0

    def _trains(self, world: World, samples: float) -> float:
        return self._training(world)[0] * samples * float(getattr(world.recipe.parsed(), "epochs", 1))

    def _looks(self, world: World) -> float:
        return self._training(world)[1] * self._lab.loaded(world).samples.n

    def _unlearns(self, cell: Unlearned) -> float:
        forgotten, epochs = self._size(cell.world, cell.forget), float(getattr(cell.method.parsed(), "epochs", 1))
        walked = forgotten * (2 if cell.adversarial else 1)
        if cell.remain:
            walked += self._training_samples(cell.world) - forgotten
        looks = self._looks(cell.world) * (1 + epochs * cell.by_epoch)
        return self._training(cell.world)[0] * walked * epochs + looks

    def _training_samples(self, world: World) -> int:
        return int((~self._lab.loaded(world).raw.holdout).sum())

    def _size(self, world: World, forget: Forget) -> int:
        return len(forget.positions(self._lab.loaded(world).raw))

    def _measure(self, world: World) -> tuple[float, float]:
        """Seconds a sample of one epoch of training, and of a look at its logits."""
        loaded = self._lab.loaded(world)
        params = loaded.recipe.params.model_copy(update={"epochs": 1})
        recipe, model = Recipe(loaded.recipe.function, params), seeding.seeded_model(loaded.build, 0, self._lab.device)
        rows = torch.arange(min(TIMED, loaded.samples.n), device=self._lab.device)
        part = gather(loaded.samples.images, rows)
        generator = seeding.generator(0, self._lab.device)

        def train() -> object:
            return recipe.train(model, loaded.samples, rows, generator, NullProgress())

        return _least(train) / len(rows), _least(lambda: evaluation.logits(model, part)) / len(rows)

    def _measure_attack(self, world: World, attack: Any) -> float:
        """Seconds a sample: on an untrained model, which is fooled sooner than a trained one."""
        if attack.name == "transfer":
            return 0.0
        loaded, params = self._lab.loaded(world), attack.parsed()
        model = seeding.seeded_model(loaded.build, 0, self._lab.device).eval()
        images = to_float(gather(loaded.samples.images, torch.arange(ATTACKED, device=self._lab.device)))
        labels = evaluation.logits(model, images).argmax(1)
        return _least(lambda: places.attack(attack.name)(model, images, labels, params)) / ATTACKED


def _least(work: Callable[[], object]) -> float:
    """CPU seconds of `work`, the lesser of two times: the first also warms up."""
    times = []
    for _ in range(2):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times)
