"""Study *probes*: relearning, robust accuracy, and the attack that knows the method, on the methods of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from experiments.cells import Configuration, Forget, Probed, Shadow, Taught, Unlearned, configuration
from experiments.lab import Lab
from experiments.protocol import AMUN, AMUN_ADVERSARIAL_ONLY, FT, GA, RL, SALUN, Method
from experiments.report import Section, Table, Value, missing, with_interval
from experiments.scales import Scale
from experiments.store import Cell

METHODS = (AMUN, AMUN_ADVERSARIAL_ONLY, SALUN, RL, FT, GA)
IMITATED = (AMUN, RL)  # a shadow costs a training and an unlearning
RELEARN, ROBUST = configuration("probes", "relearn", {}), configuration("probes", "robust_accuracy", {})


def _subjects(lab: Lab, scale: Scale, method: Method | None) -> list[tuple[Unlearned, Forget]]:
    """`method` at its tuned rate, or exact retrains, on the first forget sets, with their weights."""
    setting, share, model = scale.main, scale.main.shares[0], scale.main.models[0]
    chosen = setting.tuned(lab, method, share, True) if method else (0.0, {})
    if chosen is None:
        return []
    made = []
    for seed in setting.forgets[: scale.probed]:
        forget = setting.forget(share, seed)
        if method is None:
            retrain = configuration("methods", "retrain", {})
            made.append((Unlearned(setting.original(model), forget, retrain, True, keep=True), forget))
        else:
            made.append((replace(setting.unlearned(method, chosen[0], forget, True, model), keep=True), forget))
    return made


def _probed(lab: Lab, scale: Scale, method: Method | None, probe: Configuration) -> list[Probed]:
    original = scale.main.original(scale.main.models[0])
    return [Probed(subject, original, forget, probe) for subject, forget in _subjects(lab, scale, method)]


def _untouched(scale: Scale, probe: Configuration) -> list[Probed]:
    setting = scale.main
    original = setting.original(setting.models[0])
    forgets = [setting.forget(setting.shares[0], seed) for seed in setting.forgets[: scale.probed]]
    return [Probed(original, original, forget, probe) for forget in forgets]


def _imitated(lab: Lab, scale: Scale, method: Method, subjects: Method | None) -> list[Probed]:
    """The attack that knows `method`, on `subjects` of that method or on exact retrains."""
    known, cells = configuration("probes", "known_method", {"shadows": scale.shadows}), []
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
        f"{scale.shadows} shadows each: trained, then unlearned by the method, at its rate. The attack asks "
        "of each sample whether it looks unlearned by that method, or never seen: at 50 % it cannot tell. On exact "
        "retrains it has nothing to find: what it says there is its own bias. ±: 95 % t interval over forget sets."
    )
    title = f"{scale.main.name}: the attack that knows the method"
    return Section(title, "", [Table("Shadows unlearned by the same method", columns, lines, notes)])
