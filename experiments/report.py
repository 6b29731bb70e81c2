"""What a study gives to the report: tables and figures, and how they become Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy import special

Value = str | float | int | None
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[str]
    rows: list[list[Value]]
    notes: str = ""


@dataclass(frozen=True)
class Figure:
    """A plot: `panels` are dicts that `experiments.plots` draws, side by side."""

    name: str
    title: str
    panels: list[dict[str, Any]]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        return asdict(self)


def cell_text(value: Value) -> str:
    if value is None:
        return NOT_MEASURED
    if isinstance(value, float):
        return "–" if not np.isfinite(value) else f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def markdown(section: Section) -> str:
    parts = [f"## {section.title}", *([section.text] if section.text else [])]
    for table in section.tables:
        lines = [f"### {table.title}", "", _line(table.columns), _line(["---"] * len(table.columns))]
        lines += [_line([cell_text(value) for value in row]) for row in table.rows]
        parts.append("\n".join(lines))
        if table.notes:
            parts.append(table.notes)
    parts += [f"![{figure.title}]({figure.name}.png)\n\n{figure.caption}".rstrip() for figure in section.figures]
    return "\n\n".join(parts)


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def missing(label: str, columns: Sequence[str], reason: str = NOT_MEASURED) -> list[Value]:
    """A row that says so."""
    return [label, reason, *[""] * (len(columns) - 2)]


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % t interval of the mean of `values`; NaN of fewer than two."""
    count = len(values)
    if count < 2:
        return float("nan")
    return float(special.stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / count**0.5)


def with_interval(values: Sequence[float], digits: int = 2) -> str:
    """Mean and half width of its 95 % interval."""
    if not len(values):
        return NOT_MEASURED
    half = half_width(values)
    spread = f" ± {half:.{digits}f}" if np.isfinite(half) else ""
    return f"{np.mean(values):.{digits}f}{spread}"
