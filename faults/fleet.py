"""The parts of a service as processes, forked from one that has torch loaded: a restart costs a tenth of a second."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.core.config import Settings, get_settings
from tests.faults.harness import children
from tests.support import free_port

FORKS = multiprocessing.get_context("forkserver")
LOADED = ["torch._dynamo", "worker.loop", "worker.run_one", "app.main", "app.cli.main", "uvicorn", "faults.fleet"]


def _run(part: str, variables: dict[str, str], log: str) -> None:
    """`lethe api`, `lethe sweep` or `lethe worker` in this process, its output appended to `log`."""
    os.setpgid(0, 0)
    for name in [name for name in os.environ if name.startswith("LETHE_")]:
        del os.environ[name]
    os.environ.update(variables)
    get_settings.cache_clear()
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["lethe", part]
    if part == "worker" and variables.get("LETHE_BROKER_URL"):
        from worker import celery

        # Production spawns it, since CUDA wants a fresh process. Nothing else differs, and here is no CUDA.
        celery.app.conf.worker_pool_start_method = "fork"
    runpy.run_module("worker" if part == "worker" else "app", run_name="__main__", alter_sys=True)


@dataclass
class Part:
    """One process of the service. `due`: when it starts again after it has died."""

    name: str  # api | sweep | worker-0 …
    process: Any = None
    due: float = 0.0
    starts: int = 0

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def alive(self) -> bool:
        return self.process is not None and bool(self.process.is_alive())

    def signal(self, number: int) -> None:
        """Send it to the process and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def child(self) -> int | None:
        """The process in which a worker runs its jobs, or decodes what clients sent, if there is one now."""
        return next(iter(children(self.pid)), None) if self.alive() else None


@dataclass
class Fleet:
    """An API, a sweeper and workers on one data folder. `tend` starts again whatever has died."""

    settings: Settings
    log: Path
    workers: int
    parts: list[Part] = field(default_factory=list)
    port: int = field(default_factory=free_port)
    stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        FORKS.set_forkserver_preload(LOADED)
        self.parts = [Part("api"), Part("sweep"), *(Part(f"worker-{n}") for n in range(self.workers))]
        given = self.settings.model_dump(
            include={
                *("data_dir", "database_url", "broker_url", "lease_seconds", "rehint_seconds", "resume_seconds"),
                *("disk_reserve_bytes", "tenant_queued_jobs", "poll_seconds", "log_format"),
            }
        )
        scratch = self.log.parent / "tmp"
        scratch.mkdir(exist_ok=True)
        self._variables = {f"LETHE_{name.upper()}": str(value) for name, value in given.items()}
        self._variables |= {"LETHE_PORT": str(self.port), "LETHE_DEVICES": "cpu", "TMPDIR": str(scratch)}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of_kind(self, kind: str) -> list[Part]:
        return [part for part in self.parts if part.kind == kind]

    def tend(self) -> None:
        """Start what does not run; nothing any more once `stopped` is set."""
        with self._lock:
            if not self.stopped.is_set():
                self._tend()

    def _tend(self) -> None:
        now = time.monotonic()
        for part in self.parts:
            if part.process is not None and not part.alive():
                part.process.join()
                part.signal(signal.SIGKILL)  # what it left behind, as a supervisor or a container's end does
                part.process, part.due = None, now + 0.2
            if part.process is None and now >= part.due:
                name = {"LETHE_WORKER_NAME": part.name} if part.kind == "worker" else {}
                part.process = FORKS.Process(target=_run, args=(part.kind, self._variables | name, str(self.log)))
                part.process.start()
                part.starts += 1

    def kill(self, part: Part) -> None:
        """SIGKILL of the process alone; `tend` sees it."""
        if part.alive():
            os.kill(part.pid, signal.SIGKILL)

    def close(self) -> None:
        self.stopped.set()
        with self._lock:
            for part in self.parts:
                if part.process is not None:
                    part.signal(signal.SIGKILL)
                    part.process.join()
