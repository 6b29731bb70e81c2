"""Canaries handed out: from spans of the file, within the room there is, and without a copy on the API's machine."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app import main
from app.api import datasets
from app.blobs.bucket import Bucket
from app.blobs.open import open_blobs
from app.jobs import routing
from app.operations import agreement
from app.recovery import checker
from tests.app.blobs.s3_server import s3_server
from tests.app.datasets.test_suppression import IDS, IMAGES, packed, taken_in
from tests.helpers import is_problem
from tests.support import Account, eventually
from worker.runtime.cache import Cache
from worker.runtime.run import Resources

pytestmark = pytest.mark.validation
PLANTED = ["lethe:canary"] * 4 + ["ann"] * 8


@pytest.fixture
def apart(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """Blobs in a bucket; API and worker on two machines."""
    monkeypatch.setattr(main, "SWEEP_SECONDS", 0.1)
    with s3_server() as url:
        given = {"blob_url": "s3://blobs", "s3_endpoint": url, "s3_access_key": "k", "s3_secret_key": SecretStr("s")}
        here = account.settings.model_copy(update=given)
        bucket = open_blobs(here)
        assert isinstance(bucket, Bucket)
        bucket._client.create_bucket(Bucket="blobs")
        agreement.move_storage(account.database, here)
        secret = SecretStr(here.secret_bytes().decode())
        there = here.model_copy(update={"data_dir": tmp_path / "worker", "secret": secret})
        there.data_dir.mkdir()
        cache, own = Cache(account.database, 0), routing.own(there)
        worker = Resources(there, account.database, open_blobs(there), torch.device("cpu"), own, cache)
        with TestClient(main.create_app(here)) as http:
            http.headers.update(account.http.headers)
            yield Account(here, account.database, http, worker)
        cache.close()


def copies(account: Account) -> list[Path]:
    return list((account.settings.data_dir / "copies").glob("??/*"))


def test_nothing_is_copied_to_the_machine_of_the_api(apart: Account) -> None:
    """As seen: the whole file stayed there, with the pictures of whoever was erased later."""
    dataset = taken_in(apart, packed(IMAGES, IDS, PLANTED))["id"]
    answer = apart.http.get(f"/v1/datasets/{dataset}/canaries")
    found = np.load(io.BytesIO(answer.content))
    np.testing.assert_array_equal(found["images"], IMAGES[:4])
    assert found["ids"].tolist() == IDS[:4]
    assert copies(apart) == []
    apart.delete(dataset, IDS[4:6])
    apart.work()
    blobs = open_blobs(apart.settings)
    assert checker.check(apart.database, blobs, thorough=True) == []
    assert copies(apart) == []


def test_copies_that_an_api_has_go_with_the_blob(apart: Account) -> None:
    blobs = open_blobs(apart.settings)
    digest = blobs.put(b"erased").digest
    copy = blobs.fetch(digest)
    open_blobs(apart.resources.settings).delete(digest)
    eventually(lambda: not copy.exists(), "the copy's end", 10)


def test_as_few_at_once_as_other_downloads_and_never_more_than_there_is_room_for(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = taken_in(account, packed(IMAGES, IDS, PLANTED))["id"]
    where = f"/v1/datasets/{dataset}/canaries"
    parts = account.http.app.state.parts  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setattr(parts, "settings", parts.settings.model_copy(update={"disk_reserve_bytes": 2**60}))
        is_problem(account.http.get(where), 507, "storage-full")
    with monkeypatch.context() as patched:
        patched.setattr(datasets, "_most_of", lambda *_: 100)
        assert account.http.get(where).status_code == 503
    with monkeypatch.context() as patched:
        patched.setattr(parts.transfers, "_of_key", 0)
        is_problem(account.http.get(where), 429, "too-many-at-once")
    assert account.http.get(where).status_code == 200
    assert parts.blobs.space().claimed == 0
