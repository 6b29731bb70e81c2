"""The parts of a service as processes that are started again when they die."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from app.core.config import Settings
from tests.faults.harness import children
from tests.support import Process, environment, free_port, start


@dataclass
class Part:
    """One process of the service. `due`: when it starts again after it has died."""

    name: str  # api | sweep | worker-0 …
    process: Process | None = None
    due: float = 0.0
    starts: int = 0

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

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
        self.parts = [Part("api"), Part("sweep"), *(Part(f"worker-{n}") for n in range(self.workers))]
        given = self.settings.model_dump(
            include={
                *("database_url", "broker_url", "lease_seconds", "rehint_seconds", "resume_seconds"),
                *("disk_reserve_bytes", "tenant_queued_jobs", "poll_seconds", "log_format"),
            }
        )
        scratch = self.log.parent / "tmp"
        scratch.mkdir(exist_ok=True)
        given |= {"port": self.port}
        own = environment(self.settings.data_dir, **{name: str(value) for name, value in given.items()})
        self._environment = own | {"TMPDIR": str(scratch)}

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
                part.signal(signal.SIGKILL)  # what it left behind, as a supervisor or a container's end does
                part.process, part.due = None, now + 0.2
            if part.process is None and now >= part.due:
                name = {"LETHE_WORKER_NAME": part.name} if part.kind == "worker" else {}
                part.process = start(part.kind, log=self.log, env=self._environment | name)
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
                    part.process.wait()
