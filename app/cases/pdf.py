"""Printable pages: A4, plain text and tables of two columns, in a font that has Latin, Greek, Cyrillic and Arabic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from fpdf import FPDF

FONTS = Path(__file__).parent / "fonts"
LINE = 5.6  # mm
Block = str | Sequence[tuple[str, str]]
"""A paragraph, a heading (`# …`), or rows of a name and a value."""


class _Pages(FPDF):
    foot = ""

    def footer(self) -> None:
        self.set_y(-14)
        self.set_font("sans", size=8)
        self.cell(0, LINE, f"{self.foot}   {self.page_no()} / {{nb}}", align="C")


def pages(title: str, blocks: Iterable[Block], *, foot: str, at: datetime, language: str = "en") -> bytes:
    """The document as PDF. foot: in small print on every page. at: UTC, the document's own date.

    The same arguments give the same bytes. Texts are text: nothing in them is taken for markup.
    """
    document = _Pages(format="A4")
    document.foot = foot
    document.set_creation_date(at.replace(tzinfo=UTC))
    document.set_title(title)
    document.set_lang(language)
    document.set_author("Lethe")
    for style, file in (("", "DejaVuSans.ttf"), ("B", "DejaVuSans-Bold.ttf")):
        document.add_font("sans", style, FONTS / file)
    document.set_text_shaping(True)  # Arabic letters join, and run from right to left
    document.set_auto_page_break(True, margin=18)
    document.set_margins(20, 18, 20)
    document.add_page()
    _write(document, title, "B", 15)
    for block in blocks:
        if not isinstance(block, str):
            _rows(document, block)
        elif block.startswith("# "):
            document.ln(LINE / 2)
            _write(document, block[2:], "B", 11.5)
        else:
            _write(document, block, "", 10)
    return bytes(document.output())


def _write(document: FPDF, text: str, style: str, size: float) -> None:
    document.set_font("sans", style, size)
    document.multi_cell(0, LINE * size / 10, _printable(text), align="L", new_x="LMARGIN", new_y="NEXT")
    document.ln(LINE / 2.5)


def _rows(document: FPDF, rows: Sequence[tuple[str, str]]) -> None:
    document.set_font("sans", size=9)
    with document.table(
        borders_layout="HORIZONTAL_LINES",
        first_row_as_headings=False,
        col_widths=(34, 66),
        line_height=LINE - 0.6,
        text_align="LEFT",
        padding=(1, 1),
    ) as table:
        for name, value in rows:
            row = table.row()
            row.cell(_printable(name))
            row.cell(_printable(value))
    document.ln(LINE / 2)


def _printable(text: str) -> str:
    """Control characters, which no font has, stand as spaces."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)
