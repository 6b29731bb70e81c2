"""Hostile connections and a hostile queue: what memory, health checks and another tenant's deletion show of them.

`BESIDE` in the environment names another checkout, whose service is measured in the same run.
"""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from benchmarks.load import drive, request
from benchmarks.posting import wait_for
from lethe import Client
from tests.support import QUICK_MODEL, QUICK_POLICY, environment, eventually, free_port, stop

BODIES, BODY_BYTES = 40, 31 * 2**20
HALF_HEADS, FILES = 1100, 1024
STREAMS = 2000
PATIENCE = 5.0  # seconds for a health check
TRAININGS = 500
ROOT = Path(__file__).parent.parent


@contextmanager
def running(checkout: Path, part: str, folder: Path, files: int = 20_000) -> Iterator[tuple[int, int, str]]:
    """Port, process and key of a part of that checkout on that folder, which may open that number of files."""
    port = free_port()
    env = environment(folder, port=str(port)) | {"PYTHONPATH": str(checkout)}
    command = ["prlimit", f"--nofile={files}:{files}", sys.executable, "-m", "app"]
    subprocess.run([*command, "migrate"], env=env, cwd=checkout, check=True, capture_output=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, part], env=env, cwd=checkout, stdout=log, stderr=log, process_group=0)
    try:
        wait_for(port)
        health(port)
        yield port, process.pid, (folder / "api-key").read_text().strip()
    finally:
        stop(process)


@contextmanager
def api(checkout: Path, files: int = 20_000) -> Iterator[tuple[int, int, str]]:
    with tempfile.TemporaryDirectory() as name, running(checkout, "api", Path(name), files) as found:
        yield found


def memory(pid: int) -> float:
    """Resident memory now, in MiB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def health(port: int) -> float:
    """Seconds of a health check on a connection of its own; PATIENCE where it has failed."""
    began = time.perf_counter()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as line:
            line.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            if b" 200 " not in line.recv(4096):
                return PATIENCE
    except OSError:
        return PATIENCE
    return time.perf_counter() - began


def opened(port: int, count: int, first: bytes, stack: ExitStack) -> list[socket.socket]:
    found = []
    for _ in range(count):
        with suppress(OSError):
            line = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
            line.sendall(first)
            line.setblocking(False)
            found.append(line)
    return found


def bodies(checkout: Path) -> dict[str, object]:
    """Connections without a key that send all but the end of a body."""
    head = f"POST /v1/datasets HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {2**25}\r\n\r\n"
    with api(checkout) as (port, pid, _), ExitStack() as stack:
        before, sent, replies = memory(pid), Counter[socket.socket](), Counter[bytes]()
        lines = opened(port, BODIES, head.encode(), stack)
        selector, piece = stack.enter_context(selectors.DefaultSelector()), bytes(2**18)
        for line in lines:
            selector.register(line, selectors.EVENT_WRITE)
        ends, worst, peak = time.monotonic() + 15, 0.0, before
        while selector.get_map() and time.monotonic() < ends:
            for key, _events in selector.select(1):
                line = key.fileobj
                try:
                    sent[line] += line.send(piece[: BODY_BYTES - sent[line]])  # type: ignore[union-attr, index]
                except OSError:
                    sent[line] = BODY_BYTES  # type: ignore[index]
                if sent[line] >= BODY_BYTES:  # type: ignore[index]
                    selector.unregister(line)
            peak = max(peak, memory(pid))
        for _ in range(5):
            worst = max(worst, health(port))
        for line in lines:
            with suppress(OSError):
                replies[line.recv(4096)[9:12]] += 1
        peak = max(peak, memory(pid))
    return {
        "bodies_mib_before": before,
        "bodies_mib_most": peak,
        "bodies_replies": " ".join(f"{count} × {status.decode()}" for status, count in replies.items()) or "none",
        "bodies_health_worst_s": worst,
    }


def endless_head(checkout: Path, seconds: float = 10.0) -> dict[str, object]:
    """One header of one connection that does not end."""
    with api(checkout) as (port, _, _), ExitStack() as stack:
        (line,) = opened(port, 1, b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: ", stack)
        line.setblocking(True)
        line.settimeout(0.05)
        ends, worst, sent, piece, closed = time.monotonic() + seconds, 0.0, 0, b"a" * 2**16, False
        while time.monotonic() < ends and not closed:
            try:
                sent += line.send(piece)
                if sent % 2**24 < 2**16:
                    worst = max(worst, health(port))
            except TimeoutError:
                worst = max(worst, health(port))
            except OSError:
                closed = True
        worst = max(worst, health(port))
    return {"head_mib_taken": sent / 2**20, "head_refused": closed, "head_health_worst_s": worst}


def half_heads(checkout: Path) -> dict[str, object]:
    """More half-sent heads than the process may open files."""
    with api(checkout, FILES) as (port, _, _), ExitStack() as stack:
        opened(port, HALF_HEADS, b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Half: ", stack)
        waits = [health(port) for _ in range(3)]
    return {
        "half_heads_health_worst_s": max(waits),
        "half_heads_answered": sum(wait < PATIENCE for wait in waits) / len(waits),
    }


def event_streams(checkout: Path) -> dict[str, object]:
    """Event streams of one key."""
    with api(checkout) as (port, pid, token), ExitStack() as stack:
        body = b'{"name": "d", "source": {"name": "digits"}}'
        made = drive(port, iter([request("POST", "/v1/datasets", token, body)]), 1, 1).last
        job = made.partition(b'"job":"')[2].partition(b'"')[0].decode()
        before = memory(pid)
        lines = opened(port, STREAMS, request("GET", f"/v1/jobs/{job}/events", token), stack)
        statuses, ends = Counter[bytes](), time.monotonic() + 60
        waiting = set(lines)
        while waiting and time.monotonic() < ends:
            for each in list(waiting):
                with suppress(BlockingIOError):
                    statuses[each.recv(4096)[9:12]] += 1
                    waiting.discard(each)
            time.sleep(0.05)
        after, wait = memory(pid), health(port)
    return {
        "streams_open": statuses[b"200"],
        "streams_refused": statuses[b"429"] + statuses[b"503"],
        "streams_mib_before": before,
        "streams_mib_after": after,
        "streams_health_s": wait,
    }


ATTACKS: tuple[Callable[[Path], dict[str, object]], ...] = (bodies, endless_head, half_heads, event_streams)


def hostile_connections() -> dict[str, object]:
    """Bodies without a key, an endless head, half-sent heads, and event streams of one key."""
    ours: dict[str, object] = {}
    for attack in ATTACKS:
        found = attack(ROOT)
        ours |= found
        if beside := os.environ.get("BESIDE"):
            ours |= {f"beside_{name}": value for name, value in attack(Path(beside)).items()}
    grown = ours["bodies_mib_most"] - ours["bodies_mib_before"]  # type: ignore[operator]
    passed = grown < 100 and ours["head_refused"] and ours["half_heads_answered"] == 1
    return {
        **ours,
        "gate": "less than 100 MiB of bodies held, the endless head refused, every health check answered",
        "gate_passed": bool(passed),
    }


# -- a queue full of another tenant's trainings ----------------------------------------------------


def another_tenant(folder: Path) -> str:
    """A second tenant, written into the database of any commit; its key."""
    secret = "s" * 43
    with sqlite3.connect(folder / "lethe.db", timeout=30) as database:
        database.execute("INSERT INTO tenants (id, name, created_at) SELECT 'ten_b', 'b', created_at FROM tenants")
        database.execute(
            "INSERT INTO api_keys (id, tenant_id, name, digest, scopes, created_at)"
            " SELECT 'key_b', 'ten_b', 'b', ?, ?, created_at FROM tenants LIMIT 1",
            (hashlib.sha256(secret.encode()).hexdigest(), json.dumps(["read", "request", "operate", "audit"])),
        )
    database.close()
    return f"lethe_b_{secret}"


def small_model(client: Client) -> tuple[str, str]:
    """A dataset of the digits and a model for it that is not trained."""
    dataset = client.post("/v1/datasets", {"name": "d", "source": {"name": "digits"}})
    client.jobs.wait(dataset["job"])
    policy = {name: value for name, value in QUICK_POLICY.items() if name != "null_seconds"}  # which is newer
    body = {"name": "m", "dataset": dataset["id"], **QUICK_MODEL, "policy": policy}
    return dataset["id"], client.post("/v1/models", body)["id"]


def race(checkout: Path) -> dict[str, object]:
    """Seconds from the 202 of a deletion until its job began, behind another tenant's trainings; one worker."""
    with tempfile.TemporaryDirectory() as name, running(checkout, "serve", Path(name)) as (port, _, token):
        url = f"http://127.0.0.1:{port}"
        with Client(url, token) as flood, Client(url, another_tenant(Path(name))) as law:
            dataset, model = small_model(law)
            law.jobs.wait(law.post(f"/v1/models/{model}:train")["id"])
            sample = law.get(f"/v1/datasets/{dataset}/samples", split="train", page_size=1)["items"][0]["id"]
            _, mine = small_model(flood)
            for _ in range(TRAININGS):
                flood.post(f"/v1/models/{mine}:train")
            request = law.requests.create(dataset, [sample])
            began = time.monotonic()
            with sqlite3.connect(Path(name) / "lethe.db", timeout=30) as database:
                database.execute(
                    "UPDATE deletion_requests SET due_at = datetime(received_at, '+60 seconds') WHERE id = ?",
                    (request["id"],),
                )
            database.close()
            job = law.get(f"/v1/deletion-requests/{request['id']}")["outcomes"][0]["job"]
            eventually(lambda: law.get(f"/v1/jobs/{job}")["started_at"], "the deletion to begin", 3600)
            waited = time.monotonic() - began
            before = sum(1 for each in flood.pages("/v1/jobs", kind="train", page_size=1000) if each["finished_at"])
    return {"begun_after_s": waited, "trainings_before_it": before}


def two_tenant_race() -> dict[str, object]:
    """A deletion that is due in a minute, behind another tenant's 500 trainings."""
    ours: dict[str, object] = race(ROOT)
    if beside := os.environ.get("BESIDE"):
        ours |= {f"beside_{name}": value for name, value in race(Path(beside)).items()}
    return {**ours, "gate": "begun within its minute", "gate_passed": ours["begun_after_s"] < 60}  # type: ignore[operator]
