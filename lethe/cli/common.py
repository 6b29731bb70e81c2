"""What the client's commands share: finding the service, showing progress and documents, reading files of ids."""

from __future__ import annotations

import codecs
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from lethe.cli.settings import read_settings
from lethe.client import Client
from lethe.types import Job

console = Console(stderr=True)
REFUSED, UNREACHABLE, UNDER_WAY = 1, 3, 4  # exit codes; 2 is wrong usage
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}  # of commands that pass their options on

AsJson = Annotated[bool, typer.Option("--json", help="Print the service's document and nothing else.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it ends; exit 1 unless it succeeds.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait at most; then exit 4, and the job goes on.")]
IdsFile = Annotated[Path | None, typer.Option(help="A file with one sample id in each line; - for standard input.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write; else standard output.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


PLAIN = {"…": "...", "·": "-", "−": "-", "–": "-", "—": "-", "×": "x", "━": "-", "≥": ">=", "≤": "<="}


def bear_every_letter() -> None:
    """Not every terminal has every letter: such a one is shown by a plain one, or by its number."""

    def plain(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        found = error.object[error.start : error.end]
        return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in found), error.end

    codecs.register_error("lethe.plain", plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="lethe.plain")


def write_exactly(text: str) -> None:
    """Text that programs read, to standard output: in UTF-8 where it is no terminal, whatever the locale says."""
    if sys.stdout.isatty():
        sys.stdout.write(text)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def group(text: str) -> typer.Typer:
    return typer.Typer(no_args_is_help=True, help=text, rich_markup_mode=None)


def die(text: str, code: int = REFUSED) -> NoReturn:
    console.print(f"lethe: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


def client() -> Client:
    """The service of LETHE_URL and LETHE_API_KEY, else the one whose data folder this is."""
    try:
        settings = read_settings()
    except ValueError as error:
        die(f"the settings are wrong: {error}")
    own = settings.own_url
    url = settings.url or own
    if url.rstrip("/") != own and not settings.api_key:
        die("LETHE_URL is not the service of the data folder, whose key is not sent to others: set LETHE_API_KEY, too")
    try:
        key = settings.api_key or settings.key_file.read_text("utf-8-sig").strip()
    except OSError:
        die(f"no API key: set LETHE_API_KEY, or LETHE_DATA_DIR to the service's folder ({settings.data_dir})")
    return Client(url, key)


def read_lines(path: Path) -> list[str]:
    """The lines of `all_lines` that are not empty."""
    return [line for line in all_lines(path) if line]


def all_lines(path: Path) -> list[str]:
    """Lines of a file or of standard input. Ids never come as arguments: those are seen in process lists.

    Only LF and CRLF end a line: an id may hold any other mark that Unicode calls a line's end, and a line that was cut
    there would ask for other samples than the ones named. UTF-8 alone is read; its byte order mark is dropped.
    """
    data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\x00" in data:
        raise typer.BadParameter(f"{path} is not UTF-8 text, perhaps UTF-16: save it as UTF-8")
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    return [line.removesuffix("\r") for line in text.split("\n")]


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"{path} is not JSON: {error}") from None


def parse_json(text: str) -> dict[str, Any]:
    """An object given as an argument."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter("give a JSON object")
    return found


# -- progress --------------------------------------------------------------------------------------


def follow(calls: Client, job: str, label: str, *, quiet: bool = False, timeout: float | None = None) -> Job:
    """Show a job's progress until it ends, and return it: as a bar on a terminal, elsewhere a line for each stage."""
    columns = TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.percentage:>4.0f} %")
    with Progress(
        *columns, TimeElapsedColumn(), TextColumn("{task.fields[stage]}"), console=console, disable=quiet
    ) as bar:
        task, shown = bar.add_task(label, total=1.0, stage="queued"), ""
        for data in calls.jobs.follow(job, timeout=timeout):
            if "state" in data:
                stage = data["stage"] or data["state"]
                bar.update(task, completed=data["fraction"], stage=stage)
                if not quiet and not console.is_terminal and stage != shown:
                    console.print(f"{label.rstrip()}: {stage}", markup=False, highlight=False)
                    shown = stage
        found = calls.jobs.get(job)
        bar.update(task, stage=found["state"])
    return found


class SpeedColumn(TransferSpeedColumn):
    """Nothing where it would show a question mark: before anything has moved, and when it was over at once."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.finished_speed or task.speed else Text()


@contextmanager
def transfer(label: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar for bytes; gives what is called with those there and those in all."""
    columns = TextColumn("{task.description}"), BarColumn(24), DownloadColumn(), SpeedColumn()
    with Progress(*columns, console=console, disable=quiet) as bar:
        task = bar.add_task(label, total=None)
        yield lambda there, size: bar.update(task, completed=there, total=size)


# -- documents -------------------------------------------------------------------------------------


def show(document: Any, rows: Sequence[tuple[str, Any]] | None = None, *, as_json: bool) -> None:
    """A document as JSON, or as a table of `rows` (its plain members where none are given)."""
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    if rows is None:
        rows = [(name, value) for name, value in document.items() if not isinstance(value, dict)]
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows:
        table.add_row(name, _text(value))
    _out().print(table, markup=False, highlight=False)


def local(moment: str | None) -> str:
    """A time of the service in the reader's own zone, which is named."""
    return "-" if moment is None else _in_zone(moment, "%Y-%m-%d %H:%M %Z")


def _in_zone(moment: str, form: str) -> str:
    """What is no time stays as it is: no answer of a service ends a command."""
    try:
        return datetime.fromisoformat(moment).astimezone().strftime(form)
    except ValueError:
        return moment


def show_list(items: Iterator[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Items as a table of these columns, or as JSON, an item a line, as they come."""
    if as_json:
        for item in items:
            typer.echo(json.dumps(item))
        return
    table = Table(box=None, pad_edge=False, header_style="")
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name in ("id", "request", "model", "dataset"))
    for item in items:
        table.add_row(*(_cell(name, item[name]) for name in columns))
    _out().print(table, markup=False, highlight=False)


def _cell(name: str, value: Any) -> str:
    """Of a list: a time as a day, in the reader's own zone."""
    if name.endswith("_at") and isinstance(value, str):
        return _in_zone(value, "%Y-%m-%d %Z")
    return _text(value)


def show_job(job: Mapping[str, Any], *, as_json: bool, judge: bool = True) -> None:
    """A job with its problem in words; with `judge`, exit 1 if it ended otherwise than well."""
    rows = [(name, value) for name, value in job.items() if not isinstance(value, dict) and value is not None]
    problem = job["problem"] or {}
    rows += [("problem", problem["detail"])] if problem else []
    rows += [("", fault.get("detail")) for fault in problem.get("errors", [])]
    show(job, rows, as_json=as_json)
    if judge and job["state"] in ("rejected", "failed", "cancelled", "dead"):
        raise typer.Exit(REFUSED)


def finish(calls: Client, job: Job, label: str, *, wait: bool, as_json: bool, timeout: float | None = None) -> None:
    """Show a job that was started: as it is, or once it has ended."""
    found = follow(calls, job["id"], label, quiet=as_json, timeout=timeout) if wait else job
    show_job(found, as_json=as_json)


def _out() -> Console:
    """Standard output; a file or a pipe has lines of any length."""
    return Console(width=None if sys.stdout.isatty() else 1000)


def _text(value: Any) -> str:
    if isinstance(value, list | dict):
        return json.dumps(value)
    return "-" if value is None else str(value)
