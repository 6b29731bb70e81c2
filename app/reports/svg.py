"""The few SVG parts that the report's plots are made of. Text and attributes are escaped.

Lengths are SVG user units. A drawing is as wide as the page of a telephone or narrower, so that its text
is never scaled down.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor, log10

from markupsafe import Markup, escape


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """One element; children and attribute values are escaped, `stroke_width` becomes `stroke-width`."""
    pairs = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, pairs, inner)


def _number(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def linear(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The linear scale that takes `low` to `start` and `high` to `end`."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) inside [low, high], at most `most` of them."""
    rough = (high - low) / most
    power = 10.0 ** floor(log10(rough))
    step = next(m * power for m in (1, 2, 5, 10, 20) if (high - low) / (m * power) <= most - 1)
    digits = max(0, -floor(log10(step) + 1e-9))
    return [round(i * step, digits) + 0.0 for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def drawing(key: str, title: str, text: str, size: tuple[float, float], *children: Markup) -> Markup:
    """An svg of (width, height) with an accessible name and description; `key` is unique in the page."""
    heading = tag("title", title, id=f"{key}-title")
    description = tag("desc", text, id=f"{key}-desc")
    return tag(
        "svg",
        heading,
        description,
        *children,
        viewBox=f"0 0 {size[0]:g} {size[1]:g}",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
    )


def stroke(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def words(x: float, y: float, content: str, anchor: str = "middle", class_: str = "") -> Markup:
    return tag("text", content, x=x, y=y, text_anchor=anchor, class_=f"label {class_}".strip())
