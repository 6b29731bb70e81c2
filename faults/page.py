"""The tables of `docs/reliability.md`, from the JSON that runs leave."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "reliability.md"
ROWS = (
    "requests_promised", "jobs", "attempts", "versions", "kills", "restarts", "leases_lost", "stale_attempts_refused",
    "jobs_retried_by_operator", "case_files_verified", "seconds_under_faults",
)  # fmt: skip


def write(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Put the newest figures of each kind between the marks that the page has for them."""
    text = page.read_text()
    for mark, table in (("faults", faults(results)), ("fuzzing", fuzzing(results))):
        if table:
            text = re.sub(rf"(?s)(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", lambda m: m[1] + table + m[2], text)  # noqa: B023
    page.write_text(text)


def faults(results: Path) -> str:
    """A column for each database of which there is a run."""
    paths = (results / f"faults_{name}.json" for name in ("sqlite", "postgresql"))
    runs = [json.loads(path.read_text()) for path in paths if path.exists()]
    if not runs:
        return ""
    columns = [run["figures"] for run in runs]
    lines = [row("", *(run["benchmark"].removeprefix("faults_") for run in runs)), row("---", *["---:"] * len(runs))]
    lines.append(row("**broken**", *(f"**{len(each['broken'])}**" for each in columns)))
    lines += [row(name.replace("_", " "), *(plain(each[name]) for each in columns)) for name in ROWS]
    for name in sorted({strike for each in columns for strike in each["strikes"]}):
        lines.append(row(name, *(str(each["strikes"].get(name, 0)) for each in columns)))
    for name in ("median", "p99", "worst"):
        waits = (each.get("recovery_seconds", {}) for each in columns)
        lines.append(row(f"recovery after a killed worker, {name}", *(said(each, name) for each in waits)))
    for name in sorted({race for each in columns for race in each["races"]}):
        lines.append(row(f"races, {name.replace('_', ' ')}", *(listed(each["races"].get(name)) for each in columns)))
    machine = runs[0]["machine"]
    commands = "; ".join(f"`{run['command']}`" for run in runs)
    when = ", ".join(sorted({run["at"][:10] for run in runs}))
    return "\n".join(lines) + f"\n\n{commands}, {machine['cores']} cores ({machine['cpu']}), {when}.\n"


def fuzzing(results: Path) -> str:
    path = results / "fuzzing.json"
    if not path.exists():
        return ""
    run = json.loads(path.read_text())
    names = ("executions", "per_second", "branches_reached", "slowest_seconds", "uncaught_or_hung")
    lines = [row("parser", *(name.replace("_", " ") for name in names)), row("---", *["---:"] * len(names))]
    lines += [row(name, *(plain(found[each]) for each in names)) for name, found in run["figures"].items()]
    machine = run["machine"]
    return "\n".join(lines) + f"\n\n{machine['cores']} cores ({machine['cpu']}), {run['at'][:10]}.\n"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def said(waits: dict[str, Any], name: str) -> str:
    if not waits:
        return "none seen"
    return f"{waits[name]} s ({waits['samples']} kills, lease {waits['lease']:g} s)"


def listed(figures: dict[str, Any] | None) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {plain(value)}" for name, value in (figures or {}).items()) or "not run"
