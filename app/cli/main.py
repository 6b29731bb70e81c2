"""`lethe`: the service's parts, and the commands of `app.commands` on top of the client.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the service does not answer, 4 still under way when
--timeout was over.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from pydantic import ValidationError

from app.cli import account, models, recovery, requests
from app.cli.common import UNDER_WAY, UNREACHABLE, die
from app.core import logs
from app.core.config import Settings, get_settings
from app.operations import parent_watch
from lethe import LetheError, UnreachableError, WaitTimeoutError

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}  # of commands whose options another program has

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="""Unlearning as a service.

    The client's commands find the service through LETHE_URL and LETHE_API_KEY, else in the folder LETHE_DATA_DIR
    (./lethe-data). Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the service does not answer, 4 still
    under way when --timeout was over.""",
    rich_markup_mode=None,
)


def main() -> None:
    try:
        cli()
    except UnreachableError as error:
        die(f"{error}; is `lethe serve` running?" + _notes(error), UNREACHABLE)
    except WaitTimeoutError as error:
        die(str(error), UNDER_WAY)
    except LetheError as error:
        die(f"refused: {error}" + _notes(error))
    except ValidationError as error:
        faults = [f"LETHE_{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()]
        die("the settings are wrong: " + "; ".join(faults))
    except OSError as error:
        die(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _notes(error: Exception) -> str:
    """How to go on, where the command knows."""
    return "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))


def _check_schema() -> None:
    """Refuse to start a part on a database whose schema is not this program's."""
    from app.core.db import Database
    from app.operations import migrate

    database = Database(get_settings())
    try:
        migrate.check(database)
    except migrate.SchemaError as error:
        die(str(error))
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

Workers = Annotated[
    int, typer.Option(min=0, max=256, help="So many workers on the CPU; 0: one for each device of LETHE_DEVICES.")
]


@cli.command()
def serve(workers: Workers = 0) -> None:
    """API, workers and sweeper together, on a data folder."""
    from app.operations import supervisor

    settings = _employing(workers)
    logs.configure("serve", settings.log_format)
    try:
        supervisor.serve(settings, _stop_event())
    except supervisor.StartError as error:
        die(str(error))


@cli.command()
def api(fd: Annotated[int, typer.Option(hidden=True)] = -1) -> None:
    """The HTTP API by itself."""
    import uvicorn

    parent_watch.watch()
    logs.configure("api", get_settings().log_format)
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
def worker(workers: Workers = 0) -> None:
    """A worker for each device.

    On Celery where LETHE_BROKER_URL is set, else watching the database.
    """
    from app.jobs import devices
    from app.operations import supervisor

    _check_schema()
    settings = _employing(workers)
    names = devices.listed(settings)
    if len(names) == 1:
        # What it becomes takes the leash up itself: a thread of this program would not survive that.
        supervisor.become_worker(names[0])
    parent_watch.watch()
    logs.configure("workers", settings.log_format)
    supervisor.crew(settings, names, _stop_event())


def _employing(workers: int) -> Settings:
    """The settings; `--workers` is a shorter way to write so many times `cpu` in LETHE_DEVICES."""
    settings = get_settings()
    return settings.model_copy(update={"device": "", "devices": ["cpu"] * workers}) if workers else settings


@cli.command()
def sweep() -> None:
    """Send hints, repair what died, remove what is due."""
    from app.operations import sweeper

    parent_watch.watch()
    logs.configure("sweep", get_settings().log_format)
    _check_schema()
    sweeper.run(get_settings(), _stop_event())


@cli.command()
def migrate() -> None:
    """Bring the database to this program's schema.

    The first time it makes the first API key, too.
    """
    from app.core import keys
    from app.core.db import Database
    from app.operations import migrate

    logs.configure("migrate", get_settings().log_format)
    database = Database(get_settings())
    try:
        migrate.migrate(database)
    except migrate.SchemaError as error:
        die(str(error))
    if keys.bootstrap(database, get_settings()):
        logging.getLogger("lethe").info("the first API key is in %s", get_settings().key_file)


@cli.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where its service keeps its data; made anew.")] = Path("lethe-demo"),
) -> None:
    """The main job end to end, on a service of its own.

    Through the HTTP API alone.
    """
    from app.cli import demo as main_job

    sys.exit(main_job.run(folder))


@cli.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A PyTorch file that holds a state dict; you must trust it.")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The safetensors file to write.")],
) -> None:
    """Turn a PyTorch checkpoint into safetensors.

    On this machine; the service takes nothing else.
    """
    os.execv(sys.executable, [sys.executable, "-m", "engine.convert", str(source), str(target)])  # noqa: S606


@cli.command(context_settings=PASSED_ON, add_help_option=False)
def bench(context: typer.Context) -> None:
    """Measure every unlearning method under one audit."""
    os.execv(sys.executable, [sys.executable, "-m", "experiments", *context.args])  # noqa: S606


# -- the client's commands -------------------------------------------------------------------------

for name, sub in {
    "dataset": models.dataset,
    "model": models.model,
    "job": models.job,
    "key": account.key,
    "webhook": account.webhook,
    "tenants": account.tenants,
    "log": requests.log,
    "erasures": recovery.erasures,
}.items():
    cli.add_typer(sub, name=name)
VERBS: dict[str, Callable[..., None]] = {
    "list": account.list_things,
    "status": account.status,
    "wait": account.wait,
    "catalog": account.catalog,
    "download": models.download,
    "report": models.report,
    "request": requests.request,
    "requests-import": requests.import_requests,
    "decide": requests.decide,
    "register": requests.register,
    "summary": requests.summary,
    "certificate": requests.certificate,
    "trust": requests.trust,
    "opening": requests.opening,
    "shred": requests.shred,
    "backup": recovery.backup,
}
for name, verb in VERBS.items():
    cli.command(name)(verb)
cli.command("verify", context_settings=PASSED_ON, add_help_option=False)(requests.verify)
