"""What a request costs in batches of 1 to 1,000, and what a worker that keeps things loaded saves; service code.

`LETHE_BENCH_IMAGES`: a Parquet file with columns `image` (PNG or JPEG bytes under `bytes`) and `label`, classes
interleaved, such as CIFAR-10's; without it images are made up: a smooth pattern for each class, with noise.
Costs are CPU-seconds of one thread, which a busy machine does not change.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fastapi.testclient import TestClient
from PIL import Image

from app import jobs
from app.core import crash_points, keys
from app.core.config import Settings
from app.core.db import Database
from app.core.tables import Version
from app.jobs.routing import Takes
from app.main import create_app
from app.operations import migrate
from app.rules.states import JobKind
from tests.support import Account
from worker.run_one import KINDS
from worker.runtime.attempt import attempt
from worker.runtime.cache import Cache
from worker.stages.loaded import LoadedModel

SAMPLES, HOLDOUT = 20_000, 2_000
SIZES = (1, 10, 100, 1_000)
RATE = {"learning_rate": 0.01, "batch_size": 256}
MODEL = {
    "architecture": {"name": "small_cnn", "params": {"width": 8}},
    "recipe": {"name": "sgd", "params": {"epochs": 2, "batch_size": 256}},
}
POLICY = {
    "method": {"name": "amun", "params": {"epochs": 1, **RATE}},
    "attack": {"name": "pgd_l2", "params": {"steps": 10}},
    "audit": {"name": "rmia", "params": {"margin": 0.4}},  # what the audit says is not what is measured
    "escalation": [],
    "grace_seconds": 0,
}
STAGES = ("attack", "finetune", "audit", "publish")


# -- the service -----------------------------------------------------------------------------------


@contextmanager
def account(folder: Path) -> Iterator[Account]:
    settings = Settings(data_dir=folder)
    database = Database(settings)
    migrate.migrate(database)
    keys.bootstrap(database, settings)
    with TestClient(create_app(settings)) as http:
        http.headers["Authorization"] = f"Bearer {settings.key_file.read_text().strip()}"
        found = Account(settings, database, http)
        yield found
        found.close()
    database.close()


def pictures(path: Path) -> str:
    """Write a dataset's content to `path`; where its images are from."""
    source = os.environ.get("LETHE_BENCH_IMAGES", "")
    if source:
        table = pq.read_table(source, columns=["image", "label"])[:SAMPLES]
        images, labels = table["image"].combine_chunks().field("bytes").to_pylist(), table["label"].to_pylist()
    else:
        rng = np.random.default_rng(0)
        labels = (np.arange(SAMPLES) % 10).tolist()
        patterns = rng.uniform(64, 192, (10, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
        noisy = (patterns[label] + rng.normal(0, 48, (32, 32, 3)) for label in labels)
        images = [_png(np.clip(each, 0, 255).astype(np.uint8)) for each in noisy]
    ids = [f"s{number:06}" for number in range(len(labels))]
    split = ["holdout" if number < HOLDOUT else "train" for number in range(len(labels))]
    pq.write_table(pa.table({"id": ids, "image": images, "label": labels, "split": split}), path)
    return "the first rows of LETHE_BENCH_IMAGES" if source else "made up"


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


def prepare(held: Account, folder: Path) -> tuple[str, str, str]:
    """A dataset, a trained model with four references; where its images are from."""
    made = held.post("/v1/datasets", {"name": "d", "source": {"name": "upload"}})["id"]
    content = folder / "content.parquet"
    origin = pictures(content)
    kind = {"Content-Type": "application/vnd.apache.parquet"}
    reply = held.http.put(f"/v1/datasets/{made}/content", content=content.read_bytes(), headers=kind)
    assert reply.status_code == 202, reply.text
    held.work()
    model = held.post("/v1/models", {"name": "m", "dataset": made, **MODEL, "policy": POLICY})["id"]
    held.post(f"/v1/models/{model}:train")
    held.post(f"/v1/models/{model}:references", {"count": 4})
    held.work()
    return made, model, origin


# -- batches ---------------------------------------------------------------------------------------


class Meter:
    """CPU-seconds between the named points that the service passes, by stage of the unlearn job."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._began = 0.0

    def point(self, name: str) -> None:
        kind, _, stage = name.partition(".")
        if kind == "unlearn" and name.endswith(".begin"):
            self._began = time.process_time()
        if kind == "unlearn" and name.endswith(".end"):
            stage = stage.removesuffix(".end")
            self.spent[stage] = self.spent.get(stage, 0.0) + time.process_time() - self._began


def batch_economy() -> dict[str, object]:
    """A deletion's cost falls with the batch's size: fine-tuning and audit are paid once, the attack by sample."""
    with tempfile.TemporaryDirectory() as name, account(Path(name) / "data") as held:
        dataset, model, origin = prepare(held, Path(name))
        ids = [f"s{number:06}" for number in range(HOLDOUT, SAMPLES)]
        costs: dict[int, dict[str, float]] = {}
        for size in (1, *SIZES):  # the first one warms the worker, and does not count
            costs[size] = _batch(held, dataset, model, [ids.pop(0) for _ in range(size)])
    stages = [*STAGES, "job", "purge", "all"]
    table = {str(size): {stage: costs[size].get(stage, 0.0) / size for stage in stages} for size in SIZES}
    slopes = {stage: _slope([costs[size].get(stage, 0.0) / size for size in SIZES]) for stage in stages}
    return {
        "images": origin,
        "samples": SAMPLES,
        "architecture": "small_cnn, width 8",
        "cpu_s_per_request": table,
        "slope_of_log_cost_per_request": slopes,
        "cost_1_over_cost_1000": costs[1]["all"] * 1000 / costs[1000]["all"],
        "gate": "the unlearn job's cost falls as 1/N: slope -1 ± 0.1; one of 1,000 requests, its purge included, costs "
        "at most a fiftieth of one alone",
        "gate_passed": abs(slopes["job"] + 1) <= 0.1 and costs[1]["all"] * 1000 / 50 >= costs[1000]["all"],
    }


def _batch(held: Account, dataset: str, model: str, ids: list[str]) -> dict[str, float]:
    """CPU-seconds of one batch, a request for each id: by stage, of the whole unlearn job, of all the purges."""
    rule = {"mode": "batch", "max_requests": len(ids)}
    reply = held.http.put(f"/v1/models/{model}/policy", json=POLICY | {"when": rule})
    assert reply.status_code == 200, reply.text
    for start in range(0, len(ids), 500):
        lines = [json.dumps({"dataset": dataset, "sample_ids": [one]}) for one in ids[start : start + 500]]
        kind = {"Content-Type": "application/x-ndjson"}
        sent = held.http.post("/v1/deletion-requests:import", content="\n".join(lines), headers=kind)
        assert sent.status_code == 200, sent.text
        assert all(json.loads(line)["status"] == 202 for line in sent.text.splitlines()), sent.text[:500]
    meter, before = Meter(), crash_points.point
    crash_points.point = meter.point
    try:
        meter.spent["job"] = _run(held, JobKind.UNLEARN)
        meter.spent["purge"] = sum(_run(held, JobKind.PURGE) for _ in ids)
        meter.spent["all"] = meter.spent["job"] + meter.spent["purge"]
    finally:
        crash_points.point = before
    newest = held.get(f"/v1/models/{model}")["current_version"]
    report = held.get(f"/v1/models/{model}/versions/{newest}/audit")["report"]
    assert report["forget_samples"] == len(ids), report["forget_samples"]
    return meter.spent


def _run(held: Account, kind: JobKind) -> float:
    """CPU-seconds of the next job of that kind."""
    claim = jobs.claim(held.database, "bench", 600.0, takes=Takes(frozenset({kind})))
    assert claim is not None, kind
    began = time.process_time()
    attempt(held.resources, claim, KINDS[kind])
    return time.process_time() - began


def _slope(costs: list[float]) -> float:
    """Of the logarithm of the cost against the logarithm of the size, by least squares."""
    return float(np.polyfit(np.log10(SIZES), np.log10(np.maximum(costs, 1e-9)), 1)[0])


# -- warm ------------------------------------------------------------------------------------------


def warm_worker() -> dict[str, object]:
    """What a job waits for before it computes, in a worker that has just had one of the same model, and in a new one:
    samples and manifest, the parent checkpoint, the pool's signals. CPU milliseconds, medians of seven."""
    figures: dict[str, object] = {}
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        for label in ("digits", "images"):
            with account(Path(name) / label / "data") as held:
                if label == "digits":
                    dataset = held.digits()["id"]
                    model = held.post("/v1/models", {"name": "m", "dataset": dataset, **MODEL, "policy": POLICY})["id"]
                    held.post(f"/v1/models/{model}:train")
                    held.post(f"/v1/models/{model}:references", {"count": 16})
                    held.work()
                else:
                    _, model, origin = prepare(held, Path(name))
                    figures["images"] = origin
                cold, warm = _loads(held, model)
            figures |= {f"{label}_cold_ms": 1000 * cold, f"{label}_warm_ms": 1000 * warm, f"{label}_ratio": cold / warm}
            ratios.append(cold / warm)
    gate = {"gate": "warm at least 5 times faster on the images", "gate_passed": ratios[-1] >= 5}
    return {"samples": SAMPLES, **figures, **gate}


def _loads(held: Account, model: str) -> tuple[float, float]:
    """Median CPU-seconds of loading, cold and warm."""
    held.post(f"/v1/models/{model}:precompute")
    claim = jobs.claim(held.database, "bench", 600.0)
    assert claim is not None
    with held.database.read() as session:
        digest = session.query(Version).filter_by(model_id=model, state="current").one().digest
    held.resources.cache.close()
    found: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(7):
        cache = Cache(held.database, held.settings.warm_bytes)
        object.__setattr__(held.resources, "cache", cache)
        for again in (False, True):
            began = time.process_time()
            loaded = LoadedModel.load(held.resources, claim)
            loaded.restore(digest)
            loaded.pool_signals(loaded.pool())
            found[again].append(time.process_time() - began)
        cache.close()
    return statistics.median(found[False]), statistics.median(found[True])
