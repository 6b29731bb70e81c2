"""How the report writes numbers. None is "not measured", apart from zero."""

from __future__ import annotations

import json
import re

from markupsafe import Markup

from app.formats.audit_report import Interval

NOT_MEASURED = Markup('<span class="none">not measured</span>')
MINUS = "\u2212"
_HYPHEN = re.compile(r"(?<![\w.)\]/+-])-(?=\.?\d)")
SUPERSCRIPT = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


def true_minus(text: str) -> str:
    """A text with a minus sign where a hyphen stands for one: before a figure, and after no letter, figure or dash."""
    return _HYPHEN.sub(MINUS, text)


def percent(value: float | None) -> str:
    """A fraction as percent with one decimal."""
    return NOT_MEASURED if value is None else f"{100 * value:.1f}\u00a0%"


def decimal(value: float | None) -> str:
    """Three decimals, with a true minus sign and no negative zero."""
    return NOT_MEASURED if value is None else f"{round(value, 3) + 0.0:.3f}".replace("-", MINUS)


def signed(value: float | None) -> str:
    """Three decimals with the sign always written."""
    return NOT_MEASURED if value is None else f"{round(value, 3) + 0.0:+.3f}".replace("-", MINUS)


def span(interval: Interval | None) -> str:
    return NOT_MEASURED if interval is None else f"{decimal(interval.low)} to {decimal(interval.high)}"


def p_value(value: float | None) -> str:
    """Three decimals; below 0.001 two significant digits, so that a small p-value never reads as zero."""
    if value is None:
        return NOT_MEASURED
    if value == 0:
        return "below " + p_value(1e-300)
    if value >= 0.001:
        return f"{value:.3f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPT)}"


def setting(value: object) -> str:
    """A parameter as a person would type it."""
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
