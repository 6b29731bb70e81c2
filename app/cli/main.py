"""The service's commands of `lethe`: its parts, and what the operator does with its database."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from app.cli import recovery, tenants
from app.cli.settings import read_settings
from app.core import logs
from app.core.config import Settings
from app.operations import parent_watch
from lethe.cli.common import PASSED_ON, die

cli = typer.Typer()


def _check_schema() -> None:
    """Refuse to start a part on a database whose schema is not this program's."""
    from app.core.db import Database
    from app.operations import migrate

    database = Database(read_settings())
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

    _require_torch()
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

    parent_watch.hold()
    logs.configure("api", read_settings().log_format)
    _check_schema()
    settings = read_settings()
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

    _require_torch()
    _check_schema()
    settings = _employing(workers)
    names = devices.listed(settings)
    if len(names) == 1:
        # What it becomes takes the leash up itself: a thread of this program would not survive that.
        supervisor.become_worker(names[0])
    parent_watch.hold()
    logs.configure("workers", settings.log_format)
    supervisor.crew(settings, names, _stop_event())


def _require_torch() -> None:
    """What trains needs torch, which the API's image lacks."""
    if find_spec("torch") is None:
        die("torch is not installed here, because only workers need it: use the worker's image, or `make install`")


def _employing(workers: int) -> Settings:
    """The settings; `--workers` is a shorter way to write so many times `cpu` in LETHE_DEVICES."""
    settings = read_settings()
    return settings.model_copy(update={"device": "", "devices": ["cpu"] * workers}) if workers else settings


@cli.command()
def sweep() -> None:
    """Send hints, repair what died, remove what is due."""
    from app.operations import sweeper

    parent_watch.hold()
    logs.configure("sweep", read_settings().log_format)
    _check_schema()
    sweeper.run(read_settings(), _stop_event())


@cli.command()
def migrate() -> None:
    """Bring the database to this program's schema.

    The first time it makes the first API key, too.
    """
    from app.core import keys
    from app.core.db import Database
    from app.operations import migrate

    logs.configure("migrate", read_settings().log_format)
    database = Database(read_settings())
    try:
        migrate.migrate(database)
    except migrate.SchemaError as error:
        die(str(error))
    if keys.bootstrap(database, read_settings()):
        logging.getLogger("lethe").info("the first API key is in %s", read_settings().key_file)


@cli.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where its service keeps its data; made anew.")] = Path("lethe-demo"),
) -> None:
    """The main job end to end, on a service of its own.

    Through the HTTP API alone.
    """
    from app.cli import demo as main_job

    _require_torch()
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
    _require_torch()
    os.execv(sys.executable, [sys.executable, "-m", "engine.convert", str(source), str(target)])  # noqa: S606


@cli.command(context_settings=PASSED_ON, add_help_option=False)
def bench(context: typer.Context) -> None:
    """Measure every unlearning method under one audit."""
    _require_torch()
    os.execv(sys.executable, [sys.executable, "-m", "experiments", *context.args])  # noqa: S606


cli.command("backup")(recovery.backup)
cli.add_typer(recovery.erasures, name="erasures")
cli.add_typer(tenants.tenants, name="tenants")
