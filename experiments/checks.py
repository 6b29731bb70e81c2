"""Studies on the audit itself and on other kinds of models, data and forget sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments import tables
from experiments.cells import Adversarial, Judged, Measured, Theory, Trained, Unlearned
from experiments.lab import Lab
from experiments.protocol import AMUN, AMUN_ADVERSARIAL_ONLY, AMUN_SALUN, FT, GA, RL, SALUN, Method, Setting, gap, row
from experiments.report import Figure, Section, Table, Value, missing, with_interval
from experiments.scales import TRANSFER, Scale
from experiments.store import Cell, NotMeasured
from experiments.tables import slug

# -- exactness and references ----------------------------------------------------------------------


def exact_cells(scale: Scale) -> Iterator[tuple[str, float, Judged]]:
    """The service's verdict on exact retrains and on untouched models, one of each a seed."""
    setting = scale.main
    for share in setting.shares:
        for seed in scale.judged:
            forget, model = setting.forget(share, seed), setting.models[0]
            original = setting.original(model)
            for kind, subject in (("exact retrain", Trained(setting.world, model, forget)), ("untouched", original)):
                yield kind, share, Judged(subject, original, forget, setting.references)


def exactness_plan(_lab: Lab, scale: Scale) -> Iterator[Cell]:
    yield from (cell for *_, cell in exact_cells(scale))


def exactness_sections(lab: Lab, scale: Scale) -> list[Section]:
    columns = ["model", "forgotten", "seeds", "pass", "inconclusive", "fail", "FT-AUC − null, each", "why inconclusive"]
    lines: list[list[Value]] = []
    for share in scale.main.shares:
        for kind in ("exact retrain", "untouched"):
            cells = [
                lab.peek(cell)
                for its_kind, its_share, cell in exact_cells(scale)
                if (its_kind, its_share) == (kind, share)
            ]
            found = [each.figures for each in cells if each is not None]
            counts = [sum(each["verdict"] == verdict for each in found) for verdict in ("pass", "inconclusive", "fail")]
            each_one = ", ".join("–" if f["difference"] is None else f"{f['difference']:+.3f}" for f in found)
            name = f"{100 * share:g} %"
            if not found:
                lines.append([kind, name, *missing("", columns)[1:-1]])
                continue
            why = Counter(_why(each) for each in found if each["verdict"] == "inconclusive")
            reasons = "; ".join(f"{count} × {reason}" for reason, count in sorted(why.items()))
            lines.append([kind, name, len(found), *counts, each_one, reasons])
    notes = (
        "The verdict of the service's audit (margin 0.05, 95 % intervals). It must never fail an exact retrain and "
        "always fail an untouched model; a set too small to pass is inconclusive, as it should be."
    )
    return [Section(f"{scale.main.name}: does the audit tell?", "", [Table("Verdicts", columns, lines, notes)])]


def _why(ruling: dict[str, Any]) -> str:
    """An inconclusive verdict's reason, without its figures."""
    if ruling["difference"] is None:
        return str(ruling["reason"]).partition(":")[0]
    return "interval not inside ± margin"


def references_sections(lab: Lab, scale: Scale) -> list[Section]:
    """AUCs by a part of the references, from the same cells as exactness."""
    share = scale.main.shares[0]
    series = []
    columns = ["model", "figure"]
    lines: list[list[Value]] = []
    for kind in ("exact retrain", "untouched"):
        found = [
            lab.peek(cell) for its_kind, its_share, cell in exact_cells(scale) if (its_kind, its_share) == (kind, share)
        ]
        curves = [each.figures["convergence"] for each in found if each is not None]
        if not curves:
            continue
        sizes = [point["models"] for point in curves[0]]
        columns = ["model", "figure", *(f"{size} references" for size in sizes)]
        for what, name in (("ft_auc", "FT-AUC"), ("rt_auc", "RT-AUC")):
            values = np.array([[np.nan if p[what] is None else 100 * p[what] for p in curve] for curve in curves])
            mean, spread = (
                values.mean(axis=0),
                values.std(axis=0, ddof=1) if len(values) > 1 else np.full(len(sizes), np.nan),
            )
            sds = [f" (sd {value:.1f})" if np.isfinite(value) else "" for value in spread]
            lines.append([kind, name, *(f"{value:.1f}{sd}" for value, sd in zip(mean, sds, strict=True))])
            series.append({"label": f"{kind}, {name}", "x": sizes, "y": mean.tolist(), "error": spread.tolist()})
    title = f"{scale.main.name}: how many references?"
    if not series:
        return [Section(title, "", [Table("Convergence", columns, [missing("exact retrain", columns)])])]
    panels = [{"kind": "lines", "title": "AUC, %", "x": "reference models", "series": series, "log": True}]
    notes = (
        f"Nested subsets of the pool, in one random order; {len(curves)} forget sets, sd over them. A subset leaves "
        "samples without an IN or an OUT model; they are left out at that size, so that the first column rests on half."
    )
    figure = Figure(
        f"references-{slug(scale.main.name)}", title, panels, "Bands: standard deviation over the forget sets."
    )
    return [Section(title, "", [Table("Convergence", columns, lines, notes)], [figure])]


# -- theory ----------------------------------------------------------------------------------------


def theory_plan(_lab: Lab, scale: Scale) -> Iterator[Cell]:
    yield Theory(scale.instances)


def theory_sections(lab: Lab, scale: Scale) -> list[Section]:
    found = lab.peek(Theory(scale.instances))
    columns = [
        "data", "distance, × nearest", "δ", "bound holds, %", "tighter holds, %", "left side", "bound", "tighter",
        "nearer than before, %", "bound says so, %", "tighter says so, %",
    ]  # fmt: skip
    lines: list[list[Value]] = [missing("random", columns)]
    if found is not None:
        lines = [
            [
                r["data"], f"{r['overshoot']:g}", r["delta"], 100 * r["holds"], 100 * r["tighter_holds"], r["left"],
                r["right"], r["tighter"], 100 * r["nearer_than_before"], 100 * r["informative"],
                100 * r["tighter_informative"],
            ]
            for r in found.figures["rows"]
        ]  # fmt: skip
    notes = (
        f"{scale.instances} linear models with squared loss that interpolate, one step on D and the adversarial "
        "example. Left side |θ' − θ_R|², bound (Theorem 4.1), tighter bound (without Lδ and ℓ(f_o(x'), y)): medians in "
        "units of |θ_o − θ_R|²: under 1 means nearer to the retrained model than before. *Says so*: how often."
    )
    return [Section("Theorem 4.1 on a convex model", "", [Table("Both sides", columns, lines, notes)])]


# -- transfer and the weak attack --------------------------------------------------------------------

SETS = ((AMUN, True), (AMUN_ADVERSARIAL_ONLY, True), (AMUN, False), (AMUN_ADVERSARIAL_ONLY, False))


def transfer_cells(lab: Lab, setting: Setting, method: Method, remain: bool) -> list[Measured]:
    """AMUN with the examples of the next model; rates as tuned with its own."""
    share, models = setting.shares[0], _donors(setting)
    chosen = setting.tuned(lab, method, share, remain)
    if chosen is None:
        return []
    cells = []
    for model, seed, _ in setting.pairs():
        forget, start = setting.forget(share, seed), setting.original(model)
        donor = Adversarial(setting.original(models[model]), forget, setting.attack)
        given = Adversarial(start, forget, TRANSFER, donor)
        subject = Unlearned(start, forget, setting.configured(method, chosen[0]), remain, given)
        cells.append(setting.measured(subject, forget))
    return cells


def _donors(setting: Setting) -> dict[int, int]:
    """Each model's donor: the next one, of one model an additional one."""
    models = setting.models if len(setting.models) > 1 else (*setting.models, setting.models[0] + 1)
    return {model: models[(place + 1) % len(models)] for place, model in enumerate(models)}


def transfer_plan(lab: Lab, scale: Scale) -> Iterator[Cell]:
    yield from scale.main.prepared(SETS)
    for method, remain in SETS:
        yield from transfer_cells(lab, scale.main, method, remain)


def weak_plan(lab: Lab, scale: Scale) -> Iterator[Cell]:
    yield from scale.main.prepared(SETS)
    for method, remain in SETS:
        yield from tables.tuned_runs(lab, scale.main, method, scale.main.shares[0], remain, scale.weak)


def _set_rows(lab: Lab, setting: Setting, kinds: list[tuple[str, list[list[Measured]]]]) -> list[list[Value]]:
    """A line for each kind and fine-tuning set: TA, FT, Avg. Gap."""
    share = setting.shares[0]
    retrained = [lab.peek(setting.retrain(setting.forget(share, seed), model)) for model, seed, _ in setting.pairs()]
    lines: list[list[Value]] = []
    for kind, by_set in kinds:
        for (method, remain), cells in zip(SETS, by_set, strict=True):
            label = f"{kind}: {method.label}, {'with' if remain else 'without'} D_R"
            found = [each for each in map(lab.peek, cells) if each is not None and "failed" not in each.figures]
            if not found or not all(retrained):
                lines.append(missing(label, [""] * 5))
                continue
            gaps = [gap(each, [r for r in retrained if r]) for each in found]
            figures = np.stack([row(each) for each in found])
            lines.append(
                [
                    label,
                    *figures.mean(axis=0)[[0, 2]].tolist(),
                    with_interval(figures[:, 3].tolist()),
                    with_interval(gaps),
                ]
            )
    return lines


SET_COLUMNS = ["examples and set", "UA", "TA", "FT-AUC", "Avg. Gap"]


def _own(lab: Lab, setting: Setting) -> tuple[str, list[list[Measured]]]:
    share, cells = setting.shares[0], []
    for method, remain in SETS:
        chosen = setting.tuned(lab, method, share, remain)
        cells.append([m for _, m in setting.final(method, chosen[0], share, remain)] if chosen else [])
    return "own, as in the tables", cells


def transfer_sections(lab: Lab, scale: Scale) -> list[Section]:
    setting = scale.main
    kinds = [
        _own(lab, setting),
        ("transferred", [transfer_cells(lab, setting, method, remain) for method, remain in SETS]),
    ]
    rates = []
    for cell in transfer_cells(lab, setting, *SETS[0]):
        subject = cell.subject
        found = lab.peek(subject.adversarial) if isinstance(subject, Unlearned) and subject.adversarial else None
        if found is not None:
            rates.append((found.figures["fooled"], found.figures["agreed"]))
    text = ""
    if rates:
        fooled, agreed = 100 * np.mean(rates, axis=0)
        text = (
            f"Of the transferred examples {fooled:.1f} % fool the model, {agreed:.1f} % with their own model's label."
        )
    notes = "Inputs and labels of another model's set. ±: 95 % t interval over runs."
    title = f"{setting.name}: adversarial examples of another model"
    return [Section(title, text, [Table("Transfer", SET_COLUMNS, _set_rows(lab, setting, kinds), notes)])]


def weak_sections(lab: Lab, scale: Scale) -> list[Section]:
    setting, share = scale.main, scale.main.shares[0]
    cells = []
    for method, remain in SETS:
        chosen = setting.tuned(lab, method, share, remain, scale.weak)
        cells.append([m for _, m in setting.final(method, chosen[0], share, remain, scale.weak)] if chosen else [])
    notes = (
        "ffgsm, its rates tuned again; its parameters are ours (the paper gives none). ±: 95 % t interval over runs."
    )
    title = f"{setting.name}: a weak attack"
    pairs = {(model, seed) for model, seed, _ in setting.pairs()}
    sets = [
        lab.peek(Adversarial(setting.original(model), setting.forget(share, seed), scale.weak))
        for model, seed in sorted(pairs)
    ]
    found = [each.figures["found"] for each in sets if each is not None]
    text = (
        f"It finds an example of {100 * np.mean(found):.1f} % of the samples; the others go without." if found else ""
    )
    rows = _set_rows(lab, setting, [_own(lab, setting), ("ffgsm", cells)])
    return [Section(title, text, [Table("Weak attack", SET_COLUMNS, rows, notes)])]


# -- robust models and larger data -------------------------------------------------------------------

FEW = (AMUN, AMUN_SALUN, SALUN, RL, FT, GA)


@dataclass(frozen=True)
class Other:
    """A setting beside the main one, and the methods of its table."""

    setting: Setting
    methods: tuple[Method, ...]


def robust_settings(scale: Scale) -> list[Other]:
    """The main data under other recipes; adversarial training costs ten times as much, so at most four forget sets."""
    main, others = scale.main, []
    for label, recipe, references in scale.robust:
        world = replace(main.world, recipe=recipe)
        setting = replace(
            main,
            name=f"{main.name}, {label}",
            world=world,
            references=references,
            models=main.models[:1],
            forgets=main.forgets[:4],
            tuning=main.tuning[:1],
        )
        others.append(Other(setting, (AMUN,)))
    return others


def larger_settings(scale: Scale) -> list[Other]:
    return [Other(setting, FEW) for setting in scale.larger]


def other_plan(lab: Lab, others: list[Other]) -> Iterator[Cell]:
    for other in others:
        for remain in (True, False):
            methods = [method for method in other.methods if remain or not method.needs_remain]
            yield from tables.plan(lab, other.setting, other.setting.shares[0], remain, methods)


def other_sections(lab: Lab, others: list[Other], title: str) -> list[Section]:
    if not others:
        return [Section(title, "Not part of this scale: not measured.")]
    sections = []
    for other in others:
        setting, share = other.setting, other.setting.shares[0]
        text = ""
        try:
            lab.loaded(setting.world)
        except NotMeasured as reason:
            text = f"Not measured: {reason}."
        made = []
        for remain in (True, False) if not text else ():
            methods = [method for method in other.methods if remain or not method.needs_remain]
            rows = tables.table_rows(lab, setting, share, remain, methods)
            made.append(tables.table_of(rows, "With the remain set" if remain else "Without", len(setting.pairs())))
        sections.append(Section(f"{title}: {setting.name}", text, made))
    return sections
