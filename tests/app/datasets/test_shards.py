"""A dataset in several files: sent one after the other, each resumable, and closed."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.core.tables import Dataset
from tests.app.datasets.test_uploads import columns, dataset, parquet, png
from tests.app.formats.archive_cases import npz, zipped
from tests.helpers import PARQUET, as_other, blobs, counts, digest_of, incoming, is_problem
from tests.support import QUICK_MODEL, Account
from worker.jobs import ingest

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


# -- growing ---------------------------------------------------------------------------------------


def reuse(account: Account, where: str, number: int, digest: str) -> Any:
    return account.http.post(f"/v1/datasets/{where}/shards/{number}:reuse", json={"digest": digest})


def of_people(number: int, n: int = 20) -> bytes:
    return parquet(
        columns(
            n,
            id=[f"person-{number}-{row}" for row in range(n)],
            subject=[f"subject {row % 5}" for row in range(n)],
            label=["ant", "bee"] * (n // 2),
            image=[noise(number * 100 + row) for row in range(n)],
        )
    )


def noise(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def ids_of(account: Account, where: str) -> list[str]:
    return [item["id"] for item in account.get(f"/v1/datasets/{where}/samples", page_size=1000)["items"]]


def first_of_two(account: Account) -> tuple[str, list[str]]:
    """A dataset of two shards, and their digests."""
    made = dataset(account)
    digests = [put(account, made, number, of_people(number)).json()["digest"] for number in (0, 1)]
    close(account, made, 2)
    account.work()
    return made, digests


def test_a_dataset_that_grows_names_what_is_held_and_leaves_out_what_was_erased(account: Account) -> None:
    old, digests = first_of_two(account)
    splits = {item["id"]: item["split"] for item in account.get(f"/v1/datasets/{old}/samples")["items"]}
    account.post("/v1/deletion-requests", {"dataset": old, "subjects": ["subject 3"]})
    account.work()
    waiting = account.post("/v1/deletion-requests", {"dataset": old, "sample_ids": ["person-0-1"]})
    made = dataset(account)
    for number, digest in enumerate(reversed(digests)):
        held = reuse(account, made, number, digest)
        assert (held.status_code, held.json()["whole"], held.json()["samples"]) == (200, True, 20), held.text
    assert put(account, made, 2, of_people(2, 10)).status_code == 200
    is_problem(account.http.delete(f"/v1/datasets/{old}"), 409, "dataset-needed")
    assert close(account, made, 3).status_code == 202
    account.work()
    found = account.get(f"/v1/datasets/{made}")
    assert (found["state"], found["samples"], found["class_names"]) == ("ready", 41, ["ant", "bee"]), found
    kept = [f"person-{number}-{row}" for number in (1, 0) for row in range(20) if row % 5 != 3]
    kept.remove("person-0-1")
    assert ids_of(account, made) == kept + [f"person-2-{row}" for row in range(10) if row % 5 != 3]
    assert found["erased_samples"] == 2, "the subject's samples in the new file"
    now = {item["id"]: item["split"] for item in account.get(f"/v1/datasets/{made}/samples")["items"]}
    assert {name: now[name] for name in kept} == {name: splits[name] for name in kept}
    assert account.get(f"/v1/deletion-requests/{waiting['id']}")["status"] == "fulfilled"
    # What has been held once can be held again, from either.
    third = dataset(account)
    assert [reuse(account, third, number, digests[number]).json()["samples"] for number in (0, 1)] == [15, 16]
    close(account, third, 2)
    account.work()
    assert ids_of(account, third) == sorted(kept, key=lambda name: (int(name.split("-")[1]), int(name.split("-")[2])))
    # Nobody needs the first any more.
    assert account.http.delete(f"/v1/datasets/{old}").status_code == 204


def test_the_pictures_of_a_held_shard_are_its_own(account: Account) -> None:
    old, digests = first_of_two(account)
    account.post("/v1/deletion-requests", {"dataset": old, "sample_ids": ["person-1-0"]})
    account.work()
    made = dataset(account)
    reuse(account, made, 0, digests[1])
    close(account, made, 1)
    account.work()
    names = ["person-1-1", "person-1-19"]
    seen = [account.post(f"/v1/datasets/{where}:preview", {"sample_ids": names}) for where in (old, made)]
    assert [each["png"] for each in seen[0]] == [each["png"] for each in seen[1]]
    assert seen[0][0]["png"] != seen[0][1]["png"]


def test_a_request_by_person_reaches_every_dataset_that_grew_of_one(account: Account) -> None:
    old, digests = first_of_two(account)
    made = dataset(account)
    reuse(account, made, 0, digests[0])
    close(account, made, 1)
    account.work()
    found = account.post("/v1/deletion-requests:find", {"subjects": ["subject 2"]}, 200)
    assert {each["dataset"] for each in found["held"]} == {old, made}
    spanned = account.post("/v1/deletion-requests:span", {"subjects": ["subject 2"], "like": {"dataset": made}})
    assert len(spanned["requests"]) == 2
    account.work()
    assert account.post("/v1/deletion-requests:find", {"subjects": ["subject 2"]}, 200)["held"] == []


def test_an_array_and_made_ids_are_held_too(account: Account) -> None:
    """One file alone is known by its digest, too."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    file = npz(images=pixels, labels=np.arange(20) % 2, ids=None)
    old = dataset(account)
    assert (
        account.http.put(f"/v1/datasets/{old}/content", content=file, headers={"Content-Type": NPZ}).status_code == 202
    )
    account.work()
    assert [shard["digest"] for shard in account.get(f"/v1/datasets/{old}/shards")["items"]] == [digest_of(file)]
    made = dataset(account)
    assert reuse(account, made, 0, digest_of(file)).status_code == 200
    again = npz(images=np.concatenate([pixels[:1], 255 - pixels[:3]]), labels=np.arange(4) % 2, ids=None)
    assert put(account, made, 1, again, NPZ).status_code == 200
    close(account, made, 2)
    account.work()
    found = account.get(f"/v1/datasets/{made}")
    assert (found["state"], found["samples"], found["shape"]) == ("ready", 24, [8, 8, 1]), found
    ids = ids_of(account, made)
    assert ids[:20] == ids_of(account, old)
    assert ids[20] == f"{ids[0]}#2"
    with account.database.read() as session:
        array = np.load(account.resources.blobs.fetch(session.get_one(Dataset, made).images))
    assert (array[:20, ..., 0] == pixels).all()


def test_what_is_not_held_is_to_be_sent(account: Account) -> None:
    old, digests = first_of_two(account)
    made = dataset(account)
    is_problem(reuse(account, made, 0, digest_of(b"nothing")), 404, "not-found")
    key = as_other(account)
    body = {"name": "theirs", "source": {"name": "upload"}}
    theirs = f"/v1/datasets/{account.http.post('/v1/datasets', json=body, headers=key).json()['id']}/shards/0:reuse"
    is_problem(account.http.post(theirs, json={"digest": digests[0]}, headers=key), 404, "not-found")
    is_problem(reuse(account, old, 0, digests[0]), 409, "content-present")
    assert reuse(account, made, 0, digests[0]).status_code == 200
    # It is gone behind the service's back: a backup brought it back without, or somebody erased it by hand.
    with account.database.write() as session:
        session.get_one(Dataset, old).state = "erased"
    is_problem(close(account, made, 1), 409, "shard-gone")


def test_samples_that_are_erased_while_a_held_shard_is_taken_in_are_left_out(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, digests = first_of_two(account)
    made = dataset(account)
    reuse(account, made, 0, digests[0])
    close(account, made, 1)
    taken = ingest.take_in

    def late(*arguments: Any) -> Any:
        """The purge comes in between, once."""
        monkeypatch.setattr(ingest, "take_in", taken)
        found = taken(*arguments)
        account.delete(old, ["person-0-7"])
        with account.database.read() as session:
            before = session.get_one(Dataset, old).images
        account.work("another")
        with account.database.read() as session:
            assert session.get_one(Dataset, old).images != before
        return found

    monkeypatch.setattr(ingest, "take_in", late)
    account.work()
    assert account.get(f"/v1/datasets/{made}")["state"] == "ready"
    assert "person-0-7" not in ids_of(account, made)
    assert len(ids_of(account, made)) == 19
