"""Study *gate*: how long a recipe has to train before a scale's tables mean something.

Test accuracy, and how far the original is told apart from what it never saw (RT-AUC), by the epochs of its recipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from experiments.cells import Measured, Trained
from experiments.lab import Lab
from experiments.report import NOT_MEASURED, Section, Table, Value
from experiments.scales import Scale
from experiments.store import Cell

MODELS = 2  # complementary references: each sample is in one of them
SOUGHT = "Sought: a test accuracy of at least 92 %, and the RT-AUC of the AMUN paper's models, 64 ± 3."


def cells(scale: Scale) -> Iterator[tuple[int, Measured]]:
    """Each number of epochs, and the first original trained so long."""
    setting = scale.main
    for epochs in scale.gate:
        world = replace(setting.world, recipe=setting.world.recipe.but(epochs=epochs))
        original = Trained(world, setting.models[0])
        yield epochs, Measured(original, (setting.forget(setting.shares[0], setting.forgets[0]),), MODELS)


def plan(_lab: Lab, scale: Scale) -> Iterator[Cell]:
    for _, cell in cells(scale):
        yield cell


def sections(lab: Lab, scale: Scale) -> list[Section]:
    lines: list[list[Value]] = []
    for epochs, cell in cells(scale):
        found, trained = lab.peek(cell), lab.peek(cell.subject)
        row: list[Value] = [NOT_MEASURED] * 4
        if found is not None and trained is not None:
            row = [*(found.figures[what] for what in ("ta", "ra", "rt")), trained.cpu_seconds]
        lines.append([epochs, *row])
    if not lines:
        return []
    chosen = json.loads(scale.main.world.recipe.params)["epochs"]
    notes = f"{SOUGHT} {MODELS} references. The tables of this scale train for {chosen} epochs."
    columns = ["epochs", "test accuracy", "accuracy on D_R", "RT-AUC", "CPU seconds of one training"]
    return [Section(f"{scale.main.name}: how long to train", "", [Table("Epochs", columns, lines, notes)])]
