"""The faults themselves. Each is a function of what it breaks; where it holds on for a while, it mends it, too."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import redis
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.tables import Job
from app.rules.states import JobState
from faults.clients import Clients
from faults.fleet import Fleet, Part
from faults.servers import Postgres, Redis

KILLS = ("kill worker", "kill child", "kill api", "kill sweeper", "kill redis", "kill postgresql")


@dataclass
class Scene:
    """What a run may break. `killed`: jobs that ran on a worker when it was killed, and when."""

    settings: Settings
    fleet: Fleet
    clients: Clients
    rng: random.Random
    disk: Path | None = None  # a small file system of its own that holds the data folder
    postgres: Postgres | None = None
    redis: Redis | None = None
    done: Counter[str] = field(default_factory=Counter)
    killed: list[tuple[str, datetime]] = field(default_factory=list)
    database: Database = field(init=False)

    def __post_init__(self) -> None:
        self.database = Database(self.settings)

    def worker(self, patience: float = 3.0) -> tuple[Part, list[str], datetime] | None:
        """A worker that runs a job at this moment, with its jobs, if one does soon."""
        end = time.monotonic() + patience
        alive = {part.name: part for part in self.fleet.of_kind("worker") if part.alive()}
        while alive and time.monotonic() < end:
            with suppress(SQLAlchemyError), self.database.read() as session:
                query = select(Job.id, Job.owner).where(Job.state == JobState.RUNNING, Job.owner.in_(alive))
                if rows := session.execute(query).all():
                    owner = self.rng.choice(sorted({owner for _, owner in rows}))
                    return alive[owner], [job for job, own in rows if own == owner], db.now(session)
            time.sleep(0.02)
        return None


Strike = Callable[[Scene], bool]
"""Breaks something; False where there was nothing to break."""


def kill_worker(scene: Scene) -> bool:
    """SIGKILL of a worker and all that it started, in the middle of a job where it has one."""
    if (found := scene.worker()) is None:
        return False
    part, jobs, now = found
    time.sleep(scene.rng.random() * 0.3)
    part.signal(signal.SIGKILL)
    scene.killed += [(job, now) for job in jobs]
    return True


def kill_child(scene: Scene) -> bool:
    """SIGKILL of the process in which a worker runs jobs or decodes, as the system does when memory is short."""
    if (found := scene.worker()) is None:
        return False
    end = time.monotonic() + 2
    while time.monotonic() < end:
        if (pid := found[0].child()) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
        time.sleep(0.01)
    return False


def _kill(kind: str) -> Strike:
    def strike(scene: Scene) -> bool:
        parts = [part for part in scene.fleet.of_kind(kind) if part.alive()]
        for part in parts:
            scene.fleet.kill(part)
        return bool(parts)

    return strike


def kill_redis(scene: Scene) -> bool:
    if scene.redis is None:
        return False
    scene.redis.kill()
    time.sleep(scene.rng.random() * 3)
    scene.redis.start()
    return True


def kill_postgresql(scene: Scene) -> bool:
    if scene.postgres is None:
        return False
    scene.postgres.kill()
    time.sleep(scene.rng.random() * 2)
    scene.postgres.start()
    return True


def stop_worker(scene: Scene) -> bool:
    """SIGSTOP of a worker in a job until its lease is over and somebody else has the job, then SIGCONT."""
    if (found := scene.worker()) is None:
        return False
    part = found[0]
    part.signal(signal.SIGSTOP)
    time.sleep(scene.settings.lease_seconds * (1.4 + scene.rng.random()))
    part.signal(signal.SIGCONT)
    return True


def restart_postgresql(scene: Scene) -> bool:
    if scene.postgres is None:
        return False
    scene.postgres.restart()
    return True


def cut_connections(scene: Scene) -> bool:
    if scene.postgres is None:
        return False
    cut = scene.postgres.cut()
    if scene.redis is not None:
        scene.redis.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    return cut > 0


def flush_redis(scene: Scene) -> bool:
    if scene.redis is None:
        return False
    scene.redis.client.flushall()
    return True


def redis_away(scene: Scene) -> bool:
    """Redis answers nobody for some seconds, or refuses writes as a replica does or one whose memory is full."""
    if scene.redis is None:
        return False
    seconds, client = 1 + scene.rng.random() * 5, scene.redis.client
    match scene.rng.choice(("stopped", "read-only", "full")):
        case "stopped":
            os.kill(scene.redis.process.pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(scene.redis.process.pid, signal.SIGCONT)
        case "read-only":
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            time.sleep(seconds)
            client.execute_command("REPLICAOF", "NO", "ONE")
        case _:
            client.config_set("maxmemory", "1")
            time.sleep(seconds)
            client.config_set("maxmemory", "0")
    return True


def fill_disk(scene: Scene) -> bool:
    """Nothing more fits on the data folder's disk for some seconds: a full file system where the run has one of its
    own, else a limit on what workers and the API may write."""
    seconds = 1 + scene.rng.random() * 3
    if scene.disk is not None:
        filler = scene.disk / "filler"
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(2**20))
        with suppress(OSError), filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(512))
        time.sleep(seconds)
        filler.unlink()
        return True
    limited = [part for part in scene.fleet.parts if part.alive() and part.kind != "sweep"]
    for part in limited:
        _limit(part, 512)
    time.sleep(seconds)
    for part in limited:
        _limit(part, resource.RLIM_INFINITY)
    return bool(limited)


def _limit(part: Part, size: int) -> None:
    with suppress(ProcessLookupError, OSError):
        hard = resource.prlimit(part.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(part.pid, resource.RLIMIT_FSIZE, (size, hard))


def flood(scene: Scene) -> bool:
    return scene.clients.flood(scene.rng) > 0


STRIKES: dict[str, tuple[Strike, int]] = {
    "kill worker": (kill_worker, 10),
    "kill child": (kill_child, 4),
    "kill api": (_kill("api"), 4),
    "kill sweeper": (_kill("sweep"), 3),
    "kill redis": (kill_redis, 2),
    "kill postgresql": (kill_postgresql, 2),
    "stop a worker past its lease": (stop_worker, 6),
    "restart postgresql": (restart_postgresql, 1),
    "cut every connection": (cut_connections, 1),
    "flush redis": (flush_redis, 1),
    "redis stopped, read-only or full": (redis_away, 2),
    "fill the disk": (fill_disk, 2),
    "flood": (flood, 1),
}
"""Each with its share of the draw."""


def strike(scene: Scene) -> str:
    """One fault, drawn; what it was."""
    names = [name for name in STRIKES if scene.postgres or not ("redis" in name or "postgresql" in name)]
    while True:
        name = scene.rng.choices(names, [STRIKES[each][1] for each in names])[0]
        try:
            struck = STRIKES[name][0](scene)
        except (redis.RedisError, SQLAlchemyError):  # what was to be asked was away already
            struck = False
        if struck:
            scene.done[name] += 1
            return name


def kills(done: Counter[str]) -> int:
    return sum(done[name] for name in KILLS)


@contextmanager
def tending(fleet: Fleet) -> Iterator[None]:
    """Whatever dies is started again, meanwhile."""
    over = threading.Event()

    def tend() -> None:
        while not over.wait(0.05):
            fleet.tend()

    thread = threading.Thread(target=tend, name="tend")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        fleet.close()


@contextmanager
def small_disk(folder: Path, size: int = 2**28) -> Iterator[Path | None]:
    """A file system in memory on `folder`, where this process may mount one; else none."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield folder if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=False)
