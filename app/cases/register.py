"""The register as printable pages, with the figures and the entries where they are few, and as a workbook."""

from __future__ import annotations

import io
from typing import Any

from app.core import db
from app.core.db import Database
from app.core.errors import Unprocessable
from app.deletions import compliance, figures

MOST_PRINTED = 200  # entries
MOST_LETTERS = 500  # of a text
MOST_ROWS = 100_000  # of a workbook: seconds of a core, and ten megabytes
MOST_IN_CELL = 32_000  # letters; programs refuse 32,768


def print_pdf(database: Database, tenant_id: str, year: int | None) -> bytes:
    """PDF. The entries are left out, and that is said, where there are more than `MOST_PRINTED`."""
    from app.cases import pdf  # as in `notices.print_pdf`

    found = figures.of(database, tenant_id, year)
    with database.read() as session:
        now = db.now(session)
    title = f"Register of requests, {year or 'all years'}"
    blocks: list[pdf.Block] = [
        f"{found['received']} requests received {f'in {year}' if year else 'in all years'}. "
        f"Printed on {now:%Y-%m-%d %H:%M} UTC."
    ]
    for name in ("by_law", "by_ground", "by_outcome", "by_refusal_ground", "by_verdict"):
        if found[name]:
            rows = [(key, str(count)) for key, count in found[name].items()]
            blocks += [f"# {name.replace('_', ' ').capitalize()}", rows]
    by_law = {"all": found["days"], **found["days_by_law"]}
    blocks += ["# Days to the answer", [(law, _days(days)) for law, days in by_law.items()]]
    blocks.append("# Entries")
    if found["received"] > MOST_PRINTED:
        blocks.append(
            f"There are more than {MOST_PRINTED} entries: they are not printed here. The register as CSV has them all."
        )
    else:
        for page in compliance.register(database, tenant_id, year):
            blocks += map(_entry, page)
    return pdf.pages(title, blocks, foot=title, at=now)


def _days(days: dict[str, Any]) -> str:
    if not days["answered"]:
        return "none answered"
    return f"median {days['median']:g}, mean {days['mean']:g}; {days['late']} of {days['answered']} late"


def _entry(entry: dict[str, Any]) -> str:
    said = {name: " ".join(str(value).split()) for name, value in entry.items() if value is not None}
    cut = (f"{n}: {v[:MOST_LETTERS]}{' …' if len(v) > MOST_LETTERS else ''}" for n, v in said.items())
    return "\n".join(cut)


def workbook(database: Database, tenant_id: str, year: int | None) -> bytes:
    """XLSX: a sheet with a row for each entry. Every text is text, whatever it begins with.

    Raises:
        Unprocessable: there are more than `MOST_ROWS` entries.
    """
    import xlsxwriter  # only who asks for a workbook waits for it

    received = figures.of(database, tenant_id, year)["received"]
    if received > MOST_ROWS:
        raise Unprocessable(
            f"The register has {received} entries, and a workbook takes {MOST_ROWS}. Name a year, or take CSV.",
            kind="register-too-large",
        )
    content = io.BytesIO()
    # A row is written before the next is held. Nothing in a text makes it a formula, an address or a number.
    plain = {"strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    with xlsxwriter.Workbook(content, {"constant_memory": True, **plain}) as book:
        sheet = book.add_worksheet("Register")
        sheet.freeze_panes(1, 1)
        sheet.autofilter(0, 0, 0, len(compliance.COLUMNS) - 1)
        sheet.set_column(0, len(compliance.COLUMNS) - 1, 18)
        bold = book.add_format({"bold": True})
        for column, name in enumerate(compliance.COLUMNS):
            sheet.write_string(0, column, name, bold)
        row = 0
        for page in compliance.register(database, tenant_id, year):
            for entry in page:
                row += 1
                for column, name in enumerate(compliance.COLUMNS):
                    _write(sheet, row, column, entry[name])
    return content.getvalue()


def _write(sheet: Any, row: int, column: int, value: Any) -> None:
    if isinstance(value, bool | str):
        text = str(value)
        sheet.write_string(row, column, text if len(text) <= MOST_IN_CELL else f"{text[:MOST_IN_CELL]} …")
    elif value is not None:
        sheet.write_number(row, column, value)
