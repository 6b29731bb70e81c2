"""Study *tables*: every method against exact retraining, with and without the remain set (AMUN paper, tables 1, 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.audits import Floats
from engine.audits.comparison import gap_of_means, gap_per_run, holm, least_p, paired_p
from experiments.cells import Configuration, Trained, Unlearned
from experiments.lab import Lab
from experiments.protocol import AMUN, Method, Setting, row
from experiments.report import NOT_MEASURED, Figure, Section, Table, Value, half_width, missing, with_interval
from experiments.store import Cell, Result

COLUMNS = [
    "method", "UA", "RA", "TA", "FT-AUC", "Avg. Gap", "of means", "paired gap", "p vs AMUN", "MIS", "gap by MIS",
    "FR", "RT", "FT by LiRA", "TPR@1%", "rate", "seconds",
]  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """The runs of one row: forget seeds (R,), figures (R, 4), everything else as it was measured.

    edge: the rate is the least or the largest of its grid, so that one beyond may be better.
    """

    label: str
    seeds: list[int]
    models: list[int]
    figures: Floats
    found: list[Result]
    seconds: list[float]
    rate: float | None = None
    edge: bool = False

    def by_seed(self, values: Floats) -> Floats:
        """Means over the runs of each forget set: those are the independent observations."""
        seeds = np.array(self.seeds)
        return np.array([values[seeds == seed].mean() for seed in sorted(set(self.seeds))])


def plan(lab: Lab, setting: Setting, share: float, remain: bool, methods: Sequence[Method] = ()) -> Iterator[Cell]:
    """The cells of one table, the base first, AMUN before the others."""
    yield from setting.base(share)
    for method in methods or setting.methods(remain):
        yield from tuned_runs(lab, setting, method, share, remain)


def tuned_runs(
    lab: Lab, setting: Setting, method: Method, share: float, remain: bool, attack: Configuration | None = None
) -> Iterator[Cell]:
    """Tune on the sets that are not reported, then run the reported ones."""
    for _, cell in setting.tuning_cells(method, share, remain, attack):
        yield cell
    if chosen := setting.tuned(lab, method, share, remain, attack):
        for _, cell in setting.final(method, chosen[0], share, remain, attack):
            yield cell


def runs_of(
    lab: Lab, setting: Setting, method: Method, share: float, remain: bool, attack: Configuration | None = None
) -> Rows | None:
    """The reported runs that are there; None without any."""
    chosen = setting.tuned(lab, method, share, remain, attack)
    if chosen is None:
        return None
    pairs, cells = setting.pairs(), setting.final(method, chosen[0], share, remain, attack)
    kept, found, seconds = [], [], []
    for pair, (subject, measured) in zip(pairs, cells, strict=True):
        result, spent = lab.peek(measured), cost(lab, subject)
        if result is not None and spent is not None and "failed" not in result.figures:
            kept.append(pair)
            found.append(result)
            seconds.append(spent)
    if not found:
        return None
    figures = np.stack([row(each) for each in found])
    grid = setting.grid(method)
    seeds, models = [seed for _, seed, _ in kept], [model for model, *_ in kept]
    edge = chosen[0] in (min(grid), max(grid))
    rate = chosen[0] if method.tuned else None
    return Rows(method.label, seeds, models, figures, found, seconds, rate, edge)


def plain_rows(lab: Lab, setting: Setting, label: str, share: float, run: int | None) -> Rows | None:
    """Exact retrains number `run`, or the originals where it is None."""
    kept = []
    for model in setting.models:
        for seed in setting.forgets:
            forget = setting.forget(share, seed)
            subject = setting.original(model) if run is None else Trained(setting.world, model, forget, run)
            found, trained = lab.peek(setting.measured(subject, forget)), lab.peek(subject)
            if found is not None and trained is not None:
                kept.append((seed, model, found, lab_seconds(lab, trained) if run is not None else 0.0))
    if not kept:
        return None
    figures = np.stack([row(each[2]) for each in kept])
    return Rows(label, [k[0] for k in kept], [k[1] for k in kept], figures, [k[2] for k in kept], [k[3] for k in kept])


def lab_seconds(lab: Lab, result: Result) -> float:
    """CPU seconds on a CPU, where other jobs stretch the wall clock; wall seconds on an accelerator."""
    return result.cpu_seconds if lab.device.type == "cpu" else result.seconds


def cost(lab: Lab, subject: Unlearned) -> float | None:
    """Seconds of the method and of its adversarial set."""
    own = lab.peek(subject)
    if own is None:
        return None
    total = lab_seconds(lab, own)
    if subject.adversarial is not None:
        searched = lab.peek(subject.adversarial)
        if searched is None:
            return None
        total += lab_seconds(lab, searched)
    return total


def with_mis(rows: Rows) -> Floats:
    """Figures with MIS in the place of FT-AUC."""
    swapped = rows.figures.copy()
    swapped[:, 3] = [each.figures["mis"] for each in rows.found]
    return swapped


def paired_gaps(rows: Rows, retrained: Rows) -> Floats:
    """Gap of each run to the retrains of its own forget set: without the luck of the draw of forget sets."""
    seeds = np.array(retrained.seeds)
    return np.array(
        [
            gap_per_run(one[None], retrained.figures[seeds == seed])[0]
            for seed, one in zip(rows.seeds, rows.figures, strict=True)
        ]
    )


def table_rows(
    lab: Lab, setting: Setting, share: float, remain: bool, methods: Sequence[Method] = ()
) -> list[Rows | str]:
    """Retrain first; then the second retrain, the original and the methods; a label where there is nothing."""
    wanted = list(methods or setting.methods(remain))
    rows: list[Rows | str] = [plain_rows(lab, setting, "Retrain", share, 0) or "Retrain"]
    for label, run in (("Second retrain", 1), ("Original, untouched", None)):
        rows.append(plain_rows(lab, setting, label, share, run) or label)
    for method in wanted:
        rows.append(runs_of(lab, setting, method, share, remain) or method.label)
    return rows


def table_of(rows: list[Rows | str], title: str, complete: int) -> Table:
    """The table of `rows`; with `complete` reported runs a row has all of them."""
    retrained = rows[0]
    if isinstance(retrained, str):
        return Table(title, COLUMNS, [missing(r if isinstance(r, str) else r.label, COLUMNS) for r in rows])
    amun = next((each for each in rows if isinstance(each, Rows) and each.label == AMUN.label), None)
    gaps = {each.label: gap_per_run(each.figures, retrained.figures) for each in rows if isinstance(each, Rows)}
    p_values = _against(amun, rows, gaps)
    lines = []
    for each in rows:
        if isinstance(each, str):
            lines.append(missing(each, COLUMNS))
        else:
            lines.append(_line(each, retrained, gaps[each.label], p_values.get(each.label), complete))
    seeds = len(set(retrained.seeds))
    notes = (
        f"Percent. Means over runs; ± is the 95 % t interval over the {seeds} forget sets' means. UA, RA, TA: accuracy "
        "on the forgotten, retained, test samples; a method should match Retrain, not exceed it. Avg. Gap: per run, to "
        "the mean of Retrain; *of means*: of the mean figures, where errors cancel; *paired*: to the retrains of the "
        "same forget set. p: paired sign permutation of the forget sets' mean gaps against AMUN's, Holm-adjusted over "
        f"the rows (least possible before adjusting: {least_p(seeds):.2g}). rate: chosen on forget sets that are not "
        "reported; (edge): the last of the grid, one beyond it may be better. "
        "seconds: one request, adversarial set included (CPU seconds on a CPU). "
        "A number in brackets after a name: that many of the runs are there."
    )
    return Table(title, COLUMNS, lines, notes)


def _against(amun: Rows | None, rows: list[Rows | str], gaps: dict[str, Floats]) -> dict[str, float]:
    """Holm-adjusted p-value of each method's gaps against AMUN's, over the forget sets both have."""
    labels, values = [], []
    for each in rows[3:]:
        if amun is None or isinstance(each, str) or each.label == amun.label or each.seeds != amun.seeds:
            continue
        labels.append(each.label)
        values.append(paired_p(each.by_seed(gaps[each.label]), amun.by_seed(gaps[amun.label])))
    return dict(zip(labels, holm(np.array(values)).tolist(), strict=True)) if labels else {}


def _line(rows: Rows, retrained: Rows, gaps: Floats, p_value: float | None, complete: int) -> list[Value]:
    means, reference = rows.figures.mean(axis=0), rows is retrained
    mis = with_mis(rows)
    tpr = [each.figures["tpr"].get("1") for each in rows.found]
    label = rows.label if len(rows.seeds) == complete else f"{rows.label} ({len(rows.seeds)})"
    return [
        label,
        *(float(value) for value in means[:3]),
        with_interval(rows.by_seed(rows.figures[:, 3]).tolist()),
        "" if reference else with_interval(rows.by_seed(gaps).tolist()),
        "" if reference else gap_of_means(rows.figures, retrained.figures),
        "" if reference else float(paired_gaps(rows, retrained).mean()),
        "" if p_value is None else f"{p_value:.3f}",
        float(mis[:, 3].mean()),
        "" if reference else float(gap_per_run(mis, with_mis(retrained)).mean()),
        *(float(np.mean([each.figures[name] for each in rows.found])) for name in ("fr", "rt", "ft_lira")),
        float(np.mean([value for value in tpr if value is not None])) if None not in tpr else "",
        "" if rows.rate is None else f"{rows.rate:g}{' (edge)' if rows.edge else ''}",
        float(np.mean(rows.seconds)),
    ]


def section(lab: Lab, setting: Setting, share: float, remain: bool) -> Section:
    access = "with the remain set" if remain else "forget set alone"
    title = f"{setting.name}: {100 * share:g} % forgotten, {access}"
    rows = table_rows(lab, setting, share, remain)
    grid = [_grid_line(lab, setting, method, share, remain) for method in setting.methods(remain)]
    names = ["method", *(f"#{number + 1}" for number in range(len(setting.rates)))]
    notes = (
        f"Learning rates {', '.join(f'{rate:g}' for rate in setting.rates)}; for the Newton step damping "
        f"{', '.join(f'{rate:g}' for rate in setting.dampings)}. {len(setting.tuning)} forget set(s), against "
        f"the retrained model: an oracle, the same for every method. Fixed: {setting.fixed}."
    )
    tables = [
        table_of(rows, "Results", len(setting.pairs())),
        Table("Avg. Gap on the tuning sets, by rate", names, grid, notes),
    ]
    name = f"gap-{slug(setting.name)}-{100 * share:g}-{'remain' if remain else 'alone'}"
    return Section(title, "", tables, gap_figure(rows, name, title))


def _grid_line(lab: Lab, setting: Setting, method: Method, share: float, remain: bool) -> list[Value]:
    chosen = setting.tuned(lab, method, share, remain)
    if chosen is None:
        return [method.label, NOT_MEASURED, *[""] * (len(setting.rates) - 1)]
    values = ["failed" if not np.isfinite(value) else round(value, 2) for value in chosen[1].values()]
    return [method.label, *values, *[""] * (len(setting.rates) - len(values))]


def gap_figure(rows: list[Rows | str], name: str, title: str) -> list[Figure]:
    retrained = rows[0]
    there = [each for each in rows[1:] if isinstance(each, Rows)]
    if isinstance(retrained, str) or not there:
        return []
    gaps = [each.by_seed(gap_per_run(each.figures, retrained.figures)) for each in there]
    fts = [each.by_seed(each.figures[:, 3]) for each in there]
    labels = [each.label for each in there]
    panels = [
        {
            "kind": "dots", "title": "Avg. Gap to retraining (smaller is better)", "labels": labels,
            "values": [float(v.mean()) for v in gaps], "errors": [half_width(v.tolist()) for v in gaps], "line": 0.0,
            "points": [v.tolist() for v in gaps],
        },
        {
            "kind": "dots", "title": "FT-AUC (as retrained: the line)", "labels": labels,
            "values": [float(v.mean()) for v in fts], "errors": [half_width(v.tolist()) for v in fts],
            "line": float(retrained.figures[:, 3].mean()), "points": [v.tolist() for v in fts],
        },
    ]  # fmt: skip
    caption = (
        "Dots: means of each forget set; bars: 95 % interval of their mean. Where bars overlap, no rank is claimed."
    )
    return [Figure(name, title, panels, caption)]


def slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower()).strip("-")
