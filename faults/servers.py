"""A private PostgreSQL and a private Redis, which a run starts, kills and starts again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import redis

from tests.support import free_port

PATIENCE = 60.0


def wait_for(port: int, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing listens on port {port} after {patience:.0f} s")
        time.sleep(0.05)


class Postgres:
    """A cluster in a folder. It syncs nothing: to kill a process loses nothing that the system has."""

    SETTINGS = ("fsync=off", "full_page_writes=off", "listen_addresses=127.0.0.1", "unix_socket_directories=")

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        named = shutil.which("initdb")
        if not (found or named):
            raise SystemExit("there is no initdb here: install PostgreSQL's server, or use --backend sqlite")
        self._programs = found[-1].parent if found else Path(str(named)).parent
        folder.mkdir(parents=True)
        self._as: list[str] = []
        if os.getuid() == 0:  # it refuses root
            self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            shutil.chown(folder, "postgres", "postgres")
            for path in folder.parents[:2]:
                path.chmod(path.stat().st_mode | 0o011)
        self._call("initdb", "--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def _call(self, program: str, *arguments: str) -> None:
        command = [*self._as, str(self._programs / program), "-D", str(self._folder / "data"), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")

    def start(self) -> None:
        """Start it, once what a killed server left in memory is gone."""
        options = " ".join(f"-c {setting}" for setting in (f"port={self._port}", *self.SETTINGS))
        options = options.replace("directories=", "directories=''")
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._call("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")
                return
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL of the server; its connections' processes end by themselves."""
        pid = int((self._folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    def restart(self) -> None:
        self._call("pg_ctl", "-w", "-m", "fast", "stop")
        self.start()

    def cut(self) -> int:
        """End every connection; how many there were."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as admin:
            others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            row = admin.execute(f"{others} AND backend_type = 'client backend'").fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self._call("pg_ctl", "-m", "immediate", "stop")


class Redis:
    """A server that keeps nothing on disk, as the service needs none that does."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, free_port()
        if shutil.which("redis-server") is None:
            raise SystemExit("there is no redis-server here: install it, or use --backend sqlite")
        folder.mkdir(parents=True)
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=5, socket_connect_timeout=5)

    def start(self) -> None:
        settings = ("--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no")
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["redis-server", *settings, "--dir", str(self._folder)], stdout=log, stderr=log, process_group=0
            )
        wait_for(self.port)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGCONT)
        self.kill()
