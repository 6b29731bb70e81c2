"""A 1 GB checkpoint sent by the service, beside the best that the same server can send."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load import cpu_seconds
from benchmarks.posting import wait_for
from benchmarks.service import GIGABYTE, api_process, big_checkpoint, peak_mb
from tests.support import QUICK_MODEL, embedded, free_port

PIECES_KB = (64, 256, 1024)
ROUNDS = 5


def download_1gb() -> dict[str, object]:
    """Rounds of one and the other; the client reads from a socket and throws away."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = folder / "big.safetensors"
        digest = big_checkpoint(checkpoint)
        with embedded(folder / "data") as client, _bare(checkpoint) as (bare, bare_pid):
            dataset = client.post("/v1/datasets", {"name": "d", "source": {"name": "digits"}})
            client.jobs.wait(dataset["job"])
            model = client.post("/v1/models", {"name": "m", "dataset": dataset["id"], **QUICK_MODEL})
            where = f"/v1/models/{model['id']}/versions"
            client.post(where, {"digest": digest, "trained_on": "train-split"})
            client.versions.upload(model["id"], 1, checkpoint)
            port = int((folder / "data" / "url").read_text().rpartition(":")[2])
            token = (folder / "data" / "api-key").read_text().strip()
            api = api_process(folder / "data")
            best = max(PIECES_KB, key=lambda kb: max(_fetch(bare, f"/{kb}") for _ in range(2)))
            _fetch(port, f"{where}/1/checkpoint", token)
            before, ours, theirs = peak_mb(api), [], []
            cpu = -cpu_seconds(api), -cpu_seconds(bare_pid)
            for _ in range(ROUNDS):
                ours.append(_fetch(port, f"{where}/1/checkpoint", token))
                theirs.append(_fetch(bare, f"/{best}"))
            cpu = cpu[0] + cpu_seconds(api), cpu[1] + cpu_seconds(bare_pid)
            added = peak_mb(api) - before
    shares = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return {
        "ours_mb_per_s": sorted(ours)[ROUNDS // 2],
        "bare_mb_per_s": sorted(theirs)[ROUNDS // 2],
        "bare_piece_kb": best,
        "share": shares[ROUNDS // 2],
        "share_worst_round": shares[0],
        "ours_cpu_s_per_gb": cpu[0] / ROUNDS,
        "bare_cpu_s_per_gb": cpu[1] / ROUNDS,
        "added_mb": added,
        "gate": "at least 0.8 of the best that the bare server sends; less than 64 MB added by five downloads",
        "gate_passed": shares[ROUNDS // 2] >= 0.8 and added < 64,
    }


@contextmanager
def _bare(file: Path) -> Iterator[tuple[int, int]]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.bare_file:app", "--port", str(port), "--no-access-log"]
    env = os.environ | {"BARE_FILE": str(file)}
    process = subprocess.Popen([*command, "--log-level", "warning"], env=env)
    try:
        wait_for(port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def _fetch(port: int, path: str, token: str = "-") -> float:
    """MB per second of one download."""
    buffer = bytearray(2**20)
    with socket.create_connection(("127.0.0.1", port)) as line:
        began = time.perf_counter()
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        line.sendall(head.encode())
        count = 0
        while got := line.recv_into(buffer):
            count += got
        seconds = time.perf_counter() - began
    if count < GIGABYTE:
        raise ValueError(f"{count} bytes came: {bytes(buffer[:300])!r}")
    return count / 1e6 / seconds
