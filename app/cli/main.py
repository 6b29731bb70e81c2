"""The service's commands of `lethe`: its parts, and what the operator does with its database."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
import threading
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from app.cli import recovery, tenants
from app.cli.console import console
from app.cli.settings import read_settings, starting
from app.core import logs
from app.core.config import Settings
from app.operations import parent_watch
from lethe.cli.common import PASSED_ON, die

cli = typer.Typer()
MOST_FILES = 65_536  # of the API: connections above all


def _stop_event() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return stop


# -- the service's parts ---------------------------------------------------------------------------

Workers = Annotated[int, typer.Option(min=0, max=256, help="Number of workers on the CPU; 0: as LETHE_DEVICES says.")]


@cli.command()
def serve(workers: Workers = 0) -> None:
    """Run API, workers and sweeper together, on a data folder."""
    from app.operations import supervisor

    _require_torch()
    settings = _employing(workers)
    logs.configure("serve", settings.log_format)
    with starting():
        supervisor.serve(settings, _stop_event())


@cli.command()
def api(fd: Annotated[int, typer.Option(hidden=True)] = -1) -> None:
    """Run the HTTP API alone."""
    import uvicorn

    from app.operations import listening, startup

    parent_watch.watch()
    settings = read_settings()
    logs.configure("api", settings.log_format)
    with starting(), ExitStack() as stack:
        startup.check(settings)
        place = socket.socket(fileno=fd) if fd >= 0 else stack.enter_context(listening.opened(settings))
        _allow_files()
        config = uvicorn.Config(
            "app.main:create_app",
            factory=True,
            http="app.api.http.connections:Connection",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=3,
            server_header=False,
        )
        logging.getLogger("lethe.api").info("listening on %s", listening.address(place))
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[place])


def _allow_files() -> None:
    """Let this process open as many files, and so connections, as the system allows."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if most == resource.RLIM_INFINITY else min(most, MOST_FILES)
    if 0 <= now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


@cli.command()
def worker(workers: Workers = 0) -> None:
    """Run a worker for each device.

    With LETHE_BROKER_URL the workers use Celery. Otherwise they watch the database.
    """
    from app.jobs import devices
    from app.operations import startup, supervisor

    _require_torch()
    settings = _employing(workers)
    with starting():
        startup.check(settings)
    names = devices.listed(settings)
    if len(names) == 1:
        # The worker watches its parent itself: a thread of this program would not survive the exec.
        supervisor.become_worker(names[0])
    parent_watch.watch()
    logs.configure("workers", settings.log_format)
    supervisor.crew(settings, names, _stop_event())


def _require_torch() -> None:
    """End with a sentence where torch is not installed, as in the API's image."""
    if find_spec("torch") is None:
        die("torch is not installed here, because only workers need it: use the worker's image, or `make install`")


def _employing(workers: int) -> Settings:
    """The settings; `--workers 2` is a shorter way to write `cpu,cpu` in LETHE_DEVICES."""
    settings = read_settings()
    return settings.model_copy(update={"device": "", "devices": ["cpu"] * workers}) if workers else settings


@cli.command()
def sweep() -> None:
    """Run the sweeper: hints, expired leases, due erasures."""
    from app.operations import startup, sweeper

    parent_watch.watch()
    settings = read_settings()
    logs.configure("sweep", settings.log_format)
    with starting(), startup.plain():
        startup.check(settings)
        sweeper.run(settings, _stop_event())


@cli.command()
def migrate(
    storage_moved: Annotated[
        bool, typer.Option("--storage-moved", help="The blobs are now where LETHE_BLOB_URL says.")
    ] = False,
) -> None:
    """Bring the database to this program's schema.

    The first run also makes the first API key.
    """
    from app.core import keys
    from app.operations import agreement, migrate, startup

    settings = read_settings()
    logs.configure("migrate", settings.log_format)
    with starting(), startup.plain(), startup.opened(settings) as database:
        migrate.migrate(database)
        if storage_moved:
            agreement.move_storage(database, settings)
        if keys.bootstrap(database, settings):
            logging.getLogger("lethe").info("the first API key is in %s", settings.key_file)


@cli.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where its service keeps its data; emptied first.")] = Path("lethe-demo"),
) -> None:
    """Run the main job from start to end, on its own service.

    It uses the HTTP API alone.
    """
    from app.cli import demo as main_job

    _require_torch()
    sys.exit(main_job.run(folder))


@cli.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="A PyTorch file, a safetensors file or the index of several; you must trust it."
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The safetensors file to write.")],
    averaged: Annotated[
        bool, typer.Option("--averaged", help="Of a file with both, take the averaged weights (EMA).")
    ] = False,
    member: Annotated[
        str | None,
        typer.Option(help="Of a file with several networks, the member, or the first part of the names, of one."),
    ] = None,
) -> None:
    """Turn a PyTorch checkpoint into safetensors.

    It runs on this machine. The service accepts safetensors only.
    """
    _require_torch()
    more = [*(["--averaged"] if averaged else []), *(["--member", member] if member else [])]
    os.execv(sys.executable, [sys.executable, "-m", "engine.convert", str(source), str(target), *more])  # noqa: S606


@cli.command(context_settings=PASSED_ON, add_help_option=False)
def bench(context: typer.Context) -> None:
    """Measure every unlearning method under one audit."""
    _require_torch()
    os.execv(sys.executable, [sys.executable, "-m", "experiments", *context.args])  # noqa: S606


@cli.command(context_settings=PASSED_ON, add_help_option=False)
def calibrate(context: typer.Context) -> None:
    """Measure how often each audit is wrong."""
    _require_torch()
    os.execv(sys.executable, [sys.executable, "-m", "experiments.calibrate", *context.args])  # noqa: S606


cli.command("console")(console)
cli.command("backup")(recovery.backup)
cli.command("check")(recovery.check)
cli.add_typer(recovery.erasures, name="erasures")
cli.add_typer(tenants.tenants, name="tenants")
