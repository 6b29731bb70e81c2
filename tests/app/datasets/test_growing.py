"""Datasets that grow: a new one names files that another one has, without what was erased."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from app.core.tables import Dataset
from tests.app.datasets.test_shards import NPZ, close, put
from tests.app.datasets.test_uploads import columns, dataset, parquet
from tests.app.formats.archive_cases import npz
from tests.helpers import as_other, digest_of, is_problem
from tests.support import Account
from worker.jobs import ingest


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


@pytest.mark.validation
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


@pytest.mark.validation
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


@pytest.mark.validation
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


@pytest.mark.validation
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


def test_a_file_is_held_as_what_it_was_sent(account: Account) -> None:
    """As seen: what was held out became training data's twin, or was sent again."""
    files = [of_people(number) for number in (0, 1)]
    digests = [digest_of(data) for data in files]
    old = dataset(account)
    assert put(account, old, 0, files[0]).status_code == 200
    assert put(account, old, 1, files[1], split="test").status_code == 200
    close(account, old, 2)
    account.work()
    made = dataset(account)
    where = f"/v1/datasets/{made}/shards"
    for number, (digest, split) in enumerate(((digests[0], "holdout"), (digests[1], None), (digests[1], "train"))):
        refused = account.http.post(f"{where}/{number}:reuse", json={"digest": digest, "split": split})
        is_problem(refused, 404, "not-found")
    assert reuse(account, made, 0, digests[0]).json()["split"] is None
    held = account.http.post(f"{where}/1:reuse", json={"digest": digests[1], "split": "holdout"})
    assert held.json()["split"] == "test"
    close(account, made, 2)
    account.work()
    splits = {item["id"]: item["split"] for item in account.get(f"/v1/datasets/{made}/samples")["items"]}
    assert {splits[f"person-1-{row}"] for row in range(20)} == {"holdout"}
    assert splits == {item["id"]: item["split"] for item in account.get(f"/v1/datasets/{old}/samples")["items"]}
    third = dataset(account)  # from either
    again = account.http.post(f"/v1/datasets/{third}/shards/0:reuse", json={"digest": digests[1], "split": "val"})
    assert again.status_code == 200


def labelled(number: int, labels: list[Any], names: list[str] | None = None) -> bytes:
    """A file of 20 samples with these labels in turn."""
    table = pa.table(
        {
            "id": [f"person-{number}-{row:02}" for row in range(20)],
            "label": [labels[row % len(labels)] for row in range(20)],
            "image": [noise(number * 100 + row) for row in range(20)],
        }
    )
    if names is not None:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


# Labels of the first file and of the second, label names in their metadata, class names of the client; the classes.
KINDS: dict[str, tuple[list[Any], list[Any], list[str] | None, list[str] | None, list[str] | None]] = {
    "numbers": ([0, 1, 2], [2, 3], None, None, None),
    "gaps": ([0, 7, 42, 1000], [1000, 7, 8], None, None, ["0", "7", "8", "42", "1000"]),
    "from one on": (list(range(1, 11)), [10, 2], None, None, [str(label) for label in range(1, 11)]),
    "class names": ([0, 2, 1], [1, 2], None, ["cat", "ant", "bee"], ["cat", "ant", "bee"]),
    "numbers as class names": ([7, 1000], [1000], None, ["1000", "7"], ["1000", "7"]),
    "a ClassLabel": ([0, 1, 2], [2, 0], ["cat", "ant", "bee"], None, ["cat", "ant", "bee"]),
    "a ClassLabel of numbers": ([0, 1, 2], [2, 0], ["2", "0", "1"], None, ["2", "0", "1"]),
    "names": (["bee", "ant"], ["cat", "bee"], None, None, ["ant", "bee", "cat"]),
    "booleans": ([True, False], [True], None, None, ["false", "true"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.validation
def test_classes_of_a_dataset_that_grows_are_those_of_one_that_was_sent_whole(account: Account, kind: str) -> None:
    """As seen: numbers beside names were refused, and numbers of classes changed in silence."""
    first, second, names, client, expected = KINDS[kind]
    files = [labelled(0, first, names), labelled(1, second, names)]
    made: dict[str, Any] = {}
    for name, shards in (("old", files[:1]), ("held", files[:1]), ("grown", files), ("whole", files)):
        made[name] = dataset(account, **({"class_names": client} if client else {}))
        for number, data in enumerate(shards):
            if name in ("grown", "held") and number == 0:
                assert reuse(account, made[name], 0, digest_of(data)).status_code == 200
            else:
                assert put(account, made[name], number, data).status_code == 200
        close(account, made[name], len(shards))
        account.work()
    found = {name: account.get(f"/v1/datasets/{where}") for name, where in made.items()}
    labels = {
        name: [(item["id"], item["label"]) for item in account.get(f"/v1/datasets/{where}/samples")["items"]]
        for name, where in made.items()
    }
    assert {each["state"] for each in found.values()} == {"ready"}, found
    assert found["grown"]["class_names"] == found["whole"]["class_names"] == expected
    assert labels["grown"] == labels["whole"]
    assert found["held"]["class_names"] == found["old"]["class_names"]
    assert labels["held"] == labels["old"]


@pytest.mark.validation
def test_a_class_that_was_erased_leaves_the_others_in_their_order(account: Account) -> None:
    old = dataset(account)
    data = labelled(0, [0, 1, 2], ["cat", "ant", "bee"])
    put(account, old, 0, data)
    close(account, old, 1)
    account.work()
    account.delete(old, [f"person-0-{row:02}" for row in range(1, 20, 3)])
    account.work()
    assert account.get(f"/v1/datasets/{old}")["class_names"] == ["cat", None, "bee"]
    made = dataset(account)
    assert reuse(account, made, 0, digest_of(data)).status_code == 200
    close(account, made, 1)
    account.work()
    assert account.get(f"/v1/datasets/{made}")["class_names"] == ["cat", "bee"]
    there = {item["id"]: item["label"] for item in account.get(f"/v1/datasets/{made}/samples")["items"]}
    assert (there["person-0-00"], there["person-0-02"], len(there)) == (0, 1, 13)
