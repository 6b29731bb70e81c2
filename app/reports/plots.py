"""Plots of the audit report as inline SVG: pure functions of numbers, no library, no request.

Colours come from the page's style sheet through classes (`parent`, `candidate`, `retrained`), so that
light, dark and print each have their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from app.reports.numbers import MINUS, signed
from app.reports.svg import drawing, linear, stroke, tag, ticks, words

WIDTH = 360.0
PANEL = 260.0


class Span(NamedTuple):
    """One row of the interval plot: a point estimate with its 95 % interval."""

    series: str
    label: str
    value: float
    low: float
    high: float


class Line(NamedTuple):
    """One ROC curve."""

    series: str
    label: str
    fpr: Sequence[float]
    tpr: Sequence[float]


class Counts(NamedTuple):
    """Histogram counts of one model in equal bins over [0, 1]."""

    series: str
    label: str
    counts: Sequence[int]


def interval_plot(spans: Sequence[Span], margin: float, null: float) -> Markup:
    """Differences from the null with their intervals against the band of +-margin."""
    left, right, top, row = 88.0, WIDTH - 12, 42.0, 46.0
    bottom = top + row * len(spans)
    ends = [
        0.0,
        -margin,
        margin,
        *(s.low for s in spans),
        *(s.high for s in spans),
        *(s.value for s in spans),
    ]
    pad = 0.08 * (max(ends) - min(ends)) or 0.05
    low, high = min(ends) - pad, max(ends) + pad
    x = linear(low, high, left, right)
    zero = min(max(x(0.0), left + 62), right - 62)
    parts = [
        tag("rect", x=x(-margin), y=top, width=x(margin) - x(-margin), height=bottom - top, class_="band"),
        stroke(x(-margin), top - 4, x(-margin), bottom, "edge"),
        stroke(x(margin), top - 4, x(margin), bottom, "edge"),
        stroke(x(0.0), top - 18, x(0.0), bottom, "null"),
        words(zero, 16, f"null: FT-AUC {null:.3f}"),
        words(max(x(-margin) - 3, left + 34), top - 8, f"{MINUS}{margin:g}", "end"),
        words(x(margin) + 3, top - 8, f"+{margin:g}", "start"),
    ]
    for i, span in enumerate(spans):
        y = top + row * (i + 0.5)
        parts += [
            words(0, y - 2, span.label, "start", "strong"),
            words(0, y + 14, signed(span.value), "start"),
            stroke(x(span.low), y, x(span.high), y, f"whisker {span.series}"),
            stroke(x(span.low), y - 5, x(span.low), y + 5, f"whisker {span.series}"),
            stroke(x(span.high), y - 5, x(span.high), y + 5, f"whisker {span.series}"),
            tag("circle", cx=x(span.value), cy=y, r=5, class_=f"dot {span.series}"),
        ]
    parts.append(stroke(left, bottom, right, bottom, "axis"))
    for value in ticks(low, high):
        parts += [
            stroke(x(value), bottom, x(value), bottom + 4, "axis"),
            words(x(value), bottom + 17, f"{value:g}".replace("-", MINUS)),
        ]
    parts.append(words((left + right) / 2, bottom + 36, f"d = FT-AUC {MINUS} null"))
    said = "; ".join(f"{s.label}: {signed(s.value)}, {signed(s.low)} to {signed(s.high)}" for s in spans)
    return drawing("interval", "Distance from the null with 95 % intervals", said, (WIDTH, bottom + 46), *parts)


def roc_plot(lines: Sequence[Line]) -> Markup:
    """ROC curves, forgotten (positive) against never-trained (negative), with the chance diagonal."""
    left, top, size = 48.0, 10.0, 300.0
    x, y = linear(0, 1, left, left + size), linear(0, 1, top + size, top)
    parts = []
    for value in ticks(0, 1):
        parts += [
            stroke(x(value), y(0), x(value), y(1), "grid"),
            stroke(x(0), y(value), x(1), y(value), "grid"),
            words(x(value), y(0) + 17, f"{value:g}"),
            words(left - 6, y(value) + 4, f"{value:g}", "end"),
        ]
    parts.append(stroke(x(0), y(0), x(1), y(1), "chance"))
    for line in lines:
        points = " ".join(f"{x(f):.1f},{y(t):.1f}" for f, t in zip(line.fpr, line.tpr, strict=True))
        parts.append(tag("polyline", points=points, class_=f"curve {line.series}"))
    side = tag(
        "text",
        "true-positive rate (forgotten)",
        transform=f"translate(12 {top + size / 2:g}) rotate(-90)",
        text_anchor="middle",
        class_="label",
    )
    parts += [words(left + size / 2, y(0) + 36, "false-positive rate (never trained)"), side]
    names = ", ".join(line.label for line in lines)
    text = f"Curves of {names}. On the diagonal the attack does no better than chance."
    return drawing("roc", "ROC curve: forgotten against never-trained", text, (WIDTH, top + size + 46), *parts)


def confidence_plot(key: str, title: str, models: Sequence[Counts], top_share: float) -> Markup:
    """One panel: share of samples by confidence; the candidate as bars, the others as outlines."""
    left, right, top, bottom = 44.0, PANEL - 8, 10.0, 150.0  # on the left "100%" must fit
    x, y = linear(0, 1, left, right), linear(0, top_share, bottom, top)
    parts = []
    for value in ticks(0, top_share, 5):
        parts += [
            stroke(left, y(value), right, y(value), "grid"),
            words(left - 6, y(value) + 4, f"{value:.0%}", "end"),
        ]
    said = []
    for model in sorted(models, key=lambda m: m.series != "candidate"):
        total, bins = sum(model.counts), len(model.counts)
        heights = [y(count / total) for count in model.counts]
        if model.series == "candidate":
            parts += [
                tag(
                    "rect",
                    x=x(i / bins),
                    y=h,
                    width=x(1 / bins) - left - 0.8,
                    height=bottom - h,
                    class_="bar candidate",
                )
                for i, h in enumerate(heights)
            ]
        else:
            path = "".join(f"V{h:.1f}H{x((i + 1) / bins):.1f}" for i, h in enumerate(heights))
            parts.append(tag("path", d=f"M{left:.1f} {bottom:.1f}{path}V{bottom:.1f}", class_=f"curve {model.series}"))
        said.append(f"{model.label}: {model.counts[-1] / total:.0%} in the highest of {bins} bins")
    parts.append(stroke(left, bottom, right, bottom, "axis"))
    parts += [words(x(v), bottom + 17, f"{v:g}") for v in (0, 0.25, 0.5, 0.75, 1)]
    parts.append(words((left + right) / 2, bottom + 35, "confidence in the true class"))
    return drawing(f"confidence-{key}", title, "; ".join(said), (PANEL, bottom + 44), *parts)


def radius_plot(counts: Mapping[str, int], missing: int) -> Markup:
    """Horizontal bars: adversarial examples found at each radius, and those not found."""
    rows = [*counts.items(), ("not found", missing)]
    left, right, height = 80.0, WIDTH - 52, 24.0
    x = linear(0, max(1, *(n for _, n in rows)), left, right)
    parts = []
    for i, (label, n) in enumerate(rows):
        y = 6 + height * i
        parts += [
            words(left - 8, y + 15, label, "end"),
            tag("rect", x=left, y=y + 3, width=x(n) - left, height=height - 7, class_="bar radius"),
            words(x(n) + 6, y + 15, f"{n:,}", "start", "strong"),
        ]
    bottom = 6 + height * len(rows)
    parts.append(stroke(left, 4, left, bottom, "axis"))
    said = ", ".join(f"{label}: {n}" for label, n in rows)
    return drawing("radius", "Adversarial examples found by radius", said, (WIDTH, bottom + 6), *parts)
