"""Content sent as Parquet: taken in, or refused with row numbers."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.helpers import PARQUET, blobs, counts, incoming, is_problem
from tests.support import QUICK_MODEL, Account


def png(value: int, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size), value, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def columns(n: int = 20, **changes: Any) -> dict[str, Any]:
    found = {
        "id": [f"person-{row}" for row in range(n)],
        "image": [png(row * 10 % 256) for row in range(n)],
        "label": [row % 2 for row in range(n)],
    } | changes
    return {name: values for name, values in found.items() if values is not None}


def dataset(account: Account, **params: Any) -> str:
    source = {"name": "upload", "params": params}
    made = account.post("/v1/datasets", {"name": "people", "source": source})
    assert (made["state"], made["job"]) == ("awaiting-content", None)
    return str(made["id"])


def send(account: Account, where: str, data: bytes, form: str = PARQUET) -> Any:
    return account.http.put(f"/v1/datasets/{where}/content", content=data, headers={"Content-Type": form})


@pytest.mark.validation
def test_good_content_is_taken_in_and_the_file_is_gone_afterwards(account: Account) -> None:
    made = dataset(account)
    body = {"name": "m", "dataset": made, **QUICK_MODEL}
    model = account.post("/v1/models", body)["id"]
    is_problem(account.http.post(f"/v1/models/{model}:train", json={}), 409, "dataset-not-ready")
    is_problem(
        account.http.post("/v1/deletion-requests", json={"dataset": made, "sample_ids": ["person-1"]}),
        409,
        "dataset-not-ready",
    )
    data = parquet(columns())
    response = send(account, made, data)
    assert response.status_code == 202, response.text
    assert response.headers["location"] == f"/v1/datasets/{made}"
    assert len(blobs(account.settings)) == 1
    is_problem(send(account, made, data), 409, "content-present")  # while it is taken in
    account.work()
    found = account.get(f"/v1/datasets/{made}")
    assert (found["state"], found["samples"], found["train_samples"], found["classes"]) == ("ready", 20, 16, 2)
    assert found["shape"] == [8, 8, 1]
    assert len(blobs(account.settings)) == 1, "the pixels; the uploaded file is removed"
    assert incoming(account.settings) == []
    is_problem(send(account, made, data), 409, "content-present")
    items = account.get(f"/v1/datasets/{made}/samples")["items"]
    assert [item["id"] for item in items] == [f"person-{row}" for row in range(20)]
    account.post(f"/v1/models/{model}:train", {})
    account.work()
    account.delete(made, ["person-3"])
    account.work()
    assert "person-3" not in str(account.get(f"/v1/datasets/{made}/samples"))


@pytest.mark.validation
def test_a_split_of_its_own_is_kept(account: Account) -> None:
    made = dataset(account)
    split = ["train"] * 15 + ["holdout"] * 3 + ["test"] * 2
    assert send(account, made, parquet(columns(split=split))).status_code == 202
    account.work()
    assert account.get(f"/v1/datasets/{made}")["train_samples"] == 15


BAD = {
    "no image": columns(image=None),
    "no label": columns(label=None),
    "labels with a point": columns(label=[0.5] * 20),
    "several labels": columns(label=[[0, 1]] * 20),
    "a label below 0": columns(label=[-1] + [0] * 19),
    "a label that is missing": columns(label=[None] + [0] * 19),
    "a label beyond every class": columns(label=pa.array([2**63] + [0] * 19, pa.uint64())),
    "ids that are numbers with a point": columns(id=[float(row) for row in range(20)]),
    "an id twice": columns(id=["secret-person"] * 2 + [f"p{row}" for row in range(18)]),
    "an id that is empty": columns(id=[""] + [f"p{row}" for row in range(19)]),
    "an id that is missing": columns(id=[None] + [f"p{row}" for row in range(19)]),
    "an id too long": columns(id=["secret-person" * 20] + [f"p{row}" for row in range(19)]),
    "an id with NUL": columns(id=["secret-person\x00"] + [f"p{row}" for row in range(19)]),
    "an id like an erased one": columns(id=["erased:secret-person"] + [f"p{row}" for row in range(19)]),
    "an unknown split": columns(split=["trial"] + ["train"] * 19),
    "nothing to train on": columns(split=["test"] * 20),
    "no row": {
        "id": pa.array([], pa.string()), "image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())
    },
    "images that are text": columns(image=["x"] * 20),
}  # fmt: skip


@pytest.mark.validation
def test_bad_columns_are_refused_before_the_reply(account: Account) -> None:
    made = dataset(account)
    before = counts(account.database)
    for name, columns in BAD.items():
        response = send(account, made, parquet(columns))
        found = is_problem(response, 422, "dataset-content")
        assert "secret-person" not in response.text
        if name.startswith(("an id", "a label")):
            assert "row 0" in found["errors"][0]["detail"] or "row 1" in found["errors"][0]["detail"]
        assert counts(account.database) == before, name
        assert (blobs(account.settings), incoming(account.settings)) == (set(), []), name
        assert account.get(f"/v1/datasets/{made}")["state"] == "awaiting-content", name


@pytest.mark.validation
def test_ids_that_are_no_text_are_refused(account: Account) -> None:
    """Parquet readers take a string column's bytes on trust."""
    raw = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 2, 4], np.int32)), pa.py_buffer(b"\xff\xfeok")]
    )
    data = parquet({"id": raw, "image": [png(0), png(1)], "label": [0, 1]})
    is_problem(send(account, dataset(account), data), 422, "dataset-content")


@pytest.mark.validation
def test_columns_named_twice_are_refused(account: Account) -> None:
    for name in ("id", "image", "label", "split"):
        table = pa.table(columns(split=["train"] * 20))
        buffer = io.BytesIO()
        pq.write_table(table.append_column(name, table.column(name)), buffer)
        is_problem(send(account, dataset(account), buffer.getvalue()), 422, "dataset-content")


@pytest.mark.validation
def test_bytes_that_are_no_parquet_are_refused(account: Account) -> None:
    made, data = dataset(account), parquet(columns())
    for spoiled in (b"x" * 100, data[:-1], data[4:], data[: len(data) // 2], b"PAR1" + b"\xff" * 64 + b"PAR1"):
        is_problem(send(account, made, spoiled), 422, "dataset-content")
    is_problem(send(account, made, b""), 422, "empty-body")
    for form in ("text/csv", "application/octet-stream", ""):
        is_problem(send(account, made, data, form), 415, "unsupported-media-type")
    assert (blobs(account.settings), incoming(account.settings)) == (set(), [])


@pytest.mark.validation
def test_images_that_cannot_be_decoded_fail_the_ingest_by_row_and_new_content_may_be_sent(account: Account) -> None:
    made = dataset(account)
    images = [png(row) for row in range(20)]
    images[3], images[7], images[11], images[12] = b"no image", png(1)[:-40], png(1)[:20], b""
    assert send(account, made, parquet(columns(image=images))).status_code == 202
    account.work()
    found = account.get(f"/v1/datasets/{made}")
    assert found["state"] == "failed"
    rows = [error["detail"].partition(":")[0] for error in found["problem"]["errors"]]
    assert rows == ["row 3", "row 7", "row 11", "row 12"]
    job = account.get("/v1/jobs", kind="ingest")["items"][0]
    assert (job["state"], job["problem"], job["attempts"]) == ("failed", found["problem"], 1)
    assert blobs(account.settings) == set()

    assert send(account, made, parquet(columns())).status_code == 202
    assert account.get(f"/v1/datasets/{made}")["problem"] is None
    account.work()
    assert account.get(f"/v1/datasets/{made}")["state"] == "ready"
    # The job that failed is over: trying it again would take the ready dataset apart.
    response = account.http.post(f"/v1/jobs/{job['id']}:retry")
    is_problem(response, 409, "content-missing")
    account.work()
    assert account.get(f"/v1/datasets/{made}")["state"] == "ready"


@pytest.mark.validation
def test_a_failed_ingest_cannot_be_tried_again_without_content(account: Account) -> None:
    made = dataset(account)
    send(account, made, parquet(columns(image=[b"x"] * 20)))
    account.work()
    job = account.get("/v1/jobs", kind="ingest")["items"][0]
    is_problem(account.http.post(f"/v1/jobs/{job['id']}:retry"), 409, "content-missing")


def test_a_cancelled_ingest_leaves_the_dataset_open_for_content(account: Account) -> None:
    made = dataset(account)
    job = send(account, made, parquet(columns())).json()["job"]
    assert account.post(f"/v1/jobs/{job}:cancel")["state"] == "cancelled"
    assert account.get(f"/v1/datasets/{made}")["state"] == "failed"
    assert send(account, made, parquet(columns())).status_code == 202
    account.work()
    assert account.get(f"/v1/datasets/{made}")["state"] == "ready"


@pytest.mark.validation
def test_a_built_in_source_takes_no_content(account: Account) -> None:
    made = account.post("/v1/datasets", {"name": "d", "source": {"name": "digits"}})["id"]
    is_problem(send(account, made, parquet(columns())), 409, "not-an-upload")
    is_problem(send(account, "dst_" + "0" * 26, parquet(columns())), 404, "not-found")


@pytest.mark.validation
def test_a_source_that_cannot_be_had_fails_with_a_reason(account: Account) -> None:
    source = {"name": "torchvision", "params": {"dataset": "NoSuchSet"}}
    made = account.post("/v1/datasets", {"name": "d", "source": source})["id"]
    account.work()
    found = account.get(f"/v1/datasets/{made}")
    assert found["state"] == "failed"
    assert found["problem"]["type"].endswith("/dataset-content")
