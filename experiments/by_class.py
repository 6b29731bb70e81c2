"""Study *mixunlearn*: forget sets by class, as in MixUnlearn's own protocol (docs/methods.md, Forget sets by
class)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from experiments.cells import Forget, Measured, Trained, Unlearned
from experiments.lab import Lab
from experiments.protocol import AMUN, FT, MIXUNLEARN, RL, SALUN, Method
from experiments.report import Section, Table, Value, missing
from experiments.scales import Scale
from experiments.store import Cell

AGNOSTIC = Method("MixUnlearn style, label-agnostic", "mixunlearn", json.dumps({"targets": "predictions"}))
METHODS = (MIXUNLEARN, AGNOSTIC, AMUN, SALUN, RL, FT)
SETS = (("class 0, whole", 1.0, (0,)), ("40 % of classes 5 to 9", 0.4, (5, 6, 7, 8, 9)))


def _cells(lab: Lab, scale: Scale, share: float, classes: tuple[int, ...], method: Method | None) -> list[Measured]:
    """`method` at the rate of the 10 % task (None: exact retraining) on forget sets of those classes."""
    setting = scale.main
    chosen = setting.tuned(lab, method, setting.shares[0], True) if method else (0.0, {})
    if chosen is None:
        return []
    cells = []
    for model, seed in [(model, seed) for model in setting.models for seed in setting.forgets[:3]][: scale.by_classes]:
        forget = Forget(share, seed, classes)
        if method is None:
            subject: Trained | Unlearned = Trained(setting.world, model, forget, seed)
        else:
            subject = setting.unlearned(method, chosen[0], forget, True, model, run=seed)
        cells.append(setting.measured(subject, forget))
    return cells


def plan(lab: Lab, scale: Scale) -> Iterator[Cell]:
    if scale.by_classes:
        yield from scale.main.prepared((method, True) for method in METHODS)
        for _, share, classes in SETS:
            for method in (None, *METHODS):
                yield from _cells(lab, scale, share, classes, method)


def sections(lab: Lab, scale: Scale) -> list[Section]:
    setting, made = scale.main, []
    columns = [
        "method",
        "forget accuracy",
        "test, retained classes",
        "test, forgotten classes",
        "FT-AUC, class by class",
        "gap",
    ]
    for name, share, classes in SETS:
        reference = _row(lab, _cells(lab, scale, share, classes, None), classes)
        lines: list[list[Value]] = []
        for method in (None, *METHODS):
            found = _row(lab, _cells(lab, scale, share, classes, method), classes)
            label = method.label if method else "Retrain"
            if found is None or reference is None:
                lines.append(missing(label, columns))
            else:
                difference = float(np.abs(found - reference).mean())
                lines.append([label, *found.tolist(), "" if method is None else difference])
        notes = (
            "Percent; means over runs. gap: mean distance of the four figures' means to Retrain's. Rates of the 10 % "
            "random task; MixUnlearn as described, since its paper's constants are not public."
        )
        made.append(
            Section(f"{setting.name}: MixUnlearn's protocol, {name}", "", [Table("Results", columns, lines, notes)])
        )
    return made


def _row(lab: Lab, cells: list[Measured], classes: tuple[int, ...]) -> np.ndarray | None:
    rows = []
    for found in map(lab.peek, cells):
        if found is None or "failed" in found.figures:
            continue
        by_class = found.figures["ta_by_class"]
        kept = [value for label, value in enumerate(by_class) if label not in classes]
        rows.append(
            [
                found.figures["ua"],
                np.mean(kept),
                np.mean([by_class[label] for label in classes]),
                found.figures["ft_matched"],
            ]
        )
    return np.array(rows, dtype=np.float64).mean(axis=0) if rows else None
