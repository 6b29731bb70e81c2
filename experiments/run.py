"""One run of `lethe bench`: the plan, most valuable cells first, and the report of what is there."""

from __future__ import annotations

import gzip
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from experiments import ablations, by_class, checks, gate, plots, probing, sequences, tables
from experiments.lab import Lab
from experiments.report import Section, markdown
from experiments.scales import Scale
from experiments.store import Busy, Cell, NotMeasured, OutOfTime, write_text

CellPlan = Callable[[Lab, Scale], Iterator[Cell]]
SECONDS_BETWEEN_PASSES = 2.0


@dataclass(frozen=True)
class Study:
    """plans: in stages, so that the most valuable cells of all studies come first."""

    sections: Callable[[Lab, Scale], list[Section]]
    plans: tuple[CellPlan, ...] = ()


def _main_table(remain: bool, share: int) -> CellPlan:
    def plan(lab: Lab, scale: Scale) -> Iterator[Cell]:
        for its_share in scale.main.shares[share : share + 1]:
            yield from tables.plan(lab, scale.main, its_share, remain)

    return plan


def _other_tables(lab: Lab, scale: Scale) -> Iterator[Cell]:
    for setting in scale.settings[1:]:
        for share in setting.shares:
            for remain in (True, False):
                yield from tables.plan(lab, setting, share, remain)


def _table_sections(lab: Lab, scale: Scale) -> list[Section]:
    return [
        tables.section(lab, setting, share, remain)
        for setting in scale.settings
        for share in setting.shares
        for remain in (True, False)
    ]


STUDIES: Mapping[str, Study] = {
    "gate": Study(gate.sections, (gate.plan,)),
    "tables": Study(
        _table_sections,
        (*(_main_table(remain, share) for share in (0, 1) for remain in (True, False)), _other_tables),
    ),
    "attacks": Study(ablations.attacks_sections, (ablations.attacks_plan,)),
    "sequential": Study(sequences.sections, (sequences.plan,)),
    "ablation": Study(ablations.sections, (ablations.plan,)),
    "transfer": Study(checks.transfer_sections, (checks.transfer_plan,)),
    "weak": Study(checks.weak_sections, (checks.weak_plan,)),
    "exactness": Study(checks.exactness_sections, (checks.exactness_plan,)),
    "references": Study(checks.references_sections, (checks.exactness_plan,)),
    "probes": Study(probing.sections, (probing.plan,)),
    "theory": Study(checks.theory_sections, (checks.theory_plan,)),
    "robust": Study(
        lambda lab, scale: checks.other_sections(lab, checks.robust_settings(scale), "Robust models"),
        (lambda lab, scale: checks.other_plan(lab, checks.robust_settings(scale)),),
    ),
    "mixunlearn": Study(by_class.sections, (by_class.plan,)),
    "larger": Study(
        lambda lab, scale: checks.other_sections(lab, checks.larger_settings(scale), "Larger data"),
        (lambda lab, scale: checks.other_plan(lab, checks.larger_settings(scale)),),
    ),
}
# How long to train, the first half of the main tables, the cheap checks, the other half, what explains them, then other
# data.
ORDER = (
    ("gate", 0), ("tables", 0), ("tables", 1), ("exactness", 0), ("theory", 0), ("attacks", 0), ("tables", 2),
    ("tables", 3), ("sequential", 0), ("ablation", 0), ("transfer", 0), ("weak", 0), ("mixunlearn", 0), ("probes", 0),
    ("tables", 4), ("robust", 0), ("larger", 0), ("references", 0),
)  # fmt: skip


def work(lab: Lab, scale: Scale, studies: list[str], say: Callable[[str], None] = lambda _line: None) -> bool:
    """Compute every cell of `studies` for which data are there; return False where the time limit came first.

    A cell that another process computes is left to it, and looked at again later.
    """
    try:
        while True:
            before, busy = lab.computed, False
            for name, stage in ORDER:
                if name in studies:
                    busy |= _stage(lab, STUDIES[name].plans[stage](lab, scale), f"{name} {stage + 1}", say)
            if lab.computed == before and not busy:
                return True
            if lab.computed == before:
                lab.store.check_time()
                time.sleep(SECONDS_BETWEEN_PASSES)
    except OutOfTime:
        return False


def _stage(lab: Lab, plan: Iterator[Cell], name: str, say: Callable[[str], None]) -> bool:
    """Walk `plan`; return whether another process was computing one of its cells."""
    busy, before, begun = False, lab.computed, time.monotonic()
    for cell in plan:
        try:
            lab.get(cell, wait=False)
        except NotMeasured:
            continue
        except Busy:
            busy = True
    if lab.computed > before:
        say(f"{name}: {lab.computed - before} cells in {time.monotonic() - begun:.0f} s")
    return busy


def report(lab: Lab, scale: Scale, studies: list[str], command: str, out: Path) -> dict[str, Any]:
    """Write the report of what is there into `out`, and return it as a document.

    results.json: the tables, the figures' data, machine and seeds. cells.jsonl.gz: every cell, one a line.
    results.md and the plots: the same to read.
    """
    sections = {name: STUDIES[name].sections(lab, scale) for name in studies}
    cells = [{**each, "figures": _brief(each["figures"])} for each in lab.store.documents()]
    document = {
        "scale": scale.name,
        "command": command,
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine(lab.device) | {"rounding": lab.store.root.name},
        "seeds": {
            setting.name: {"models": setting.models, "forget sets": setting.forgets, "tuning": setting.tuning}
            for setting in scale.settings
        },
        "cpu_seconds": round(sum(each.pop("total_cpu_seconds") for each in cells), 1),
        "studies": {name: [section.document() for section in made] for name, made in sections.items()},
        "cells": cells,
    }
    out.mkdir(parents=True, exist_ok=True)
    figures = [figure for made in sections.values() for section in made for figure in section.figures]
    drawn = plots.draw(figures, out)
    shown = {name: value for name, value in document.items() if name != "cells"}
    write_text(out / "results.json", json.dumps(shown, indent=1) + "\n")
    lines = "".join(json.dumps(cell) + "\n" for cell in cells)
    (out / "cells.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    write_text(out / "results.md", _page(document, sections, drawn))
    return document


def _brief(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name != "norms"}


def _page(document: dict[str, Any], sections: dict[str, list[Section]], drawn: bool) -> str:
    facts = {
        "command": f"`{document['command']}`",
        **document["machine"],
        "cells": f"{len(document['cells'])}, {document['cpu_seconds']:,.0f} CPU seconds in their computations",
        "at": document["at"],
    }
    head = [
        f"# `lethe bench`, scale {document['scale']}",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
    ]
    body = [markdown(section if drawn else _without_figures(section)) for made in sections.values() for section in made]
    return "\n\n".join([*head, *body]) + "\n"


def _without_figures(section: Section) -> Section:
    return Section(section.title, section.text, section.tables)


def machine(device: torch.device) -> dict[str, str]:
    """Hardware and versions."""
    versions = {}
    for name in ("lethe-unlearning", "torch", "numpy", "scipy", "scikit-learn"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "from a folder"
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    return {"device": name, "cpu": f"{cpu}, {os.cpu_count()} cores", "python": platform.python_version(), **versions}
