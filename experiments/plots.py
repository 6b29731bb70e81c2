"""The report's figures as PNG, by matplotlib where it is installed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from experiments.report import Figure

COLOURS = ("#1f5fa8", "#d1701f", "#2f8f5b", "#b23a48", "#6b4fa0", "#7a7a7a", "#0f9aa8", "#a88a1f")
FEWEST = 3  # runs: the interval of two is twelve times their distance
INK, FAINT = "#222222", "#d9d9d9"


def draw(figures: list[Figure], folder: Path) -> bool:
    """Draw each of `figures` into `folder`; return False where there is no matplotlib."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    style: Any = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "figure.dpi": 130,
    }
    with pyplot.rc_context(style):
        for figure in figures:
            _draw(pyplot, figure, folder / f"{figure.name}.png")
    return True


def _draw(pyplot: Any, figure: Figure, path: Path) -> None:
    panels = figure.panels
    rows = max((len(panel.get("labels", ())) for panel in panels), default=0)
    height = max(3.8, 1.5 + 0.27 * rows)
    width = max(6.4, 4.6 * len(panels))
    drawn, axes = pyplot.subplots(1, len(panels), figsize=(width, height), squeeze=False)
    for place, (axis, panel) in enumerate(zip(axes[0], panels, strict=True)):
        {"dots": _dots, "lines": _lines}[panel["kind"]](axis, panel, place)
    handles, labels = axes[0][0].get_legend_handles_labels()
    if len(labels) > 1:
        drawn.legend(handles, labels, loc="lower center", ncols=min(len(labels), int(width / 1.8)), frameon=False)
    drawn.suptitle(figure.title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    lines = math.ceil(len(labels) / int(width / 1.8)) if len(labels) > 1 else 0
    drawn.tight_layout(rect=(0, 0.07 * lines, 1, 0.97))
    drawn.savefig(path, metadata={"Software": None})
    pyplot.close(drawn)


def _dots(axis: Any, panel: dict[str, Any], place: int) -> None:
    """One line per label: the mean with its interval, and the points it is the mean of."""
    labels = panel["labels"]
    for level, (value, error, points) in enumerate(zip(panel["values"], panel["errors"], panel["points"], strict=True)):
        colour = COLOURS[0] if labels[level].startswith("AMUN") else COLOURS[5]
        axis.plot(points, [level] * len(points), "o", color=colour, alpha=0.25, markersize=3, markeredgewidth=0)
        if math.isfinite(error):
            axis.plot(
                [value - error, value + error], [level, level], color=colour, linewidth=1.6, solid_capstyle="butt"
            )
        axis.plot([value], [level], "o", color=colour, markersize=5)
    axis.axvline(panel["line"], color=INK, linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(labels)), labels if place == 0 else [""] * len(labels))
    axis.set_ylim(len(labels) - 0.5, -0.5)
    middle = sorted(panel["values"])[-1]
    if panel["line"] == 0:
        axis.set_xlim(0, min(1.15 * middle + 1, 40))
    axis.grid(axis="y", color=FAINT, linewidth=0.5)
    axis.tick_params(axis="y", length=0)
    axis.set_title(panel["title"])


def _lines(axis: Any, panel: dict[str, Any], place: int) -> None:  # noqa: ARG001
    for number, line in enumerate(panel["series"]):
        colour = COLOURS[number % len(COLOURS)]
        axis.plot(line["x"], line["y"], color=colour, label=line["label"], linewidth=1.5)
        errors = line.get("error", [])
        if errors and all(math.isfinite(error) for error in errors) and line.get("runs", FEWEST) >= FEWEST:
            low = [y - e for y, e in zip(line["y"], errors, strict=True)]
            high = [y + e for y, e in zip(line["y"], errors, strict=True)]
            axis.fill_between(line["x"], low, high, color=colour, alpha=0.12, linewidth=0)
    # The bands of few runs are wide: they are cut off rather than let hide the lines.
    values = [y for line in panel["series"] for y in line["y"] if math.isfinite(y)]
    axis.set_title(panel["title"])
    if not values:  # every run of it failed
        return
    room = 0.2 * (max(values) - min(values)) + 1e-9
    axis.set_ylim(min(values) - room, max(values) + room)
    if panel.get("log"):
        axis.set_xscale("log", base=2)
        sizes = panel["series"][0]["x"]
        axis.set_xticks(sizes, [str(size) for size in sizes])
    else:
        axis.locator_params(axis="x", nbins=8, integer=panel["x"] in ("epoch", "request"))
    axis.set_xlabel(panel["x"])
    axis.grid(axis="y", color=FAINT, linewidth=0.5)
