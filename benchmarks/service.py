"""The service from outside: start, streaming, latency. Real processes on loopback."""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from lethe import Client
from tests.support import QUICK_MODEL, QUICK_POLICY, answers, embedded, environment, free_port, start, stop

GIGABYTE = 10**9


def api_start() -> dict[str, object]:
    """From starting the API process to its first answer: at most 3 s, and torch is never imported."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        port = free_port()
        env = environment(data, port=str(port))
        subprocess.run([sys.executable, "-m", "app", "migrate"], env=env, check=True, capture_output=True)
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            process = start("api", log=data / "log", env=env)
            with Client(f"http://127.0.0.1:{port}", "none", retries=0) as client:
                while not answers(client):
                    time.sleep(0.005)
            seconds.append(time.perf_counter() - began)
            torch_loaded = "torch" in Path(f"/proc/{process.pid}/maps").read_text()
            stop(process)
    return {
        "first_answer_s_median": statistics.median(seconds),
        "first_answer_s_worst": max(seconds),
        "torch_mapped": torch_loaded,
        "gate": "at most 3 s, no torch library mapped",
        "gate_passed": max(seconds) <= 3 and not torch_loaded,
    }


def stream_1gb() -> dict[str, object]:
    """A 1 GB checkpoint up and down: less than 200 MB of memory added to the API process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = folder / "big.safetensors"
        digest = big_checkpoint(checkpoint)
        with embedded(folder / "data") as client:
            dataset = client.post("/v1/datasets", {"name": "d", "source": {"name": "digits"}})
            client.jobs.wait(dataset["job"])
            model = client.post("/v1/models", {"name": "m", "dataset": dataset["id"], **QUICK_MODEL})
            where = f"/v1/models/{model['id']}/versions"
            client.post(where, {"digest": digest, "trained_on": "train-split"})
            api = api_process(folder / "data")
            before = peak_mb(api)
            began = time.perf_counter()
            client.versions.upload(model["id"], 1, checkpoint)
            up, after_up = time.perf_counter() - began, peak_mb(api)
            began = time.perf_counter()
            found = client.versions.download(model["id"], 1, folder / "back.safetensors")
            down, after_down = time.perf_counter() - began, peak_mb(api)
    added = after_down - before
    return {
        "up_mb_per_s": GIGABYTE / 1e6 / up,
        "down_mb_per_s": GIGABYTE / 1e6 / down,
        "added_mb_up": after_up - before,
        "added_mb_up_and_down": added,
        "gate": "digest equal, less than 200 MB added",
        "gate_passed": found == digest and added < 200,
    }


def big_checkpoint(path: Path) -> str:
    count = GIGABYTE // 4
    header = json.dumps({"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        block = bytes(4 * 10**6)
        for _ in range(count // 10**6):
            file.write(block)
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def api_process(folder: Path) -> int:
    """The pid of the API child of the tree on `folder`."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            variables = (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"api" in words and f"LETHE_DATA_DIR={folder}".encode() in variables:
            return int(entry.name)
    raise LookupError("no API process")


def peak_mb(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def post_to_start() -> dict[str, object]:
    """From the POST of a deletion to its job running, embedded: under 2 s."""
    with tempfile.TemporaryDirectory() as folder, embedded(Path(folder) / "data") as client:
        dataset = client.post("/v1/datasets", {"name": "d", "source": {"name": "digits"}})
        client.jobs.wait(dataset["job"])
        model = client.post(
            "/v1/models", {"name": "m", "dataset": dataset["id"], **QUICK_MODEL, "policy": QUICK_POLICY}
        )
        client.jobs.wait(client.post(f"/v1/models/{model['id']}:train")["id"])
        items = client.pages(f"/v1/datasets/{dataset['id']}/samples", split="train", page_size=1000)
        ids = [item["id"] for item in items][:10]
        posts, waits = [], []
        for sample in ids:
            began = time.perf_counter()
            request = client.requests.create(dataset["id"], [sample])
            posts.append(time.perf_counter() - began)
            job = client.jobs.wait(request["outcomes"][0]["job"])
            client.requests.wait(request["id"], poll_seconds=0.05)
            waits.append(_seconds(job["created_at"], job["started_at"]))
    return {
        "post_ms_median": 1000 * statistics.median(posts),
        "created_to_started_s_median": statistics.median(waits),
        "created_to_started_s_worst": max(waits),
        "gate": "post and wait together under 2 s",
        "gate_passed": max(posts) + max(waits) < 2,
    }


def _seconds(first: str, second: str) -> float:
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()
