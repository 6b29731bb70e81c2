"""Studies *ablation* and *attacks*: what AMUN's parts contribute (AMUN paper, 6.2.1, figures 1 and 4)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from experiments.cells import Adversarial, Measured, Substitute, Unlearned, configuration
from experiments.lab import Lab
from experiments.protocol import AMUN, FT, RL, SALUN, gap
from experiments.report import Figure, Section, Table, Value, half_width, missing, with_interval
from experiments.scales import FAST, Scale
from experiments.store import Cell, Result
from experiments.tables import cost, lab_seconds, slug

SUBSTITUTES: tuple[Substitute, ...] = ("Orig", "", "AdvL", "RL", "ARL", "ARS")
NAMES = {"": "Adv", "RL": "Orig-RL", "AdvL": "Orig-AdvL", "ARL": "Adv-RL", "ARS": "Adv-RS", "Orig": "Orig"}
CONTEXTS = (
    ("D_R, D_F and the set", True, "forget_and_adversarial"),
    ("D_F and the set", False, "forget_and_adversarial"),
    ("the set alone", False, "adversarial_only"),
)
EPOCH_METHODS = (AMUN, SALUN, RL, FT)


def curve_cells(scale: Scale, remain: bool, chosen: str, substitute: Substitute) -> list[tuple[Unlearned, Measured]]:
    """Fine-tuning on a substitute for the adversarial set, followed epoch by epoch."""
    setting, cells = scale.main, []
    method = configuration("methods", "amun", {**json.loads(scale.curves), "fine_tuning_set": chosen})
    for model, seed, _ in setting.pairs()[: scale.curve_runs]:
        forget, start = setting.forget(setting.shares[0], seed), setting.original(model)
        searched = Adversarial(start, forget, setting.attack)
        cell = Unlearned(start, forget, method, remain, searched, substitute=substitute, by_epoch=True)
        cells.append((cell, setting.measured(cell, forget)))
    return cells


def plan(lab: Lab, scale: Scale) -> Iterator[Cell]:
    yield from scale.main.prepared((method, True) for method in EPOCH_METHODS)
    for _, remain, chosen in CONTEXTS:
        for substitute in SUBSTITUTES:
            for _, measured in curve_cells(scale, remain, chosen, substitute):
                yield measured
    yield from _epoch_plan(lab, scale)


def _epoch_plan(lab: Lab, scale: Scale) -> Iterator[Cell]:
    for method in EPOCH_METHODS:
        for cells in _epoch_cells(lab, scale, method):
            yield from cells


def _epoch_cells(lab: Lab, scale: Scale, method: Any) -> list[list[Measured]]:
    """By reported run, the tuned method measured after each of its epochs."""
    setting, share = scale.main, scale.main.shares[0]
    chosen = setting.tuned(lab, method, share, True)
    if chosen is None:
        return []
    epochs = json.loads(setting.fixed)[""]["epochs"]
    runs = []
    for subject, measured in setting.final(method, chosen[0], share, True)[: scale.curve_runs]:
        followed = replace(subject, by_epoch=True)
        runs.append([replace(measured, subject=followed, epoch=epoch) for epoch in range(1, epochs + 1)])
    return runs


def sections(lab: Lab, scale: Scale) -> list[Section]:
    return [_curves(lab, scale), _epochs(lab, scale), _radii(lab, scale)]


def _curves(lab: Lab, scale: Scale) -> Section:
    """The paper's figure 1."""
    epochs = json.loads(scale.curves)["epochs"]
    columns = ["set in the place of D_A", *(f"{what}, {name}" for name, *_ in CONTEXTS for what in ("TA", "FT-AUC"))]
    lines: list[list[Value]] = [[NAMES[each]] for each in SUBSTITUTES]
    panels = []
    for name, remain, chosen in CONTEXTS:
        panel: dict[str, Any] = {"kind": "lines", "title": f"Test accuracy: {name}", "x": "epoch", "series": []}
        for line, substitute in zip(lines, SUBSTITUTES, strict=True):
            by_epoch: list[list[float]] = []
            ends: list[Result] = []
            for cell, measured in curve_cells(scale, remain, chosen, substitute):
                end, run = lab.peek(measured), lab.peek(cell)
                if end is not None and run is not None and "failed" not in end.figures:
                    ends.append(end)
                    by_epoch.append(run.figures["ta_by_epoch"])
            line += [with_interval([end.figures[what] for end in ends], 1) for what in ("ta", "ft")]
            if by_epoch:
                values = np.array(by_epoch)
                panel["series"].append(
                    {
                        "label": NAMES[substitute], "x": list(range(1, epochs + 1)), "y": values.mean(axis=0).tolist(),
                        "error": [half_width(column.tolist()) for column in values.T],
                    }
                )  # fmt: skip
        panels.append(panel)
    notes = (
        f"After {epochs} epochs; parameters {scale.curves}; {scale.curve_runs} run(s). Adv: adversarial examples with "
        "their wrong labels. Orig: the clean forget samples again; -AdvL: with the adversarial labels; -RL: with "
        "random wrong labels; Adv-RL: adversarial images, random wrong labels; Adv-RS: random directions, as long."
    )
    title = f"{scale.main.name}: does it matter that the examples are adversarial?"
    figures = [
        Figure(f"sets-{slug(scale.main.name)}", title, panels, "Lines: means of the runs; bands: 95 % interval.")
    ]
    return Section(
        title, "", [Table("Fine-tuning sets", columns, lines, notes)], figures if panels[0]["series"] else []
    )


def _epochs(lab: Lab, scale: Scale) -> Section:
    """Avg. Gap after each epoch."""
    setting, share = scale.main, scale.main.shares[0]
    pairs = setting.pairs()[: scale.curve_runs]
    retrained = [lab.peek(setting.retrain(setting.forget(share, seed), model)) for model, seed, _ in pairs]
    series: list[dict[str, Any]] = []
    lines: list[list[Value]] = []
    for method in EPOCH_METHODS:
        values = []
        for cells in _epoch_cells(lab, scale, method):
            found = [lab.peek(cell) for cell in cells]
            if all(found) and all(retrained):
                values.append([gap(each, [r for r in retrained if r]) for each in found if each])
        if values:
            mean = np.mean(values, axis=0)
            error = [half_width(list(column)) for column in np.array(values).T]
            series.append(
                {"label": method.label, "x": list(range(1, len(mean) + 1)), "y": mean.tolist(), "error": error}
            )
            best = int(mean.argmin())
            lines.append([method.label, float(mean[0]), float(mean[-1]), float(mean[best]), best + 1])
        else:
            lines.append(missing(method.label, [""] * 5))
    title = f"{setting.name}: Avg. Gap by epoch, {100 * share:g} %, with the remain set"
    panels = [{"kind": "lines", "title": "Avg. Gap", "x": "epoch", "series": series}]
    columns = ["method", "after one epoch", "at the end", "least", "at epoch"]
    notes = "To the mean of the same runs' retrains. The least is found with the retrain at hand, as no service can."
    caption = "Lines: means of the runs; bands: 95 % interval, cut off where they leave the picture."
    figures = [Figure(f"epochs-{slug(setting.name)}", title, panels, caption)] if series else []
    return Section(title, "", [Table("Epochs", columns, lines, notes)], figures)


def _radii(lab: Lab, scale: Scale) -> Section:
    """The paper's figures 3 and 7: how far the examples lie, of the attacks that are there."""
    setting, share = scale.main, scale.main.shares[0]
    series = []
    for name, attack in (("pgd_l2", setting.attack), ("fast_min_norm", FAST), ("ffgsm", scale.weak)):
        runs = [(setting.original(model), setting.forget(share, seed)) for model, seed, _ in setting.pairs()]
        found = [lab.peek(Adversarial(*run, attack)) for run in runs]
        norms = np.array([each.figures["norms"] for each in found if each is not None and each.figures["norms"]])
        if len(norms):
            series.append({"label": name, "x": norms.mean(axis=0).tolist(), "y": list(range(101))})
    title = f"{setting.name}: distance of the adversarial examples"
    panels = [{"kind": "lines", "title": "Share of forget samples nearer, %", "x": "L2 distance", "series": series}]
    figure = Figure(f"radii-{slug(setting.name)}", title, panels, "Quantiles, means over the reported forget sets.")
    return Section(title, "", [], [figure] if series else [])


# -- attacks ---------------------------------------------------------------------------------------


def attack_cells(lab: Lab, scale: Scale, attack: Any) -> list[tuple[Unlearned, Measured]]:
    """AMUN with `attack`, at the rate that was tuned with the setting's own."""
    setting, share = scale.main, scale.main.shares[0]
    chosen = setting.tuned(lab, AMUN, share, True)
    return setting.final(AMUN, chosen[0], share, True, attack) if chosen else []


def attacks_plan(lab: Lab, scale: Scale) -> Iterator[Cell]:
    yield from scale.main.prepared([(AMUN, True)])
    for _, attack in scale.strengths:
        for _, measured in attack_cells(lab, scale, attack):
            yield measured


def attacks_sections(lab: Lab, scale: Scale) -> list[Section]:
    setting, share = scale.main, scale.main.shares[0]
    columns = [
        "attack", "found, %", "mean L2", "median L2", "forward-equivalents", "ms an image", "AMUN's Avg. Gap", "FT-AUC",
        "TA", "seconds in all",
    ]  # fmt: skip
    retrained = [lab.peek(setting.retrain(setting.forget(share, seed), model)) for model, seed, _ in setting.pairs()]
    lines = []
    for label, attack in scale.strengths:
        cells = attack_cells(lab, scale, attack)
        both = [(lab.peek(cell.adversarial), lab.peek(m), cost(lab, cell)) for cell, m in cells if cell.adversarial]
        there = [each for each in both if each[0] and each[1] and "failed" not in each[1].figures]
        if not there or not all(retrained):
            lines.append(missing(label, columns))
            continue
        sets = [each[0] for each in there if each[0]]
        ends = [each[1] for each in there if each[1]]
        gaps = [gap(each, [r for r in retrained if r]) for each in ends]
        mean = {name: float(np.mean([s.figures[name] for s in sets])) for name in ("found", "mean_norm", "median_norm")}
        lines.append(
            [
                label, 100 * mean["found"], f"{mean['mean_norm']:.4f}", f"{mean['median_norm']:.4f}",
                float(np.mean([s.figures["forward_equivalents"] for s in sets])),
                float(np.mean([1000 * lab_seconds(lab, s) / s.figures["samples"] for s in sets])),
                with_interval(_by_seed(setting.pairs(), gaps)), float(np.mean([e.figures["ft"] for e in ends])),
                float(np.mean([e.figures["ta"] for e in ends])), float(np.mean([each[2] or 0.0 for each in there])),
            ]
        )  # fmt: skip
    notes = (
        "Forward-equivalents an image: one for each forward pass and one for each gradient. AMUN with the remain set, "
        "all at the rate tuned with the setting's own attack. ±: 95 % t interval over the forget sets."
    )
    title = f"{setting.name}: attacks, and AMUN with each"
    return [Section(title, "", [Table("Attacks", columns, lines, notes)])]


def _by_seed(pairs: list[tuple[int, int, int]], values: list[float]) -> list[float]:
    seeds = np.array([seed for _, seed, _ in pairs[: len(values)]])
    return [float(np.array(values)[seeds == seed].mean()) for seed in sorted(set(seeds.tolist()))]
