"""`lethe`: the service's parts, and a client of it.

The client verbs find the service through LETHE_URL and LETHE_API_KEY, else in the data folder.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import httpx
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.table import Table

from app import leash, logs
from app.config import Settings, get_settings
from lethe import Client, LetheError

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Unlearning as a service.",
    rich_markup_mode=None,
)
console = Console(stderr=True)
Json = Annotated[bool, typer.Option("--json", help="print the service's document, and nothing else")]


def main() -> None:
    try:
        cli()
    except LetheError as error:
        _die(f"refused: {error}")
    except ValidationError as error:
        faults = [f"LETHE_{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()]
        _die("the settings are wrong: " + "; ".join(faults))
    except OSError as error:
        _die(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except httpx.TransportError as error:
        _die(f"the service does not answer ({type(error).__name__}); is `lethe serve` running?")


def _die(text: str) -> None:
    console.print(f"lethe: {text}", style="red", markup=False, highlight=False)
    sys.exit(1)


def _check_schema() -> None:
    """Refuse to start a part on a database whose schema is not this program's."""
    from app import schema
    from app.db import Database

    database = Database(get_settings())
    try:
        schema.check(database)
    except schema.SchemaError as error:
        _die(str(error))
    finally:
        database.close()


def _stop_event() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return stop


# -- the service's parts ---------------------------------------------------------------------------


@cli.command()
def serve() -> None:
    """API, one worker and the sweeper as one process tree on a data folder."""
    from app import supervisor

    logs.configure()
    try:
        supervisor.serve(get_settings(), _stop_event())
    except supervisor.StartError as error:
        _die(str(error))


@cli.command()
def api(fd: Annotated[int, typer.Option(hidden=True)] = -1) -> None:
    """The HTTP API by itself."""
    import uvicorn

    leash.hold()
    logs.configure()
    _check_schema()
    settings = get_settings()
    uvicorn.run(
        "app.main:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        fd=None if fd < 0 else fd,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=3,
        server_header=False,
    )


@cli.command()
def worker() -> None:
    """One worker: on Celery where LETHE_BROKER_URL is set, else watching the database."""
    # What it becomes takes the leash up itself: a thread of this program would not survive that.
    _check_schema()
    os.execv(sys.executable, [sys.executable, "-m", "worker"])  # noqa: S606


@cli.command()
def sweep() -> None:
    """The sweeper: sends hints, repairs what died, removes what is due."""
    from app import sweeper

    leash.hold()
    logs.configure()
    _check_schema()
    sweeper.run(get_settings(), _stop_event())


@cli.command()
def migrate() -> None:
    """Bring the database to this program's schema, and make the first API key."""
    from app import keys, schema
    from app.db import Database

    logs.configure()
    database = Database(get_settings())
    try:
        schema.migrate(database)
    except schema.SchemaError as error:
        _die(str(error))
    if keys.bootstrap(database, get_settings()):
        logging.getLogger("lethe").info("the first API key is in %s", get_settings().key_file)


@cli.command()
def demo(
    folder: Annotated[Path, typer.Option(help="where its service keeps its data; made anew")] = Path("lethe-demo"),
) -> None:
    """The main job end to end, on a service of its own, through the HTTP API alone."""
    from app import demo as main_job

    sys.exit(main_job.run(folder))


@cli.command()
def convert(
    source: Annotated[Path, typer.Argument(help="a PyTorch file that holds a state dict; you must trust it")],
    target: Annotated[Path, typer.Argument(help="the safetensors file to write")],
) -> None:
    """Turn a PyTorch checkpoint into safetensors, on this machine; the service takes nothing else."""
    os.execv(sys.executable, [sys.executable, "-m", "worker.convert", str(source), str(target)])  # noqa: S606


# -- the client's verbs ----------------------------------------------------------------------------


def client(settings: Settings | None = None) -> Client:
    settings = settings or get_settings()
    try:
        key = settings.api_key.get_secret_value() or settings.key_file.read_text().strip()
    except OSError:
        _die(f"no API key: set LETHE_API_KEY, or LETHE_DATA_DIR to the service's folder ({settings.data_dir})")
    url = settings.url or (settings.url_file.read_text().strip() if settings.url_file.exists() else "")
    return Client(url or f"http://{settings.host}:{settings.port}", key)


def follow(calls: Client, job: str, label: str, *, quiet: bool = False) -> dict[str, Any]:
    """Show a job's progress until it ends, and return it."""
    columns = TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.percentage:>4.0f} %")
    with Progress(
        *columns, TimeElapsedColumn(), TextColumn("{task.fields[stage]}"), console=console, disable=quiet
    ) as bar:
        task = bar.add_task(label, total=1.0, stage="queued")
        for data in calls.follow(job):
            bar.update(task, completed=data["fraction"], stage=data["stage"] or data["state"])
        found = calls.get(f"/v1/jobs/{job}")
        bar.update(task, stage=found["state"])
    return found


def _show(document: dict[str, Any], rows: list[tuple[str, Any]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows:
        table.add_row(name, "-" if value is None else str(value))
    Console().print(table)


@cli.command()
def request(
    dataset: Annotated[str, typer.Argument(help="id of the dataset")],
    ids_file: Annotated[Path, typer.Option(help="a file with one sample id a line; - for standard input")],
    model: Annotated[str | None, typer.Option(help="this model only; the dataset keeps the samples")] = None,
    jurisdiction: Annotated[
        str, typer.Option(help="gdpr, gdpr:DE, gdpr:DE-BY, uk-gdpr, ccpa …: whose clock runs")
    ] = "gdpr",
    allow_data_loss: Annotated[bool, typer.Option(help="accept that a class or all training data go")] = False,
    wait: Annotated[bool, typer.Option(help="follow it to its end")] = False,
    as_json: Json = False,
) -> None:
    """Ask for samples to be forgotten."""
    # Never as arguments: those are seen in process lists and shell histories.
    ids = (sys.stdin.read() if str(ids_file) == "-" else ids_file.read_text()).splitlines()
    with client() as calls:
        fields = {"jurisdiction": jurisdiction, "allow_data_loss": allow_data_loss}
        found = calls.request_deletion(dataset, ids, **fields, **({"model": model} if model else {}))
        if wait:
            for outcome in found["outcomes"]:
                follow(calls, outcome["job"], f"unlearn {outcome['model']}", quiet=as_json)
            found = calls.wait_request(found["id"])
    _show_request(found, as_json=as_json)


def _show_request(found: dict[str, Any], *, as_json: bool) -> None:
    names = ("id", "status", "reason", "samples", "jurisdiction", "received_at", "due_at", "fulfilled_at")
    rows = [(name, found[name]) for name in names]
    gone = sum(receipt["done_at"] is not None for receipt in found["receipts"])
    rows.append(("receipts", f"{gone} done, {len(found['receipts']) - gone} with a date"))
    for outcome in found["outcomes"]:
        published = f"version {outcome['version']}" if outcome["version"] else ""
        done = "and what it left is purged" if outcome["state"] == "purged" else outcome["state"]
        words = [published, done, outcome["reason"] or ""]
        rows.append((outcome["model"], " · ".join(word for word in words if word)))
    _show(found, rows, as_json=as_json)


@cli.command()
def status(
    thing: Annotated[
        str, typer.Argument(help="id of a job, a deletion request, a model or a dataset; empty: the service")
    ] = "",
    as_json: Json = False,
) -> None:
    """How a job, a request, a model or a dataset stands; without an id, the service."""
    nouns = {"job": "jobs", "del": "deletion-requests", "mdl": "models", "dst": "datasets"}
    with client() as calls:
        if not thing:
            found = calls.get("/readyz")
        elif (prefix := thing.partition("_")[0]) in nouns:
            found = calls.get(f"/v1/{nouns[prefix]}/{thing}")
        else:
            raise typer.BadParameter("the id of a job, a request, a model or a dataset is meant")
    if thing.startswith("del_"):
        _show_request(found, as_json=as_json)
    else:
        rows = [(k, v) for k, v in found.items() if not isinstance(v, dict)]
        if problem := found.get("problem"):
            rows.append(("problem", problem["detail"]))
            rows += [("", fault["detail"]) for fault in problem.get("errors", [])]
        _show(found, [row for row in rows if row != ("problem", None)], as_json=as_json)


@cli.command()
def download(
    model: Annotated[str, typer.Argument(help="id of the model")],
    version: Annotated[int, typer.Argument(help="number; 0 for the current one")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="file to write")] = None,
    as_json: Json = False,
) -> None:
    """Fetch a checkpoint and check its digest; an interrupted download is taken up again."""
    with client() as calls:
        number = version or calls.get(f"/v1/models/{model}")["current_version"]
        if number is None:
            _die("this model has no current version")
        target = output or Path(f"{model}-v{number}.safetensors")
        columns = TextColumn("{task.description}"), BarColumn(24), DownloadColumn(), TransferSpeedColumn()
        with Progress(*columns, console=console, disable=as_json) as bar:
            task = bar.add_task(target.name, total=None)
            digest = calls.download(
                model, number, target, lambda there, size: bar.update(task, completed=there, total=size)
            )
    _show(
        {"file": str(target), "digest": digest, "version": number},
        [("file", target), ("digest", digest)],
        as_json=as_json,
    )


@cli.command()
def report(
    model: Annotated[str, typer.Argument(help="id of the model")],
    version: Annotated[int, typer.Argument(help="number; 0 for the current one")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="save the HTML page here")] = None,
    as_json: Json = False,
) -> None:
    """The audit report of a version: the verdict, or the whole page with --output."""
    with client() as calls:
        number = version or calls.get(f"/v1/models/{model}")["current_version"]
        if number is None:
            _die("this model has no current version")
        document = calls.get(f"/v1/models/{model}/versions/{number}/audit")
        if output is not None:
            output.write_text(calls.report_page(model, number))
    judgement = document["report"]["judgement"]
    rows = [("verdict", judgement["verdict"]), ("reason", judgement["reason"])]
    _show(document, rows + ([("page", output)] if output else []), as_json=as_json)
