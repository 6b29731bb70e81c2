"""Study *probes*: relearning, robust accuracy, and the attack that knows the method, on the methods of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine import evaluation, places, seeding
from engine.audits.probes import ProbeCase, deal
from engine.audits.rmia import log_odds
from engine.data.samples import Split, gather, to_float
from engine.errors import DivergedError, MethodError
from engine.methods import MethodContext
from experiments.cells import Forget, Named, Trained, Unlearned, World, named, weights_of
from experiments.protocol import AMUN, AMUN_ADVERSARIAL_ONLY, FT, GA, RL, SALUN, Method
from experiments.report import Section, Table, Value, missing, with_interval
from experiments.scales import Scale
from experiments.store import Cell, CellProgress, NotMeasured, Result

if TYPE_CHECKING:
    from experiments.lab import Lab

METHODS = (AMUN, AMUN_ADVERSARIAL_ONLY, SALUN, RL, FT, GA)
IMITATED = (AMUN, RL)  # a shadow costs a training and an unlearning
RELEARN, ROBUST = named("probes", "relearn", {}), named("probes", "robust_accuracy", {})


# -- cells -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taught:
    """A model that was taught what `forget` leaves and, of what is dealt to `shadows` shadows, its own half."""

    world: World
    forget: Forget
    shadows: int
    number: int

    @property
    def seed(self) -> int:
        return seeding.derive(self.number, "shadow")

    def positions(self, lab: Lab) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What is retained, and what this shadow unlearns."""
        groups = lab.groups(lab.there(self.world), (self.forget,), ())
        dealt, _, design = deal(groups.forget, groups.test, self.shadows)
        return groups.retain, np.sort(dealt[design[self.number]])

    def compute(self, lab: Lab, progress: CellProgress) -> Result:
        there = lab.there(self.world)
        model = seeding.seeded_model(there.build, self.seed, lab.device)
        rows = torch.from_numpy(np.union1d(*self.positions(lab))).to(lab.device)
        order = seeding.generator(self.seed, lab.device)
        there.recipe.train(model, there.samples, rows, order, progress)
        return Result({"samples": len(rows)}, weights_of(model))


@dataclass(frozen=True)
class Shadow:
    """`taught` once it has unlearned its half by `method`, the remain set at hand: log-odds (N,) of all samples."""

    taught: Taught
    method: Named
    attack: Named | None

    def compute(self, lab: Lab, progress: CellProgress) -> Result:
        there, model = lab.there(self.taught.world), lab.model(self.taught)
        retain, forget = (torch.from_numpy(each).to(lab.device) for each in self.taught.positions(lab))
        adversarial = None
        if self.attack:
            images, labels = to_float(gather(there.samples.images, forget)), there.samples.labels[forget]
            adversarial = places.attack(self.attack.name)(model, images, labels, self.attack.parsed())
        split = Split(there.samples, forget, retain, forget[:0])
        generator = seeding.generator(self.taught.seed, lab.device)
        fresh = lambda: seeding.seeded_model(there.build, self.taught.seed, lab.device)  # noqa: E731
        context = MethodContext(generator, progress, there.recipe, fresh)
        try:
            model = places.method(self.method.name)(model, split, self.method.parsed(), adversarial, context)
        except (DivergedError, MethodError) as error:
            raise NotMeasured(str(error)) from error
        odds = log_odds(evaluation.logits(model, there.samples.images).cpu().numpy(), there.raw.labels)
        return Result({}, {"log_odds": torch.from_numpy(odds)})


@dataclass(frozen=True)
class Probed:
    """What `probe` finds of `subject`, which keeps its weights; `shadows` imitate a method, for the probe that asks."""

    subject: Trained | Unlearned
    original: Trained
    forget: Forget
    probe: Named
    shadows: tuple[Shadow, ...] = ()

    def compute(self, lab: Lab, progress: CellProgress) -> Result:  # noqa: ARG002
        there = lab.there(self.original.world)
        groups = lab.groups(there, (self.forget,), ())

        def imitated(number: int, _positions: Any) -> NDArray[np.float32]:
            odds: NDArray[np.float32] = lab.get(self.shadows[number], tensors=True).tensors["log_odds"].numpy()
            return odds

        case = ProbeCase(
            candidate=lab.model(self.subject),
            parent=lab.model(self.original),
            samples=there.samples,
            forget=groups.forget,
            holdout=groups.test,
            shadow=imitated if self.shadows else None,
        )
        (found,) = places.probe(self.probe.name)(case, self.probe.parsed())["candidate"].values()
        return Result(found.model_dump() if hasattr(found, "model_dump") else {"value": found})


# -- the study -------------------------------------------------------------------------------------


def _subjects(lab: Lab, scale: Scale, method: Method | None) -> list[tuple[Unlearned, Forget]]:
    """`method` at its tuned rate, or exact retrains, on the first forget sets, with their weights."""
    setting, share, model = scale.main, scale.main.shares[0], scale.main.models[0]
    chosen = setting.tuned(lab, method, share, True) if method else (0.0, {})
    if chosen is None:
        return []
    made = []
    for seed in setting.forgets[: scale.probed]:
        forget = Forget(share, seed)
        if method is None:
            retrain = named("methods", "retrain", {})
            made.append((Unlearned(setting.original(model), forget, retrain, True, keep=True), forget))
        else:
            made.append((replace(setting.unlearned(method, chosen[0], forget, True, model), keep=True), forget))
    return made


def _probed(lab: Lab, scale: Scale, method: Method | None, probe: Named) -> list[Probed]:
    original = scale.main.original(scale.main.models[0])
    return [Probed(subject, original, forget, probe) for subject, forget in _subjects(lab, scale, method)]


def _untouched(scale: Scale, probe: Named) -> list[Probed]:
    setting = scale.main
    original = setting.original(setting.models[0])
    forgets = [Forget(setting.shares[0], seed) for seed in setting.forgets[: scale.probed]]
    return [Probed(original, original, forget, probe) for forget in forgets]


def _imitated(lab: Lab, scale: Scale, method: Method, subjects: Method | None) -> list[Probed]:
    """The attack that knows `method`, on `subjects` of that method or on exact retrains."""
    known, cells = named("probes", "known_method", {"shadows": scale.shadows}), []
    knows = _subjects(lab, scale, method)
    for (subject, forget), (own, _) in zip(_subjects(lab, scale, subjects), knows, strict=bool(knows)):
        attack = own.adversarial.attack if own.adversarial else None
        taught = [Taught(own.world, forget, scale.shadows, number) for number in range(scale.shadows)]
        shadows = tuple(Shadow(each, own.method, attack) for each in taught)
        cells.append(Probed(subject, scale.main.original(scale.main.models[0]), forget, known, shadows))
    return cells


def plan(lab: Lab, scale: Scale) -> Iterator[Cell]:
    yield from scale.main.prepared((method, True) for method in METHODS)
    for probe in (RELEARN, ROBUST):
        yield from _untouched(scale, probe)
        for method in (None, *METHODS):
            yield from _probed(lab, scale, method, probe)
    for method in IMITATED:
        for subjects in (method, None):
            for cell in _imitated(lab, scale, method, subjects):
                for shadow in cell.shadows:
                    yield shadow.taught
                    yield shadow
                yield cell


def sections(lab: Lab, scale: Scale) -> list[Section]:
    return [_probes(lab, scale), _known(lab, scale)]


def _probes(lab: Lab, scale: Scale) -> Section:
    columns = ["model", "forget sets", "steps to relearn", "least", "most", "robust accuracy, %"]
    lines: list[list[Value]] = []
    for label, method in (("Retrain", None), *((method.label, method) for method in METHODS)):
        lines.append(_line(lab, label, columns, *(_probed(lab, scale, method, probe) for probe in (RELEARN, ROBUST))))
    untouched = _line(lab, "Original, untouched", columns, *(_untouched(scale, probe) for probe in (RELEARN, ROBUST)))
    lines.insert(1, untouched)
    notes = (
        "Steps of SGD on the forget set until its loss is the original's again: a model that has forgotten needs as "
        "many as an exact retrain. Robust accuracy: of the never-trained samples, those that no point of an L2 PGD "
        "fools. Both by the catalog's defaults. ±: 95 % t interval over forget sets. Rates as tuned for the tables."
    )
    title = f"{scale.main.name}: probes, {100 * scale.main.shares[0]:g} %, with the remain set"
    return Section(title, "", [Table("Relearning and robustness", columns, lines, notes)])


def _line(lab: Lab, label: str, columns: list[str], relearning: list[Probed], robust: list[Probed]) -> list[Value]:
    known = [found.figures for found in map(lab.peek, relearning) if found is not None]
    held = [100 * found.figures["value"] for found in map(lab.peek, robust) if found is not None]
    if not known or not held:
        return missing(label, columns)
    steps = [each["most_steps"] if each["steps"] is None else each["steps"] for each in known]
    most = f"{max(steps)}{'+' if any(each['steps'] is None for each in known) else ''}"
    return [label, len(steps), with_interval(steps, 0), min(steps), most, with_interval(held, 1)]


def _known(lab: Lab, scale: Scale) -> Section:
    columns = ["method", "forget sets", "FT-AUC of the attack", "the same attack on exact retrains"]
    lines: list[list[Value]] = []
    for method in IMITATED:
        pairs = [
            [100 * found.figures["value"] for found in map(lab.peek, cells) if found is not None]
            for cells in (_imitated(lab, scale, method, method), _imitated(lab, scale, method, None))
        ]
        if not all(pairs):
            lines.append(missing(method.label, columns))
        else:
            lines.append([method.label, len(pairs[0]), *(with_interval(values, 1) for values in pairs)])
    notes = (
        f"{scale.shadows} shadows each: taught, then made to forget by the very method, at its rate. The attack asks "
        "of each sample whether it looks unlearned by that method, or never seen: at 50 % it cannot tell. On exact "
        "retrains it has nothing to find: what it says there is its own bias. ±: 95 % t interval over forget sets."
    )
    title = f"{scale.main.name}: the attack that knows the method"
    return Section(title, "", [Table("Shadows unlearned by the same method", columns, lines, notes)])
