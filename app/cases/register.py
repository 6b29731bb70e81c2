"""The register as printable pages: the figures, and the entries where they are few."""

from __future__ import annotations

from typing import Any

from app.core import db
from app.core.db import Database
from app.deletions import compliance, figures

MOST_PRINTED = 200  # entries
MOST_LETTERS = 500  # of a text


def print_pdf(database: Database, tenant_id: str, year: int | None) -> bytes:
    """PDF. The entries are left out, and that is said, where there are more than `MOST_PRINTED`."""
    from app.cases import pdf  # as in `notices.print_pdf`

    found = figures.of(database, tenant_id, year)
    with database.read() as session:
        now = db.now(session)
    title = f"Register of requests, {year or 'all years'}"
    blocks: list[pdf.Block] = [
        f"{found['received']} requests received {f'in {year}' if year else 'in all years'} (UTC). "
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
