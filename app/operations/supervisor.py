"""`lethe serve`: API, workers and the sweeper as one process tree on a data folder; `lethe worker` on several devices.

A child that dies for any reason is started again, and a worker's leases are handed back at once. Each child has a
process group of its own, so that a terminal's Ctrl-C reaches only the supervisor, which stops them in order. The
supervisor opens the listening socket itself: a port in use is said before anything starts, and a restarted API
loses no connection that waits.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

from app import jobs
from app.core import keys
from app.core.causes import cause
from app.core.config import Settings, StartError, write_private
from app.core.db import Database
from app.evidence import sealing
from app.jobs import devices
from app.jobs.workers import own_name
from app.operations import agreement, listening, migrate, parent_watch, startup

log = logging.getLogger("lethe.serve")

STOP_SECONDS = 8.0
RESTART_SECONDS = (0.0, 0.5, 2.0, 5.0)  # waits before a child that keeps dying is started again
STEADY_SECONDS = 30.0  # a child that lived this long starts again without a wait


@dataclass
class Child:
    part: str  # api | sweep | worker
    owner: str = ""  # of a worker: in whose name it holds leases
    device: str = ""
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    started: float = 0.0
    due: float = 0.0


@dataclass(frozen=True)
class Tree:
    """State that the children of one supervisor share. `reading`: the end of the pipe that closes when it ends."""

    database: Database
    environment: dict[str, str]
    reading: int
    listening: socket.socket | None = None


def serve(settings: Settings, stop: threading.Event) -> None:
    """Run the tree until `stop` is set.

    Raises:
        StartError: the folder cannot be written or is in use, the port is taken, or the schema is newer.
    """
    with _folder(settings), listening.opened(settings) as socket_:
        with startup.plain():
            database = Database(settings)
            migrate.migrate(database)
            agreement.check(database, settings)
            sealing.open_key(database, settings)
            keys.bootstrap(database, settings)
        address = listening.address(socket_)
        name = _name(settings)
        jobs.release(database, f"{name}:*", "its service was killed")
        write_private(settings.url_file, address)
        log.info("serving on %s from %s", address, settings.data_dir.absolute())
        environment = {"LETHE_DATA_DIR": str(settings.data_dir.absolute()), "LETHE_BROKER_URL": ""}
        with _parent_pipe() as reading:
            tree = Tree(database, environment, reading, socket_)
            _supervise(tree, [Child("api"), Child("sweep")], lambda: workers(settings, name), stop)
        settings.url_file.unlink(missing_ok=True)
        database.close()


def crew(settings: Settings, names: Sequence[str], stop: threading.Event) -> None:
    """Run a worker on each device until `stop` is set."""
    database = Database(settings)
    name = own_name(settings)
    with _parent_pipe() as reading:
        children = [Child("worker", f"{name}:{number}", device) for number, device in enumerate(names)]
        _supervise(Tree(database, {}, reading), children, list, stop)
    database.close()


def workers(settings: Settings, name: str) -> list[Child]:
    """A worker for each device."""
    return [Child("worker", f"{name}:{n}", device) for n, device in enumerate(devices.listed(settings))]


def become_worker(device: str) -> NoReturn:
    """Let this process become the worker of that device."""
    os.execve(sys.executable, [sys.executable, "-m", "worker"], {**os.environ, "LETHE_DEVICE": device})  # noqa: S606


def _name(settings: Settings) -> str:
    """The prefix of the names of the service's workers: always the same for this folder."""
    folder = zlib.crc32(str(settings.data_dir.absolute()).encode())
    return settings.worker_name or f"{socket.gethostname()}:embedded:{folder:08x}"


@contextmanager
def _parent_pipe() -> Iterator[int]:
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


@contextmanager
def _folder(settings: Settings) -> Iterator[None]:
    """The data folder, made, writable, and ours alone."""
    startup.writable(settings.data_dir)
    with (settings.data_dir / "serve.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"another `lethe serve` runs on {settings.data_dir.absolute()}") from None
        yield


def _supervise(tree: Tree, children: list[Child], more: Callable[[], list[Child]], stop: threading.Event) -> None:
    """Keep the children running, and those that `more` names once the first have been started."""
    try:
        _tend_all(tree, children, stop)
        children += more()
        while not stop.is_set():
            _tend_all(tree, children, stop)
            stop.wait(0.1)
    finally:
        _stop(children)
        for child in children:
            if child.owner:
                jobs.release(tree.database, child.owner, "the service was stopped", counted=False)


def _tend_all(tree: Tree, children: list[Child], stop: threading.Event) -> None:
    for child in children:
        try:
            _tend(tree, child)
        except Exception as error:  # the database or the machine's memory may be away for a while
            log.warning("tending the %s failed and will be tried again: %s", child.part, cause(error))
            stop.wait(1.0)


def _tend(tree: Tree, child: Child) -> None:
    """Start a child that does not run; when one has died, hand back what it held."""
    now = time.monotonic()
    if child.process is not None and (code := child.process.poll()) is not None:
        _kill_group(child.process)
        if child.owner:
            jobs.release(tree.database, child.owner, f"its worker died (code {code})")
        log.warning("%s ended with code %d; starting it again", child.part, code)
        child.process = None
        child.deaths = 0 if now - child.started > STEADY_SECONDS else child.deaths + 1
        child.due = now + RESTART_SECONDS[min(child.deaths, len(RESTART_SECONDS) - 1)]
    if child.process is None and now >= child.due:
        child.process, child.started = _start(tree, child), now


def _start(tree: Tree, child: Child) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **tree.environment, parent_watch.VARIABLE: str(tree.reading)}
    if child.part != "sweep":
        environment.pop("LETHE_SIGNING_KEY", None)  # nobody else signs
    if child.owner:
        environment |= {"LETHE_WORKER_NAME": child.owner, "LETHE_DEVICE": child.device}
    passed, extra = [tree.reading], []
    if child.part == "api" and tree.listening is not None:
        passed.append(tree.listening.fileno())
        extra = ["--fd", str(tree.listening.fileno())]
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "app", child.part, *extra], env=environment, pass_fds=passed, process_group=0
    )


def _stop(children: list[Child]) -> None:
    """Ask all to stop, wait, then make sure that nothing of any group is left."""
    running = [child.process for child in children if child.process is not None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        _kill_group(process)
        process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
