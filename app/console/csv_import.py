"""A table of requests, as an officer keeps one, in the lines that the API imports."""

from __future__ import annotations

import codecs
import csv
import io
import json

from app.core.errors import Unprocessable

LISTS = ("subjects", "sample_ids")
TEXTS = (
    "dataset", "jurisdiction", "basis", "ground", "channel", "reference", "received_at", "received_reason", "model",
)  # fmt: skip
COLUMNS = (*TEXTS, *LISTS)


def as_lines(content: bytes) -> bytes:
    """CSV with a heading, commas or semicolons between its columns. Several people of a row are one in each line of
    their cell. An empty row stays one, so that the numbers of lines are those of the table.

    Raises:
        Unprocessable: it is not UTF-8, or has a column that no request has.
    """
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError:
        raise Unprocessable("The table is not UTF-8: save it as “CSV UTF-8”.", kind="schema") from None
    heading = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text), delimiter=";" if heading.count(";") > heading.count(",") else ",")
    names = [name.strip().lower().replace(" ", "_") for name in next(rows, [])]
    if unknown := [name for name in names if name not in COLUMNS]:
        some = f"{len(unknown)} column{'s' * (len(unknown) > 1)}"
        raise Unprocessable(f"The table has {some} that no request has. The columns are {', '.join(COLUMNS)}.",
                            kind="schema")  # fmt: skip
    lines = [""]  # of the heading
    for row in rows:
        cells = {name: cell.strip() for name, cell in zip(names, row, strict=False) if cell.strip()}
        body = {name: cell.splitlines() if name in LISTS else cell for name, cell in cells.items()}
        lines.append(json.dumps(body, ensure_ascii=False) if body else "")
    return "\n".join(lines).encode()
