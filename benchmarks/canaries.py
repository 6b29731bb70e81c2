"""Standing evidence: eight deletions of one sample each, with 45 canaries forgotten along, by three methods.

Each request's own audit is inconclusive, whatever was done: one sample has no power. The canaries tell apart an exact
retrain, AMUN and a sham (fine-tuning at a rate that changes next to nothing).
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from lethe import Client
from tests.support import embedded

JOBS, ALONG, REFERENCES = 8, 45, 32
METHODS: dict[str, dict[str, Any]] = {
    "retrain": {"name": "retrain"},
    "amun": {"name": "amun", "params": {"learning_rate": 0.15, "decay_every": 5, "batch_size": 64}},  # the demo's
    "sham": {"name": "fine_tune", "params": {"learning_rate": 0.001}},
}


def canaries() -> dict[str, object]:
    """The sham fails and the retrain does not, by their canaries; by their own audits nobody does either."""
    figures: dict[str, object] = {"deletions": JOBS, "canaries_each": ALONG, "references": REFERENCES}
    ended, own = {}, set()
    for name, method in METHODS.items():
        with tempfile.TemporaryDirectory() as folder, embedded(Path(folder) / "data") as client:
            reports, first = _run(client, Path(folder), method)
        figures[f"{name}_ft_auc_of_the_first_{ALONG}_by_version"] = first
        own |= {report["verdict"] for report, _ in reports}
        for number, (_, standing) in enumerate(reports, 1):
            if number in (1, JOBS):
                judged, auc = standing["judgement"], standing["candidate"]["ft_auc"]["value"]
                figures[f"{name}_verdict_{number}"] = judged["verdict"]
                figures[f"{name}_ft_auc_{number}"] = auc
                figures[f"{name}_interval_{number}"] = [round(judged["interval"][end], 3) for end in ("low", "high")]
        figures[f"{name}_known_ft_auc"] = standing["control"]["ft_auc"]["value"]
        ended[name] = standing["judgement"]["verdict"]
    return figures | {
        "verdicts_of_the_requests_own_audits": sorted(own),
        "gate": "own audits inconclusive; by the canaries the sham fails, the retrain does not",
        "gate_passed": own == {"inconclusive"} and ended["sham"] == "fail" and ended["retrain"] != "fail",
    }


Reports = list[tuple[dict[str, Any], dict[str, Any]]]


def _run(client: Client, folder: Path, method: dict[str, Any]) -> tuple[Reports, list[float]]:
    """For each deletion the judgement of its own audit, and the report on all canaries forgotten by then; then the
    FT-AUC of those that the first job forgot, by each version."""
    file = folder / "people.npz"
    people = _people(file)
    dataset = client.datasets.register("people")
    client.jobs.wait(client.datasets.upload(dataset["id"], file)["job"])
    recipe = {"name": "sgd", "params": {"epochs": 30, "batch_size": 64}}
    policy = {"method": method, "canaries": ALONG}
    model = client.models.register("reader", dataset["id"], "small_cnn", recipe=recipe, policy=policy)["id"]
    client.jobs.wait(client.models.train(model)["id"])
    client.jobs.wait(client.models.references(model, count=REFERENCES)["id"])
    found = []
    for person in people[:JOBS]:
        client.requests.wait(client.requests.create(dataset["id"], [person])["id"])
        published = client.versions.audit(model, client.models.get(model)["current_version"])["report"]
        standing = client.jobs.audit(client.jobs.wait(client.models.audit(model, canaries=True)["id"])["id"])["report"]
        found.append((published["judgement"], standing))
    first, by_version = _first(folder, dataset["id"]), []
    for number in range(2, JOBS + 2):
        job = client.jobs.wait(client.models.audit(model, version=number, sample_ids=first)["id"])
        by_version.append(round(client.jobs.audit(job["id"])["report"]["candidate"]["ft_auc"]["value"], 3))
    return found, by_version


def _first(folder: Path, dataset: str) -> list[str]:
    """Ids of the canaries that version 1 was trained on and version 2 was not: the service tells nobody which."""
    with closing(sqlite3.connect(folder / "data/lethe.db")) as database:
        rows = database.execute("SELECT trained_on FROM versions WHERE number IN (1, 2) ORDER BY number").fetchall()
        before, after = (np.unpackbits(np.frombuffer(row[0], dtype=np.uint8)) for row in rows)
        gone = set(np.flatnonzero(before & ~after).tolist())
        planted = "SELECT position, sample_id FROM samples WHERE dataset_id = ? AND subject = 'lethe:canary'"
        return [name for position, name in database.execute(planted, (dataset,)) if position in gone]


def _people(file: Path) -> list[str]:
    """Write the digits with noise 0.3, half of them canaries, as an npz; the ids of the people who may ask."""
    raw, random = load_digits(), np.random.default_rng(0)
    pixels = np.clip(raw.images / 16 + random.normal(0, 0.3, raw.images.shape), 0, 1)
    count = len(pixels)
    holdout = np.isin(np.arange(count), random.permutation(count)[:899])
    planted = random.random(count) < 0.5
    ids = np.array([f"{'canary' if each else 'person'}-{number}" for number, each in enumerate(planted)])
    np.savez_compressed(
        file,
        images=np.round(pixels * 255).astype(np.uint8),
        labels=raw.target.astype(np.int64),
        ids=ids,
        holdout=holdout,
        subject=np.where(planted, "lethe:canary", ""),
    )
    return list(ids[~holdout & ~planted])
