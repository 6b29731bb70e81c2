"""The examples of docs/datasets.md, run as they stand against a service: an upload, and data that stay outside."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.catalog import SmallCnnParams
from engine import checkpoints, seeding
from engine.architectures import small_cnn
from lethe import Client
from tests.support import embedded

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"


def example(name: str) -> str:
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


def run(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Client]:
    with embedded(folder / "lethe-data") as client:
        yield client


def test_what_a_deletion_carried_is_nowhere_afterwards(service: Client, folder: Path) -> None:
    path = folder / "mine.safetensors"
    model = seeding.seeded_model(lambda: small_cnn.build(SmallCnnParams(), 1, 10, (8, 8)), 0, "cpu")
    checkpoints.save(model, path, {})
    given = f"from pathlib import Path\nCHECKPOINT = Path({str(path)!r})\n"
    assert run(given + example("carried"), folder) == "fulfilled 2 erased"

    (request,) = service.pages("/v1/deletion-requests")
    subjects = {receipt["subject"]: receipt["done_at"] is not None for receipt in request["receipts"]}
    assert "database" in subjects
    del subjects["database"]  # done a moment later
    assert subjects == {"carried-data": True, "adversarial-artifact": True, "superseded-checkpoint": False}
    sent = np.load(io.BytesIO((folder / "to-forget.npz").read_bytes()))
    marks = [name.encode() for name in sent["ids"].tolist()] + [image.tobytes() for image in sent["images"]]
    kept = b"\n".join(path.read_bytes() for path in (folder / "lethe-data").rglob("*") if path.is_file())
    assert [mark for mark in marks if mark in kept] == []
    assert len(list((folder / "lethe-data" / "blobs").glob("??/*"))) == 2, "version 2, and 1 until its grace is over"


def test_each_layout_is_uploaded(service: Client, folder: Path) -> None:
    assert run(example("layouts"), folder).splitlines() == [
        "splits.zip 16 ['ant', 'bee'] [8, 8, 1] root-folder",
        "classes.zip 16 ['ant', 'bee'] [8, 8, 1]",
        "table.parquet 16 ['ant', 'bee'] [8, 8, 1] ids-made",
        "array.npz 16 ['ant', 'bee'] [8, 8, 3] channels-first floats",
        "shard.tar 16 ['ant', 'bee'] [None, None, 1]",
    ]
    assert run(example("shards"), folder) == "60 40 3"
