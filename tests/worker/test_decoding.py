"""Whose fault it is that a file cannot be decoded: who raised the error decides, and a crash ends a child alone."""

from __future__ import annotations

import errno
import io
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from app.blobs.open import open_blobs
from app.core.ids import new_id
from app.core.tables import Dataset, Job
from app.formats.input_contract import InputContract
from app.formats.pictures import PictureWriter
from app.formats.sandbox import Limits
from app.jobs import workers
from engine.data import upload
from tests.app.datasets.test_uploads import columns, dataset, parquet, send
from tests.support import QUICK_MODEL, QUICK_POLICY, Account, Document, eventually

pytestmark = pytest.mark.validation
HERE = "tests.worker.test_decoding"


def crashes(*_: Any) -> None:
    os.abort()


def finds_the_disk_full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def raises_without_a_number(*_: Any) -> None:
    raise OSError("image file is truncated")


def decoded_by(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    call = upload.sandbox.call

    def instead(_place: str, *arguments: Any, **limits: Any) -> Any:
        return call(f"{HERE}:{name}", *arguments, **limits)

    monkeypatch.setattr(upload.sandbox, "call", instead)


def sent(account: Account, data: bytes) -> str:
    made = dataset(account)
    response = send(account, made, data)
    assert response.status_code == 202, response.text
    return made


def ingest_of(account: Account) -> Document:
    account.work()
    [job] = account.get("/v1/jobs", kind="ingest")["items"]
    return dict(job)


def damaged() -> bytes:
    """A Parquet file whose directory, ids and labels are whole, and whose images are overwritten."""
    data = bytearray(parquet(columns()))
    metadata = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(0)
    chunk = next(c for c in map(metadata.column, range(metadata.num_columns)) if c.path_in_schema == "image")
    start = min(filter(None, (chunk.data_page_offset, chunk.dictionary_page_offset)))
    data[start + 40 : start + chunk.total_compressed_size] = b"\xff" * (chunk.total_compressed_size - 40)
    return bytes(data)


def test_what_a_decoder_says_of_the_file_refuses_the_file(account: Account) -> None:
    """As seen: three attempts, then dead, "its machine refused: None"."""
    made = sent(account, damaged())
    job = ingest_of(account)
    assert (job["state"], job["attempts"]) == ("failed", 1)
    assert job["problem"]["detail"] == "the file is not a readable Parquet file"
    assert account.get(f"/v1/datasets/{made}")["state"] == "failed"


def test_an_error_without_a_systems_number_is_the_files(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    sent(account, parquet(columns()))
    decoded_by(monkeypatch, "raises_without_a_number")
    assert ingest_of(account)["state"] == "failed"


def test_a_decoder_that_crashes_ends_no_worker(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sent(account, parquet(columns()))
    with monkeypatch.context() as patched:
        decoded_by(patched, "crashes")
        job = ingest_of(account)
    assert (job["state"], job["attempts"]) == ("failed", 1)
    assert job["problem"]["detail"] == "the file cannot be read: the program that looked at it crashed (SIGABRT)"
    assert send(account, made, parquet(columns())).status_code == 202, "other content may be sent"
    account.work()
    assert account.get(f"/v1/datasets/{made}")["state"] == "ready"


def test_a_full_disk_is_the_machines(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sent(account, parquet(columns()))
    with monkeypatch.context() as patched:
        decoded_by(patched, "finds_the_disk_full")
        from worker.run_one import run_one

        run_one(account.resources, "tester")
        [job] = account.get("/v1/jobs", kind="ingest")["items"]
        assert job["state"] == "queued"
    account.work()
    assert account.get(f"/v1/datasets/{made}")["state"] == "ready"


def test_no_pixels_stay_beside_the_blobs(account: Account) -> None:
    """Nor what an attempt left that was killed."""
    made = sent(account, parquet(columns()))
    sources = account.settings.sources_dir
    [job] = account.get("/v1/jobs", kind="ingest")["items"]
    (sources / job["id"]).mkdir(parents=True)
    (sources / job["id"] / "left").write_bytes(b"pixels")
    account.work()
    assert account.get(f"/v1/datasets/{made}")["state"] == "ready"
    assert [path for path in Path(sources).rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("state", ["dead", "queued", "running", "unknown"])
def test_what_a_killed_ingest_unpacked_goes_from_every_machine(account: Account, state: str) -> None:
    """As seen: a dead job's folder kept the pixels for ever, and so did a machine that another one took over from."""
    sent(account, parquet(columns()))
    [job] = account.get("/v1/jobs", kind="ingest")["items"]
    if state != "unknown":
        with account.database.write() as session:
            session.get_one(Job, job["id"]).state = state
    folder = account.settings.sources_dir / (job["id"] if state != "unknown" else new_id("job"))
    (folder / "cache").mkdir(parents=True)
    (folder / "images").write_bytes(b"pixels")
    half = account.settings.data_dir / "blobs" / "incoming" / f"{folder.name}-{'0' * 16}.part"
    half.write_bytes(b"pixels")
    blobs = open_blobs(account.settings)
    assert workers.sweep_files(account.database, account.settings, blobs) == 0, "an attempt may just have begun"
    for each in (folder, half):
        os.utime(each, (0, 0))
    workers.start(account.settings)
    try:
        eventually(lambda: state == "running" or not folder.exists(), "the folder is gone")
    finally:
        workers.stop()
    assert folder.exists() is (state == "running")
    assert half.exists() is (state == "running")


def test_encrypted_images_are_refused(account: Account, tmp_path: Path) -> None:
    import pyarrow.parquet.encryption as pe

    from tests.app.formats.test_sandbox import _Keys

    table = pa.table(columns())
    config = pe.EncryptionConfiguration(footer_key="f", column_keys={"c": ["image"]}, plaintext_footer=True)
    factory = pe.CryptoFactory(lambda _connection: _Keys())
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    with pq.ParquetWriter(tmp_path / "x", table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    made = dataset(account)
    response = send(account, made, (tmp_path / "x").read_bytes())
    if response.status_code == 202:
        assert ingest_of(account)["state"] == "failed"
    else:
        assert response.status_code == 422
    with account.database.read() as session:
        assert session.get_one(Dataset, made).state in ("failed", "awaiting-content")


LINES = {"geometry": {"resize": 256, "crop": 224}}


def test_pictures_of_one_pixel_and_of_a_line_become_what_a_model_sees(tmp_path: Path) -> None:
    """In children of two GiB. As seen: what became of a line took five, and ended the job without words."""
    sides = [(1, 1), (1, 20_000), (20_000, 1), (224, 224)]
    with PictureWriter(tmp_path / "pictures") as writer:
        for height, width in sides:
            buffer = io.BytesIO()
            Image.new("RGB", (width, height), (9, 99, 199)).save(buffer, "PNG")
            writer.put(buffer.getvalue())
    contract = InputContract.model_validate(LINES)
    call = partial(upload.sandbox.call, limits=Limits(memory=2 * 2**30))
    target = tmp_path / "copy"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(upload, "call", call)
        wrong = upload.write_copy(tmp_path / "pictures", target, contract, (224, 224, 3), 3, lambda _: None)
    assert wrong == []
    made = np.load(target)
    assert made.shape == (4, 224, 224, 3)
    assert (made == (9, 99, 199)).all()


def finds_one_unfit(_images: str, _target: str, start: int, *_: Any) -> list[tuple[int, str]]:
    return [] if start else [(5, "it is too large")]


def test_a_picture_of_which_nothing_can_be_made_is_named_by_the_job(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sent(account, parquet(columns()))
    account.work()
    policy = {"input": LINES, "policy": QUICK_POLICY}
    model = account.post("/v1/models", {"name": "m", "dataset": made, **QUICK_MODEL, **policy})["id"]
    with monkeypatch.context() as patched:
        decoded_by(patched, "finds_one_unfit")
        job = account.post(f"/v1/models/{model}:train", {"seed": 1})["id"]
        account.work()
    found = account.get(f"/v1/jobs/{job}")
    assert (found["state"], found["attempts"]) == ("failed", 1)
    assert found["problem"]["type"].endswith("picture-unfit")
    assert "cannot be made into what the model sees, the first because it is too large" in found["problem"]["detail"]
    [line] = found["problem"]["errors"]
    assert (line["position"], line["sample_id"]) == (5, "person-5")
