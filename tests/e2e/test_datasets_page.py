"""The examples of docs/datasets.md, run as they stand against a service: an upload, and data that stay outside."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3.session
import numpy as np
import pytest

from app.catalog import SmallCnnParams
from engine import checkpoints, seeding
from engine.architectures import small_cnn
from lethe import Client
from tests.app.blobs.s3_server import s3_server
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
def storage() -> Iterator[str]:
    """A server that speaks S3, with an empty bucket."""
    with s3_server() as url:
        secrets = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        boto3.session.Session().client("s3", endpoint_url=url, **secrets).create_bucket(Bucket="pictures")
        yield url


@pytest.fixture(scope="module")
def service(folder: Path, storage: str) -> Iterator[Client]:
    settings = {
        "objects_allowed": "s3://pictures/insects",
        "objects_endpoint": storage,
        "objects_access_key": "key",
        "objects_secret_key": "secret",
    }
    with embedded(folder / "lethe-data", **settings) as client:
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


def test_pictures_stay_where_they_are(
    service: Client, folder: Path, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    said = run(f"STORAGE = {storage!r}\n" + example("objects"), folder).splitlines()
    assert said[0] == "20 ['ant', 'bee'] [8, 8, 1]"
    assert said[1].startswith("1 object that the samples' pictures were read from: their owner confirmed")


def test_each_layout_is_uploaded(service: Client, folder: Path) -> None:
    assert run(example("layouts"), folder).splitlines() == [
        "splits.zip 16 ['ant', 'bee'] [8, 8, 1] root-folder",
        "classes.zip 16 ['ant', 'bee'] [8, 8, 1] holdout-drawn",
        "table.parquet 16 ['ant', 'bee'] [8, 8, 1] holdout-drawn ids-made",
        "array.npz 16 ['ant', 'bee'] [8, 8, 3] channels-first floats holdout-drawn",
        "shard.tar 16 ['ant', 'bee'] [None, None, 1] holdout-drawn",
    ]
    assert run(example("shards"), folder) == "60 40 3"
