"""Taking datasets in, beside commit 421cc80 in the same run: JPEG and PNG, the purge of some samples, and large ones.

Each tree serves as it does for people (`lethe serve`, one worker). The service's own figures are those of its job; CPU
time is that of the whole process tree.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HERE = Path(__file__).parents[1]
BEFORE = "421cc80"
ROUNDS = 3
PARQUET = "application/vnd.apache.parquet"
NPZ = "application/x-npz"


def ingest() -> dict[str, object]:
    """50,000 JPEGs of 32 pixels and 4,000 PNGs of 224: our job's seconds and the other tree's."""
    figures: dict[str, Any] = {"cores": len(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory() as folder, _before(Path(folder)) as before:
        for kind, count, side in (("JPEG", 50_000, 32), ("PNG", 4_000, 224)):
            path, alone = _table(Path(folder), kind, count, side)
            little, _ = _table(Path(folder), kind, 100, side)
            trees = {"ours": HERE, "before": before}
            seconds: dict[str, list[float]] = {name: [] for name in trees}
            used: dict[str, list[float]] = {name: [] for name in trees}
            for _ in range(ROUNDS):
                for name, tree in trees.items():
                    with _serving(tree, Path(tempfile.mkdtemp(dir=folder))) as service:
                        service.taken_in(little)  # what starts once is started
                        began = _cpu_seconds(service.process.pid)
                        seconds[name].append(service.taken_in(path)[1])
                        used[name].append(_cpu_seconds(service.process.pid) - began)
            ours, theirs = median(seconds["ours"]), median(seconds["before"])
            figures |= {
                f"{kind}_ours_s": " / ".join(f"{value:.2f}" for value in seconds["ours"]),
                f"{kind}_{BEFORE}_s": " / ".join(f"{value:.2f}" for value in seconds["before"]),
                f"{kind}_ratio": theirs / ours,
                f"{kind}_cpu_s": f"{median(used['ours']):.2f} / {median(used['before']):.2f}",
                f"{kind}_ours_per_s": count / ours,
                f"{kind}_decoder_per_core_s": alone,
                f"{kind}_of_decoder_and_cores": count / ours / alone / figures["cores"],
            }
    passed = figures["JPEG_ratio"] >= 4 and figures["PNG_of_decoder_and_cores"] >= 0.8
    gate = "JPEG at least 4 times as fast as before; PNG at least 80 % of the decoder's own speed on all cores"
    return figures | {"gate": gate, "gate_passed": passed}


def purge_500() -> dict[str, object]:
    """500 of 50,000 JPEGs are erased: the purge job's seconds."""
    seconds: dict[str, list[float]] = {"ours": [], BEFORE: []}
    with tempfile.TemporaryDirectory() as folder, _before(Path(folder)) as before:
        path, _ = _table(Path(folder), "JPEG", 50_000, 32)
        for _ in range(ROUNDS):
            for name, tree in (("ours", HERE), (BEFORE, before)):
                with _serving(tree, Path(tempfile.mkdtemp(dir=folder))) as service:
                    dataset, _ = service.taken_in(path)
                    seconds[name].append(service.purged(dataset, [f"id-{row * 100}" for row in range(500)]))
    shown = {f"{name}_s": " / ".join(f"{value:.2f}" for value in values) for name, values in seconds.items()}
    ratio = median(seconds[BEFORE]) / median(seconds["ours"])
    return shown | {"ratio": ratio, "gate": "not slower than before, by a tenth at most", "gate_passed": ratio >= 0.9}


def two_million() -> dict[str, object]:
    """Two million pictures of 8 x 8 in one file: the job's seconds, a page of samples, the peak of memory."""
    return _large(2_000_000, "PNG", 8, files=1)


def most_samples() -> dict[str, object]:
    """The same of as many as a dataset may have, five million, which the worker takes 2.4 GiB for."""
    return _large(5_000_000, "PNG", 8, files=1, most_gib=3)


def page_of_two_million(n: int = 2_000_000) -> dict[str, object]:
    """A page of 1000 of two million samples, which came as an array: ours and the other tree's, in turn."""
    times: dict[str, list[float]] = {"ours": [], BEFORE: []}
    with tempfile.TemporaryDirectory() as folder, _before(Path(folder)) as before:
        path = Path(folder) / "samples.npz"
        images = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 1), dtype=np.uint8)
        np.savez(path, images=images, labels=np.arange(n) % 10, ids=np.char.add("id-", np.arange(n).astype("U7")))
        for name, tree in (("ours", HERE), (BEFORE, before)):
            with _serving(tree, Path(tempfile.mkdtemp(dir=folder))) as service:
                times[name] = service.pages(service.taken_in(path, NPZ)[0], 21)[1:]  # what starts once is started
    shown = {f"{name}_ms": f"{median(each):.1f} ({min(each):.1f} to {max(each):.1f})" for name, each in times.items()}
    ratio = median(times[BEFORE]) / median(times["ours"])
    return shown | {"ratio": ratio, "gate": "not slower than before, by a tenth at most", "gate_passed": ratio >= 0.9}


def large_jpegs() -> dict[str, object]:
    """100,000 JPEGs of 256 x 256, and the copy of 224 x 224 that a model sees is left out."""
    return _large(100_000, "JPEG", 256, files=4)


def _large(count: int, kind: str, side: int, files: int, most_gib: float = 1.5) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [_table(Path(folder), kind, count // files, side, number)[0] for number in range(files)]
        sent = sum(path.stat().st_size for path in paths)
        with _serving(HERE, Path(folder) / "data") as service, _watched(service.process.pid) as peak:
            made = service.call("POST", "/v1/datasets", json={"name": "d", "source": {"name": "upload"}})["id"]
            for number, path in enumerate(paths):
                with path.open("rb") as file:
                    where = f"/v1/datasets/{made}/shards/{number}"
                    service.call("PUT", where, content=file, headers={"Content-Type": PARQUET})
            closed = service.call("POST", f"/v1/datasets/{made}:close", json={"shards": files})
            seconds = service.done(closed["job"])
            pages = service.pages(made, 5)
    return {
        "samples": count,
        "bytes_sent": sent,
        "job_s": seconds,
        "page_of_1000_ms": " / ".join(f"{value:.1f}" for value in pages),
        **{f"peak_{name}_gib": value / 2**30 for name, value in peak.items()},
        "gate": f"API and worker at most {most_gib} GiB each, with their children",
        "gate_passed": all(value < most_gib * 2**30 for value in peak.values()),
    }


# -- pictures --------------------------------------------------------------------------------------


def _table(folder: Path, kind: str, count: int, side: int, part: int = 0) -> tuple[Path, float]:
    """A Parquet file of `count` smooth pictures, and how many of them Pillow alone decodes in a core-second."""
    random = np.random.default_rng(part)
    some = min(count, 4096)
    encoded = []
    for _ in range(some):
        coarse = random.integers(0, 256, (max(2, side // 4), max(2, side // 4), 3), dtype=np.uint8)
        buffer = io.BytesIO()
        options = {"quality": 90} if kind == "JPEG" else {}
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(buffer, kind, **options)
        encoded.append(buffer.getvalue())
    began = time.process_time()
    for data in encoded[:1000]:
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            np.asarray(image)
    alone = min(some, 1000) / (time.process_time() - began)
    path = folder / f"{kind}-{count}-{part}.parquet"
    schema = pa.schema([("id", pa.string()), ("image", pa.binary()), ("label", pa.int64())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, 20_000):
            rows = range(start, min(count, start + 20_000))
            ids = [f"id-{row}" if part == 0 else f"id-{part}-{row}" for row in rows]
            labels = [row % 10 for row in rows]
            writer.write_table(pa.table([ids, [encoded[row % some] for row in rows], labels], schema=schema))
    return path, alone


# -- services --------------------------------------------------------------------------------------


class _Service:
    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        url, key = folder / "url", folder / "api-key"
        while not url.exists():
            if process.poll() is not None:
                raise RuntimeError("the service did not start")
            time.sleep(0.1)
        headers = {"Authorization": f"Bearer {key.read_text().strip()}"}
        self._http = httpx.Client(base_url=url.read_text().strip(), headers=headers, timeout=600)

    def call(self, method: str, path: str, **options: Any) -> Any:
        response = self._http.request(method, path, **options)
        if response.is_error:
            raise RuntimeError(response.text)
        return response.json()

    def taken_in(self, path: Path, form: str = PARQUET) -> tuple[str, float]:
        """A dataset of this file, and the seconds of its job."""
        made = self.call("POST", "/v1/datasets", json={"name": "d", "source": {"name": "upload"}})["id"]
        with path.open("rb") as file:
            sent = self.call("PUT", f"/v1/datasets/{made}/content", content=file, headers={"Content-Type": form})
        return made, self.done(sent["job"])

    def pages(self, dataset: str, count: int) -> list[float]:
        """Milliseconds of the first pages of 1000 samples."""
        found, token = [], None
        for _ in range(count):
            began = time.perf_counter()
            where = f"/v1/datasets/{dataset}/samples?page_size=1000" + (f"&page_token={token}" if token else "")
            token = self.call("GET", where)["next_page_token"]
            found.append(1000 * (time.perf_counter() - began))
        return found

    def purged(self, dataset: str, ids: list[str]) -> float:
        self.call("POST", "/v1/deletion-requests", json={"dataset": dataset, "sample_ids": ids, "jurisdiction": "gdpr"})
        while not (jobs := self.call("GET", "/v1/jobs?kind=purge")["items"]):
            time.sleep(0.05)
        return self.done(jobs[0]["id"])

    def done(self, job: str) -> float:
        """The seconds that a job ran, once it is over."""
        while (found := self.call("GET", f"/v1/jobs/{job}"))["state"] in ("queued", "running"):
            time.sleep(0.2)
        if found["state"] != "succeeded":
            raise RuntimeError(str(found["problem"]))
        times = (datetime.fromisoformat(found[name]) for name in ("finished_at", "started_at"))
        return (next(times) - next(times)).total_seconds()


@contextmanager
def _serving(tree: Path, folder: Path) -> Iterator[_Service]:
    folder.mkdir(mode=0o700, exist_ok=True)
    known = {name: value for name, value in os.environ.items() if not name.startswith("LETHE_")}
    paths = [str(tree), *filter(None, known.get("PYTHONPATH", "").split(os.pathsep))]
    environment = known | {
        "PYTHONPATH": os.pathsep.join(paths), "LETHE_DATA_DIR": str(folder), "LETHE_PORT": "0", "LETHE_DEVICES": "cpu"
    }  # fmt: skip
    command = [sys.executable, "-m", "app", "serve"]
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tree, env=environment, stdout=log, stderr=log)
        try:
            yield _Service(folder, process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@contextmanager
def _before(folder: Path) -> Iterator[Path]:
    """A checkout of the commit that ours is compared with."""
    tree = folder / BEFORE
    subprocess.run(["git", "worktree", "add", "--detach", str(tree), BEFORE], cwd=HERE, check=True, capture_output=True)
    about = tree / "lethe-0.1.0.dist-info"  # it asks for its version, as an installed package
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lethe\nVersion: 0.1.0\n")
    try:
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=HERE, check=True)


# -- memory ----------------------------------------------------------------------------------------


@contextmanager
def _watched(root: int) -> Iterator[dict[str, float]]:
    """Peaks of memory that is no file's (bytes, `_size`) of the API and of the worker, each with its children."""
    peak: dict[str, float] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            for name, size in _sizes(root).items():
                peak[name] = max(peak.get(name, 0), size)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _sizes(root: int) -> dict[str, float]:
    parents, commands = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(place.name)] = (place / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    named: dict[str, Callable[[str], bool]] = {
        "api": lambda text: " api" in text or "uvicorn" in text,
        "worker": lambda text: "worker" in text,
    }
    found = {}
    for name, is_it in named.items():
        heads = [pid for pid, parent in parents.items() if parent == root and is_it(commands.get(pid, ""))]
        found[name] = sum(_size(pid) for pid in parents if any(_below(pid, head, parents) for head in heads))
    return found


def _cpu_seconds(root: int) -> float:
    """Of a process and all below it, those that have ended and were waited for among them."""
    stats = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            stats[int(place.name)] = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
    parents = {pid: int(fields[1]) for pid, fields in stats.items()}
    own = [fields for pid, fields in stats.items() if _below(pid, root, parents)]
    return sum(int(value) for fields in own for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _below(pid: int, head: int, parents: dict[int, int]) -> bool:
    while pid and pid != head:
        pid = parents.get(pid, 0)
    return pid == head


def _size(pid: int) -> float:
    """Resident memory that is not a file's (RssAnon and RssShmem): mapped files are the system's cache. What processes
    share after a fork counts for each."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(1024 * float(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
