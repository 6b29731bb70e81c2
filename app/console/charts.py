"""Pictures of pages as inline SVG, coloured by the style sheet: lineage, figures by version, runs of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from app.console import words
from app.console.calls import Document
from app.reports.numbers import decimal, percent
from app.reports.svg import drawing, stroke, tag
from app.reports.svg import words as label

WIDTH = 360.0
MOST = 12  # versions of a picture: the newest


class Series(NamedTuple):
    """One figure by version. `null`: a line to compare with. `limits`: what the policy allows."""

    name: str
    values: list[tuple[int, float]]
    null: float | None = None
    limits: tuple[float, ...] = ()


def lineage(versions: Sequence[Document]) -> Markup | None:
    """Which version was made from which: a row each, oldest first, joined by lines. Comparisons are left out."""
    rows = sorted((row for row in versions if row["origin"] != "comparison"), key=lambda row: row["number"])[-MOST:]
    if not rows:
        return None
    places = {row["number"]: 22.0 + 34.0 * index for index, row in enumerate(rows)}
    parts: list[Markup] = []
    for row in rows:
        y, parent = places[row["number"]], row["parent"]
        if parent in places:
            start, bend = places[parent], 14.0 + 3.0 * min(3, abs(row["number"] - parent) - 1)
            path = f"M 18 {start:g} C {18 - bend:g} {start + 12:g}, {18 - bend:g} {y - 12:g}, 18 {y:g}"
            parts.append(
                tag("path", d=path if row["number"] - parent > 1 else f"M 18 {start:g} V {y:g}", class_="twig")
            )
    for row in rows:
        y = places[row["number"]]
        parts.append(tag("circle", cx=18, cy=y, r=7, class_=f"node {row['state']}"))
        parts.append(label(36, y - 2, f"Version {row['number']}", "start", "strong"))
        said = f"{row['origin']}, {words.state_word(row['state']).lower()}"
        parts.append(label(36, y + 12, said, "start"))
    text = "; ".join(
        f"version {row['number']} {row['origin']}" + (f" from version {row['parent']}" if row["parent"] else "")
        for row in rows
    )
    return drawing("lineage", "Lineage", text, (200, 34.0 * len(rows) + 12), *parts)


def by_version(versions: Sequence[Document], policy: Document) -> list[tuple[Series, Markup]]:
    """FT-AUC with the policy's margin, and test accuracy with the floor of the next version."""
    rows = [row for row in versions if row["origin"] != "comparison" and row["metrics"]]
    rows = sorted(rows, key=lambda row: row["number"])[-MOST:]

    margin = policy["audit"].get("params", {}).get("margin")
    now = next((row["metrics"].get("accuracy_test") for row in rows if row["state"] == "current"), None)
    floor = 0.0 if now is None else now - policy["utility_floor"]

    def series(name: str, key: str, null: float | None, *limits: float) -> Series:
        values = [(row["number"], row["metrics"][key]) for row in rows if row["metrics"].get(key) is not None]
        return Series(name, values, null, limits)

    wanted = (
        series("FT-AUC", "ft_auc", 0.5, *((0.5 - margin, 0.5 + margin) if margin else ())),
        series("Test accuracy", "accuracy_test", None, *((floor,) if floor > 0 else ())),
    )
    return [(each, _line(each)) for each in wanted if each.values]


def canaries(values: list[tuple[int, float]]) -> Markup | None:
    """FT-AUC of the canaries that each version has forgotten."""
    return _line(Series("FT-AUC of canaries", values[-MOST:], 0.5)) if values else None


def _line(series: Series) -> Markup:
    left, right, top, bottom = 44.0, WIDTH - 14, 14.0, 104.0
    numbers = [number for number, _ in series.values]
    low, high = 0.0, 1.0
    first, last = min(numbers), max(numbers)

    def x(number: int) -> float:
        return (left + right) / 2 if first == last else left + (number - first) / (last - first) * (right - left)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    parts = [stroke(left - 6, y(tick), right + 6, y(tick), "grid") for tick in (0.0, 0.5, 1.0)]
    parts += [label(left - 12, y(tick) + 4, f"{tick:g}", "end") for tick in (0.0, 0.5, 1.0)]
    if series.null is not None:
        parts.append(stroke(left - 6, y(series.null), right + 6, y(series.null), "null"))
    parts += [stroke(left - 6, y(limit), right + 6, y(limit), "limit") for limit in series.limits]
    points = " ".join(f"{x(number):.1f},{y(value):.1f}" for number, value in series.values)
    parts.append(tag("polyline", points=points, class_="line"))
    form = decimal if series.null is not None else percent
    for number, value in series.values:
        parts.append(tag("circle", cx=x(number), cy=y(value), r=4, class_="dot"))
        parts.append(label(x(number), bottom + 18, f"v{number}"))
    text = "; ".join(f"version {number}: {form(value)}" for number, value in series.values)
    return drawing(f"by-version-{series.name.lower().replace(' ', '-')}", series.name, text, (WIDTH, 128), *parts)


def history(jobs: Sequence[Document]) -> Markup | None:
    """The length of each run, oldest first, as a bar in the colour of its end."""
    runs = [row for row in reversed(jobs) if row["started_at"] and row["finished_at"]][-50:]
    if len(runs) < 2:
        return None
    seconds = [(words.parse(row["finished_at"]) - words.parse(row["started_at"])).total_seconds() for row in runs]
    longest = max(*seconds, 0.001)
    width, height = 600.0, 56.0
    step = min(14.0, width / len(runs))
    bars = [
        tag(
            "rect",
            tag(
                "title",
                f"{words.kind(row['kind'])}: {words.state_word(row['state'])}, {words.duration(spent)}",
            ),
            x=index * step,
            y=height - 4 - max(3.0, spent / longest * (height - 8)),
            width=step - 2,
            height=max(3.0, spent / longest * (height - 8)),
            rx=1,
            class_=f"run {words.TONES.get(row['state'], 'calm')}",
        )
        for index, (row, spent) in enumerate(zip(runs, seconds, strict=True))
    ]
    said = f"{len(runs)} runs; the longest took {words.duration(longest)}"
    return drawing("runs", "Lengths of the runs", said, (max(120.0, step * len(runs)), height), *bars)
