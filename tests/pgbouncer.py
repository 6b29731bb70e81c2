"""A real PgBouncer before the tests' PostgreSQL: one server's connection for each transaction, as operators have it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from tests.support import free_port

PROGRAM = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="there is no pgbouncer here: install it")

SETTINGS = """
[databases]
* = host={host} port={server} user={user} {password}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 500
server_reset_query_always = 0
"""


@contextmanager
def pooled(url: str, folder: Path, size: int = 4) -> Iterator[str]:
    """The address of the same database through a pooler with `size` connections."""
    server, port = make_url(url), free_port()
    file = folder / "pgbouncer.ini"
    password = f"password={server.password}" if server.password else ""
    known = {"host": server.host, "server": server.port or 5432, "user": server.username, "password": password}
    file.write_text(SETTINGS.format(**known, port=port, size=size))
    command = [str(PROGRAM), "--quiet", str(file)]
    if os.getuid() == 0:  # it refuses to run as root, and its user must find the file
        for path in (file, *file.parents):
            path.chmod(path.stat().st_mode | 0o055)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = server.set(host="127.0.0.1", port=port, drivername="postgresql").render_as_string(hide_password=False)
    try:
        for _ in range(100):
            with suppress(psycopg.OperationalError):
                psycopg.connect(address, connect_timeout=2).close()
                break
            time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(10)
