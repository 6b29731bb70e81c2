"""A dataset in several files: sent one after the other, each resumable, and closed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.app.datasets.test_uploads import columns, dataset, parquet, png
from tests.app.formats.archive_cases import npz, zipped
from tests.helpers import PARQUET, blobs, counts, incoming, is_problem
from tests.support import QUICK_MODEL, Account

pytestmark = pytest.mark.validation
NPZ = "application/x-npz"


def put(account: Account, where: str, number: int, data: bytes, form: str = PARQUET, **more: Any) -> Any:
    headers = {
        "Content-Type": form,
        **{f"Upload-{name.title()}": str(value) for name, value in more.pop("upload", {}).items()},
    }
    return account.http.put(f"/v1/datasets/{where}/shards/{number}", content=data, headers=headers, params=more)


def part(number: int, n: int = 20, **more: Any) -> bytes:
    ids = [f"person-{number}-{row}" for row in range(n)]
    return parquet(columns(n, id=ids, image=[png(number * 50 + row) for row in range(n)], **more))


def close(account: Account, where: str, count: int) -> Any:
    return account.http.post(f"/v1/datasets/{where}:close", json={"shards": count})


def test_shards_of_several_forms_become_one_dataset(account: Account) -> None:
    made = dataset(account)
    folder = zipped({f"{name}/{row}.png": png(200 + row) for name in ("0", "1") for row in range(3)})
    first = put(account, made, 0, part(0))
    assert first.status_code == 200, first.text
    assert first.json() | {"digest": ""} == {
        "number": 0, "content_type": PARQUET, "split": None, "size": len(part(0)), "whole": True, "digest": "",
        "samples": 20,
    }  # fmt: skip
    assert put(account, made, 1, part(1, 10), split="validation").status_code == 200
    assert [shard["samples"] for shard in account.get(f"/v1/datasets/{made}/shards")["items"]] == [20, 10]
    assert put(account, made, 2, folder, "application/zip").status_code == 200
    is_problem(close(account, made, 2), 409, "shards-differ")
    is_problem(account.http.put(f"/v1/datasets/{made}/content", content=part(3), headers={"Content-Type": PARQUET}),
               409, "shards-present")  # fmt: skip
    assert account.http.delete(f"/v1/datasets/{made}/shards/2").status_code == 204
    closed = close(account, made, 2)
    assert (closed.status_code, closed.json()["state"]) == (202, "ingesting")
    is_problem(put(account, made, 2, part(2)), 409, "content-present")
    account.work()
    found = account.get(f"/v1/datasets/{made}")
    assert (found["state"], found["samples"], found["train_samples"], found["shape"]) == ("ready", 30, 20, [8, 8, 1])
    items = account.get(f"/v1/datasets/{made}/samples")["items"]
    assert [item["id"] for item in items] == [f"person-{n}-{row}" for n in (0, 1) for row in range((20, 10)[n])]
    assert [item["split"] for item in items] == ["train"] * 20 + ["holdout"] * 10
    assert len(blobs(account.settings)) == 1, "the pictures; the shards are removed"
    is_problem(close(account, made, 2), 409, "content-present")


def test_a_shard_goes_on_where_it_broke_off(account: Account) -> None:
    made, data = dataset(account), part(0)
    third = len(data) // 3
    assert put(account, made, 0, data[:third], upload={"complete": "?0"}).json()["whole"] is False
    is_problem(close(account, made, 1), 409, "shard-incomplete")
    found = put(account, made, 0, data[third + 1 :], upload={"offset": third + 1})
    assert is_problem(found, 409, "upload-offset")["offset"] == third
    is_problem(put(account, made, 0, data), 409, "upload-offset")
    assert put(account, made, 0, data[third : 2 * third], upload={"offset": third, "complete": "?0"}).status_code == 200
    [shard] = account.get(f"/v1/datasets/{made}/shards")["items"]
    assert (shard["size"], shard["whole"], shard["digest"]) == (2 * third, False, None)
    whole = put(account, made, 0, data[2 * third :], upload={"offset": 2 * third}).json()
    assert (whole["size"], whole["whole"], whole["samples"]) == (len(data), True, 20)
    assert blobs(account.settings) == {whole["digest"]}, "the pieces are removed"
    is_problem(put(account, made, 0, data), 409, "shard-whole")
    assert close(account, made, 1).status_code == 202
    account.work()
    assert account.get(f"/v1/datasets/{made}")["samples"] == 20


def test_a_damaged_shard_in_the_middle_is_refused_and_sent_again(account: Account) -> None:
    made = dataset(account)
    assert put(account, made, 0, part(0)).status_code == 200
    before = counts(account.database)
    is_problem(put(account, made, 1, part(1)[:-100]), 422, "dataset-content")
    half = len(part(1)) // 2
    put(account, made, 1, part(1)[:half], upload={"complete": "?0"})
    is_problem(put(account, made, 1, b"x" * 100, upload={"offset": half}), 422, "dataset-content")
    assert counts(account.database) == before, "nothing of it is kept"
    assert (len(blobs(account.settings)), incoming(account.settings)) == (1, [])
    assert put(account, made, 2, part(2)).status_code == 200
    is_problem(close(account, made, 3), 409, "shards-differ")
    assert put(account, made, 1, part(1)).status_code == 200
    assert close(account, made, 3).status_code == 202


def test_two_shards_with_one_id_are_refused_by_shard_and_row_and_one_is_replaced(account: Account) -> None:
    made = dataset(account)
    for number in (0, 1):
        assert put(account, made, number, part(0)).status_code == 200
    close(account, made, 2)
    account.work()
    found = account.get(f"/v1/datasets/{made}")
    assert found["state"] == "failed"
    assert found["problem"]["errors"][0]["detail"] == "shard 1, row 0: the same id as shard 0, row 0"
    assert "person" not in str(found["problem"])
    assert len(account.get(f"/v1/datasets/{made}/shards")["items"]) == 2, "they are kept: one may be replaced"
    assert account.http.delete(f"/v1/datasets/{made}/shards/1").status_code == 204
    assert put(account, made, 1, part(1)).status_code == 200
    close(account, made, 2)
    account.work()
    assert account.get(f"/v1/datasets/{made}")["samples"] == 40


def test_a_picture_that_cannot_be_decoded_is_named_by_shard(account: Account) -> None:
    made = dataset(account)
    put(account, made, 0, part(0))
    put(account, made, 1, parquet(columns(3, id=["a", "b", "c"], image=[png(1), b"no image", b""])))
    close(account, made, 2)
    account.work()
    errors = account.get(f"/v1/datasets/{made}")["problem"]["errors"]
    assert [error["detail"] for error in errors] == [
        "shard 1, row 1: the image cannot be decoded", "shard 1, row 2: there is no image"
    ]  # fmt: skip


def test_arrays_and_pictures_of_different_sizes_lie_together_and_a_contract_makes_them_one(account: Account) -> None:
    made = dataset(account)
    put(account, made, 0, npz(ids=None, labels=[0, 1, 0, 1, 0, 1]), "application/x-npz")
    put(account, made, 1, parquet(columns(20, image=[png(row, 8 + row % 3) for row in range(20)])))
    close(account, made, 2)
    account.work()
    found = account.get(f"/v1/datasets/{made}")
    assert (found["state"], found["samples"], found["shape"]) == ("ready", 26, [None, None, 3])
    body = {"name": "m", "dataset": made, **QUICK_MODEL}
    refused = is_problem(account.http.post("/v1/models", json=body), 422, "input-contract")
    assert "different sizes" in refused["detail"]
    model = account.post("/v1/models", body | {"input": {"geometry": {"resize": [8, 8]}}})["id"]
    account.post(f"/v1/models/{model}:train", {})
    account.work()
    assert account.get(f"/v1/models/{model}")["current_version"] == 1
    account.delete(made, ["person-3"])
    account.work()
    [request] = account.get("/v1/deletion-requests")["items"]
    subjects = [receipt["subject"] for receipt in request["receipts"]]
    assert {"sample-bytes", "sample-copy"} <= set(subjects), "what holds pixels is in the receipts"
    kept = b"".join(path.read_bytes() for path in account.settings.data_dir.rglob("blobs/??/*"))
    assert png(3, 8) not in kept
    assert png(4, 9) in kept, "as it came"


def test_a_dataset_that_is_closed_while_a_shard_comes_refuses_it(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dataset(account)
    put(account, made, 0, part(0))
    from app.api import shards

    look_at = shards.look_at

    def closing(*arguments: Any, **more: Any) -> int:
        assert close(account, made, 1).status_code == 202
        return look_at(*arguments, **more)

    monkeypatch.setattr(shards, "look_at", closing)
    is_problem(put(account, made, 1, part(1)), 409, "content-present")
    assert len(blobs(account.settings)) == 1
    account.work()
    assert account.get(f"/v1/datasets/{made}")["samples"] == 20


def test_what_is_no_shard_is_refused(account: Account) -> None:
    made = dataset(account)
    is_problem(put(account, made, 0, part(0), "text/csv"), 415, "unsupported-media-type")
    is_problem(put(account, made, 0, part(0), split="later"), 422, "schema")
    is_problem(put(account, made, 10_000, part(0)), 422, "schema")
    is_problem(put(account, made, 0, part(0), upload={"complete": "1"}), 422, "schema")
    is_problem(account.http.delete(f"/v1/datasets/{made}/shards/0"), 404, "not-found")
    is_problem(close(account, made, 0), 422, "schema")
    is_problem(close(account, made, 1), 409, "shards-differ")
    assert account.get(f"/v1/datasets/{made}")["state"] == "awaiting-content"


def test_a_shard_may_be_larger_than_a_json_body(account: Account) -> None:
    """As seen: 413 beyond 32 MiB, because the path was not known as one of files."""
    account.settings.__dict__["max_json_bytes"] = 1024
    made = dataset(account)
    assert len(part(0)) > 1024
    assert put(account, made, 0, part(0)).status_code == 200
