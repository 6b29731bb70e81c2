"""Storage that refuses or does not answer: 503 with a wait, jobs that wait and go on, nothing half-done."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from app.blobs import usage
from app.blobs.folder import BlobMissingError, Folder, StorageUnavailableError, Writer
from app.blobs.open import open_blobs
from app.core import db
from app.core.config import Settings
from app.core.tables import Job
from app.main import create_app
from app.operations import agreement, probes
from tests.app.blobs.s3_server import Exchange, Fault, Proxy, patience, proxy, s3_server
from tests.helpers import SAFETENSORS, blobs, counts, incoming, is_problem
from tests.support import Account
from tests.trained import Template, Trained, open_account

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
READ_ONLY = OSError(errno.EROFS, os.strerror(errno.EROFS))
BROKEN = OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def trained(tmp_path: Path, template: Callable[[str], Template]) -> Iterator[Trained]:
    """On SQLite: these tests are about the storage."""
    source = template("sqlite")
    shutil.copytree(source.folder, tmp_path / "data")
    with open_account(Settings(data_dir=tmp_path / "data")) as account:
        yield Trained(account, source.dataset, source.model, source.ids)


class Disk:
    """Lets every write under the blob folder be refused, by the error that a disk gives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: OSError | None = None
        opened, synced = Path.open, os.fsync

        def open_(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if self.error and "incoming" in path.parts and set(mode) & set("wxa+"):
                raise self.error
            return opened(path, mode, *rest, **named)

        def sync(descriptor: int) -> None:
            if self.error and "incoming" in os.readlink(f"/proc/self/fd/{descriptor}"):
                raise self.error
            synced(descriptor)

        monkeypatch.setattr(Path, "open", open_)
        monkeypatch.setattr(os, "fsync", sync)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


# -- a folder --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [FULL, READ_ONLY, BROKEN], ids=["full", "read-only", "broken"])
def test_a_folder_that_refuses_is_unavailable_and_nothing_is_left(tmp_path: Path, disk: Disk, error: OSError) -> None:
    folder = Folder(tmp_path / "blobs")
    there = folder.put(b"there already").digest
    disk.error = error
    with pytest.raises(StorageUnavailableError, match=os.strerror(error.errno)):
        folder.put(b"more")
    with pytest.raises(StorageUnavailableError):
        folder.check()
    with pytest.raises(StorageUnavailableError), folder.scratch("job_1") as path:
        path.open("wb")
    assert b"".join(folder.read(there, 0, 5)) == b"there"
    disk.error = None
    folder.check()
    assert [path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == [there.removeprefix("sha256:")]


def test_a_device_that_is_full_in_truth_is_unavailable(tmp_path: Path) -> None:
    """/dev/full takes nothing: the system's own refusal, through buffers, fsync and close."""
    folder = Folder(tmp_path / "blobs")

    class ToFull(Writer):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._file.close()
            self._path.unlink()
            self._path.symlink_to("/dev/full")
            self._file = self._path.open("r+b")

    writer = ToFull(tmp_path / "blobs/incoming", lambda *_: None)
    with pytest.raises(StorageUnavailableError, match="No space left"):
        for _ in range(3):
            writer.write(bytes(2**20))
        writer.commit()
    writer.abort()
    with pytest.raises(StorageUnavailableError, match="No space left"), folder.scratch("job_1") as path:
        path.symlink_to("/dev/full")
        path.write_bytes(b"x")
    assert list((tmp_path / "blobs/incoming").iterdir()) == []


def test_what_safetensors_cannot_write_is_told_as_the_storages_refusal(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(StorageUnavailableError), Folder(tmp_path / "blobs").scratch("job_1") as path:
        save_file({}, path / "is-no-folder")


def test_a_folder_that_is_not_mounted_is_away_and_its_blobs_are_not_missing(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "blobs")
    there = folder.put(b"there").digest
    absent = "sha256:" + "0" * 64
    with pytest.raises(BlobMissingError):
        folder.size(absent)
    assert not folder.delete(absent)
    (tmp_path / "blobs").rename(tmp_path / "unmounted")
    for ask in (folder.size, folder.open, folder.fetch, folder.delete):
        with pytest.raises(StorageUnavailableError):
            ask(there)
    (tmp_path / "unmounted").rename(tmp_path / "blobs")
    assert folder.size(there) == 5


# -- the service on a folder -----------------------------------------------------------------------


def announced(trained: Trained, data: bytes) -> str:
    """The path of a new model's announced checkpoint."""
    account = trained.account
    body = {"name": "m", "dataset": trained.dataset} | {
        key: account.get(trained.where)[key] for key in ("architecture", "policy")
    }
    model = account.post("/v1/models", body)["id"]
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    account.post(f"/v1/models/{model}/versions", {"digest": digest, "trained_on": "train-split"})
    return f"/v1/models/{model}/versions/1/checkpoint"


def test_an_upload_to_a_full_disk_is_refused_for_now_and_may_be_sent_again(
    trained: Trained, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "SECONDS", 0.0)
    account = trained.account
    data = account.http.get(f"{trained.where}/versions/1/checkpoint").content
    path = announced(trained, data)
    before, stored = counts(account.database), blobs(account.settings)
    disk.error = FULL
    response = account.http.put(path, content=data, headers={"Content-Type": SAFETENSORS})
    is_problem(response, 503, "storage-unavailable")
    assert int(response.headers["retry-after"]) > 0
    ready = account.http.get("/readyz")
    assert ready.status_code == 200
    assert (ready.json()["status"], ready.json()["storage"]) == ("degraded", "refuses")
    assert any("free space" in words for words in ready.json()["degraded"])
    assert counts(account.database) == before
    disk.error = None
    assert incoming(account.settings) == []
    assert blobs(account.settings) == stored
    assert account.http.get("/readyz").json()["storage"] == "ok"
    assert account.http.put(path, content=data, headers={"Content-Type": SAFETENSORS}).status_code == 202


def test_a_download_from_a_folder_that_is_away_is_refused_for_now(trained: Trained) -> None:
    account = trained.account
    folder = account.settings.data_dir / "blobs"
    folder.rename(folder.with_name("unmounted"))
    response = account.http.get(f"{trained.where}/versions/1/checkpoint")
    is_problem(response, 503, "storage-unavailable")
    folder.with_name("unmounted").rename(folder)
    assert account.http.get(f"{trained.where}/versions/1/checkpoint").status_code == 200


def due_now(account: Account) -> None:
    with account.database.write() as session:
        session.execute(update(Job).where(Job.state == "queued").values(available_at=db.now(session)))


@pytest.mark.parametrize("error", [FULL, READ_ONLY], ids=["full", "read-only"])
def test_a_deletion_waits_for_the_disk_without_losing_an_attempt_and_goes_on(
    trained: Trained, disk: Disk, error: OSError
) -> None:
    account = trained.account
    disk.error = error
    made = trained.delete(trained.ids[:3])  # the promise needs no blob
    job = made["outcomes"][0]["job"]
    for _ in range(5):  # more often than a job has attempts
        due_now(account)
        account.work()
        found = account.get(f"/v1/jobs/{job}")
        assert (found["state"], found["attempts"]) == ("queued", 0)
    assert account.get(trained.where)["current_version"] == 1
    disk.error = None
    assert incoming(account.settings) == []
    due_now(account)
    account.work()
    assert trained.request(made)["status"] == "fulfilled"


def test_a_purge_that_cannot_write_waits_and_the_samples_stay_owed(trained: Trained, disk: Disk) -> None:
    account = trained.account
    made = trained.delete(trained.ids[:3])
    from worker.run_one import run_one

    run_one(account.resources, "tester")
    assert trained.request(made)["status"] == "published"
    disk.error = FULL
    account.work()
    assert trained.request(made)["status"] == "published"
    disk.error = None
    due_now(account)
    account.work()
    assert trained.request(made)["status"] == "fulfilled"


# -- the database ----------------------------------------------------------------------------------


class Refused(Exception):
    """As a driver's error."""

    def __init__(self, text: str, **codes: Any) -> None:
        super().__init__(text)
        self.__dict__.update(codes)


def test_a_database_that_takes_nothing_in_is_a_503_with_a_wait(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, path = trained.account, trained.account.settings.data_dir / "lethe.db"
    with account.database.engine.connect() as connection:
        raw: Any = connection.connection.driver_connection
        raw.execute("VACUUM")  # no free page is left
        pages = raw.execute("PRAGMA page_count").fetchone()[0]
    from sqlalchemy import event

    @event.listens_for(account.http.app.state.parts.database.engine, "checkout")  # type: ignore[attr-defined]
    def _limit(connection: Any, *_: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")  # the next page is one too many, as on a full disk

    size = path.stat().st_size
    responses = [
        account.http.post("/v1/datasets", json={"name": "d" * 200, "source": {"name": "upload"}}) for _ in range(60)
    ]
    refused = [response for response in responses if response.status_code >= 300]
    assert refused
    for response in refused:
        is_problem(response, 503, "database-unavailable")
        assert int(response.headers["retry-after"]) > 0
    assert path.stat().st_size == size


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (Refused("connection refused"), True),
        (Refused("terminating connection", sqlstate="57P01"), True),
        (Refused("could not extend file", sqlstate="53100"), True),
        (Refused("deadlock detected", sqlstate="40P01"), False),
        (Refused("lock timeout", sqlstate="55P03"), False),
    ],
)
def test_which_errors_mean_that_postgresql_is_away(error: Exception, away: bool) -> None:
    assert db.is_away(OperationalError("SELECT 1", {}, error)) == away


# -- the service on object storage -----------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def shim(server: str) -> Iterator[Proxy]:
    with proxy(server) as found:
        yield found


def answers(status: int) -> Fault:
    def fault(exchange: Exchange) -> None:
        exchange.receive()
        body = b"<Error><Code>InternalError</Code></Error>"
        exchange.answer(status, {"Content-Type": "application/xml", "Content-Length": str(len(body))}, body)

    return fault


def silent(exchange: Exchange) -> None:
    exchange.receive()
    exchange.stall()


def resets(exchange: Exchange) -> None:
    exchange.receive(most=1000)
    exchange.reset()


def half(exchange: Exchange) -> None:
    status, headers, body = exchange.forward(exchange.receive())
    exchange.begin(status, headers)
    exchange.wfile.write(body[: len(body) // 2])
    exchange.reset()


METHODS = ("GET", "PUT", "POST", "HEAD", "DELETE")


@pytest.fixture
def in_bucket(
    request: pytest.FixtureRequest, trained: Trained, shim: Proxy, server: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Trained]:
    """The same service with its blobs in a bucket behind the proxy."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    settings = trained.account.settings.model_copy(
        update={
            "blob_url": f"s3://{trained.model.replace('_', '-')}",
            "s3_endpoint": shim.url,
            "s3_access_key": "key",
            "s3_secret_key": SecretStr("secret"),
            "s3_timeout_seconds": patience(request, silent),
        }
    )
    bucket: Any = open_blobs(settings.model_copy(update={"s3_endpoint": server}))
    bucket._client.create_bucket(Bucket=bucket._bucket)
    folder = Folder(trained.account.settings.data_dir / "blobs")
    for digest in folder.older_than(-60):
        bucket.put(folder.place(digest).read_bytes())
    agreement.move_storage(trained.account.database, settings)
    with TestClient(create_app(settings), raise_server_exceptions=False) as http:
        http.headers.update(trained.account.http.headers)
        account = Account(settings, trained.account.database, http)
        yield Trained(account, trained.dataset, trained.model, trained.ids)
        account.close()
    for digest in bucket.older_than(-60):
        bucket.delete(digest)
    bucket._client.delete_bucket(Bucket=bucket._bucket)


FAULTS = {"500": answers(500), "503": answers(503), "silence": silent, "reset": resets}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_object_storage_that_does_not_answer_is_a_503_and_degraded(
    in_bucket: Trained, shim: Proxy, fault: Fault
) -> None:
    http = in_bucket.account.http
    data = http.get(f"{in_bucket.where}/versions/1/checkpoint").content
    path = announced(in_bucket, data)
    before = counts(in_bucket.account.database)
    for method in METHODS:
        shim.spoil(method, fault)
    response = http.get(f"{in_bucket.where}/versions/1/checkpoint")
    is_problem(response, 503, "storage-unavailable")
    assert int(response.headers["retry-after"]) > 0
    is_problem(http.put(path, content=data, headers={"Content-Type": SAFETENSORS}), 503, "storage-unavailable")
    ready = http.get("/readyz").json()
    assert (ready["status"], ready["storage"]) == ("degraded", "unreachable")
    assert counts(in_bucket.account.database) == before


def passes(exchange: Exchange) -> None:
    exchange.answer(*exchange.forward(exchange.receive()))


def test_whoever_holds_locks_asks_a_silent_storage_once(in_bucket: Trained, shim: Proxy) -> None:
    """The client's patience is 30 s and three tries: were it used, the second try would have been answered."""
    account, http = in_bucket.account, in_bucket.account.http
    data = http.get(f"{in_bucket.where}/versions/1/checkpoint").content
    path = announced(in_bucket, data)
    before = counts(account.database)
    shim.spoil("HEAD", passes, times=1)  # of the upload
    shim.spoil("HEAD", silent, times=1)  # of the transaction that records it
    is_problem(http.put(path, content=data, headers={"Content-Type": SAFETENSORS}), 503, "storage-unavailable")
    assert counts(account.database) == before
    assert http.put(path, content=data, headers={"Content-Type": SAFETENSORS}).status_code == 202
    digest = account.resources.blobs.put(b"of nobody").digest
    shim.spoil("DELETE", silent, times=1)
    with pytest.raises(StorageUnavailableError):
        usage.remove(account.database, account.resources.blobs, digest)
    assert usage.remove(account.database, account.resources.blobs, digest)


def test_a_job_waits_for_object_storage_and_goes_on(in_bucket: Trained, shim: Proxy) -> None:
    account = in_bucket.account
    made = in_bucket.delete(in_bucket.ids[:3])
    job = made["outcomes"][0]["job"]
    left = 40
    for method, fault in (("GET", half), ("PUT", answers(503)), ("HEAD", resets)):
        shim.spoil(method, fault, times=4)  # more than the tries of one request, so that whole attempts fail
    while in_bucket.request(made)["status"] != "fulfilled" and left:
        due_now(account)
        account.work()
        left -= 1
    found = account.get(f"/v1/jobs/{job}")
    assert (found["state"], found["attempts"]) == ("succeeded", 1)
    assert in_bucket.request(made)["status"] == "fulfilled"
    assert account.http.get(f"{in_bucket.where}/versions/2/checkpoint").status_code == 200


def test_a_download_that_breaks_off_in_the_middle_is_taken_up_inside(in_bucket: Trained, shim: Proxy) -> None:
    http, where = in_bucket.account.http, f"{in_bucket.where}/versions/1/checkpoint"
    whole = http.get(where).content
    shim.spoil("GET", half, times=2)
    assert http.get(where).content == whole
