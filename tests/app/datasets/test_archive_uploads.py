"""Content sent as an npz or an image folder: taken in, or refused with nothing kept."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.blobs.folder import Folder
from app.core.tables import Dataset, Sample
from app.formats.pictures import PictureFile, decode, is_pictures
from app.main import create_app
from tests.app.datasets.test_uploads import columns, dataset, parquet, send
from tests.app.formats.archive_cases import folder, npz, patched, png, zipped
from tests.app.formats.test_layouts import unflagged
from tests.helpers import PARQUET, blobs, counts, incoming, is_problem, other_tenant
from tests.support import QUICK_MODEL, Account

NPZ, ZIP = "application/x-npz", "application/zip"


def taken_in(account: Account, data: bytes, form: str, **params: Any) -> Any:
    made = dataset(account, **params)
    response = send(account, made, data, form)
    assert response.status_code == 202, response.text
    account.work()
    return account.get(f"/v1/datasets/{made}")


def pixels(account: Account, made: str) -> Any:
    with account.database.read() as session:
        digest = session.get_one(Dataset, made).images
    path = Folder(account.settings.data_dir / "blobs").fetch(digest or "")
    if not is_pictures(path):
        return np.load(path)
    there = PictureFile(path)
    found = [decode(there[row]).pixels if there[row] else np.zeros((8, 8), np.uint8) for row in range(len(there))]
    return np.stack(found)[..., None]


def test_an_image_folder_is_taken_in_and_forgotten_from(account: Account) -> None:
    members = {f"{split}/{name}/{row}.png": png(row) for row in range(12) for name in ("ant", "bee")
               for split in ("train", "test")}  # fmt: skip
    found = taken_in(account, zipped(members), ZIP)
    assert (found["state"], found["samples"], found["train_samples"], found["classes"]) == ("ready", 48, 24, 2)
    assert (found["class_names"], found["shape"]) == (["ant", "bee"], [8, 8, 1])
    assert len(blobs(account.settings)) == 1, "the pictures; the archive is removed"
    items = account.get(f"/v1/datasets/{found['id']}/samples", page_size=100)["items"]
    assert [item["id"] for item in items] == list(members)
    assert {(item["id"].split("/")[1], item["label"]) for item in items} == {("ant", 0), ("bee", 1)}
    assert pixels(account, found["id"])[:, 0, 0, 0].tolist() == [row for row in range(12) for _ in range(4)]

    model = account.post("/v1/models", {"name": "m", "dataset": found["id"], **QUICK_MODEL})["id"]
    account.post(f"/v1/models/{model}:train", {})
    account.work()
    bees = [name for name in members if name.startswith("train/bee")] + [n for n in members if n.startswith("test/bee")]
    account.delete(found["id"], bees[:-1], allow_data_loss=True)
    account.work()
    assert account.get(f"/v1/datasets/{found['id']}")["class_names"] == ["ant", "bee"]
    account.delete(found["id"], bees[-1:])
    account.work()
    assert account.get(f"/v1/datasets/{found['id']}")["class_names"] == ["ant", None], "nothing of the class is left"


@pytest.mark.validation
def test_an_npz_is_taken_in_under_either_type(account: Account) -> None:
    held = np.array([0, 0, 1, 0, 0, 1], bool)
    for form in (NPZ, ZIP):
        found = taken_in(account, npz(holdout=held, subject=np.array(["eve", "", "", "", "", ""])), form)
        assert (found["state"], found["samples"], found["train_samples"], found["classes"]) == ("ready", 6, 4, 3)
        assert found["shape"] == [8, 8, 3]
        assert found["class_names"] is None
        images = np.arange(6 * 8 * 8 * 3).astype(np.uint8).reshape(6, 8, 8, 3)
        assert np.array_equal(pixels(account, found["id"]), images)
        with account.database.read() as session:
            query = select(Sample.subject).where(Sample.dataset_id == found["id"]).order_by(Sample.position)
            assert list(session.scalars(query)) == ["eve", None, None, None, None, None]


@pytest.mark.validation
def test_class_names_and_a_shape_that_the_client_says(account: Account) -> None:
    found = taken_in(account, npz(), NPZ, class_names=["x", "y", "z", "w"], shape=[8, 8, 3])
    assert (found["classes"], found["class_names"]) == (4, ["x", "y", "z", "w"])
    grey = taken_in(account, zipped(folder()), ZIP, shape=[8, 8, 3], class_names=["bee", "ant"])
    assert (grey["shape"], grey["class_names"]) == ([8, 8, 3], ["bee", "ant"])
    made = dataset(account, class_names=["x", "y"])
    is_problem(send(account, made, npz(), NPZ), 422, "dataset-content")
    other = taken_in(account, zipped(folder()), ZIP, shape=[9, 8, 1])
    assert other["problem"]["errors"][0]["detail"] == ("entry 0: the image has 8 x 8 pixels")
    for params in ({"class_names": ["a", "a"]}, {"class_names": ["a/b"]}, {"shape": [8, 8]}, {"shape": [8, 8, 2]}):
        source = {"name": "upload", "params": params}
        is_problem(account.http.post("/v1/datasets", json={"name": "d", "source": source}), 422, "schema")


@pytest.mark.validation
def test_class_names_are_the_same_in_either_form_of_unicode(account: Account) -> None:
    """As seen: what a Mac sent was refused."""
    decomposed, composed = "Zoe\u0308", "Zo\u00eb"
    found = taken_in(
        account, zipped({f"{composed}/1.png": png(1), "b/2.png": png(2)}), ZIP, class_names=["b", decomposed]
    )
    assert (found["state"], found["class_names"]) == ("ready", ["b", composed])
    assert found["source"]["params"]["class_names"] == ["b", composed]
    source = {"name": "upload", "params": {"class_names": [composed, decomposed]}}
    is_problem(account.http.post("/v1/datasets", json={"name": "d", "source": source}), 422, "schema")


@pytest.mark.validation
def test_names_in_a_code_page_that_the_source_states(account: Account) -> None:
    name = "train/Jos\u00e9/1.png"
    data = unflagged(name.encode("cp1252"))
    made = dataset(account)
    refused = send(account, made, data, ZIP)
    is_problem(refused, 422, "dataset-content")
    assert "names_encoding" in refused.text
    found = taken_in(account, data, ZIP, names_encoding="cp1252")
    assert (found["state"], found["class_names"]) == ("ready", ["Jos\u00e9"])
    assert [item["id"] for item in account.get(f"/v1/datasets/{found['id']}/samples")["items"]] == [name]


SECRET = "train/ant/secret-person.png"
REFUSED: dict[str, tuple[bytes, str]] = {
    "a path upwards": (zipped({"train/../secret-person.png": png(1)}), ZIP),
    "a name twice by case": (zipped({SECRET: png(1), SECRET.upper(): png(2)}), ZIP),
    "encrypted": (patched(zipped({SECRET: png(1)}), SECRET, flags=1), ZIP),
    "no image": (zipped({SECRET + ".txt": b"x"}), ZIP),
    "a bomb": (zipped({SECRET: b"\0" * (2**24 + 1)}), ZIP),
    "cut off": (zipped(folder())[:-30], ZIP),
    "an id twice": (npz(ids=np.array(["secret-person"] * 6)), NPZ),
    "objects": (npz(ids=np.array([{"secret-person"}] * 6)), NPZ),
    "images of whole numbers": (npz(images=np.zeros((6, 8, 8), int)), NPZ),
    "a folder as npz": (zipped(folder()), NPZ),
    "parquet as zip": (parquet(columns()), ZIP),
    "an npz as parquet": (npz(), PARQUET),
}


@pytest.mark.validation
def test_bad_archives_are_refused_before_the_reply_and_nothing_is_kept(account: Account) -> None:
    made = dataset(account)
    before = counts(account.database)
    for name, (data, form) in REFUSED.items():
        response = send(account, made, data, form)
        is_problem(response, 422, "dataset-content")
        assert "secret" not in response.text, name
        assert counts(account.database) == before, name
        assert (blobs(account.settings), incoming(account.settings)) == (set(), []), name


@pytest.mark.validation
def test_images_that_cannot_be_taken_fail_the_ingest_by_entry(account: Account) -> None:
    members = folder() | {SECRET: png(1)[:-40], "train/ant/secret-too.png": b""}
    found = taken_in(account, zipped(members), ZIP)
    assert found["state"] == "failed"
    assert [error["detail"] for error in found["problem"]["errors"]] == [
        "entry 6: the image cannot be decoded",
        "entry 7: there is no image",
    ]
    assert "secret" not in json.dumps(found)
    assert blobs(account.settings) == set()
    crc = patched(zipped(folder()), "train/ant/person-0.png", crc=1)
    assert send(account, found["id"], crc, ZIP).status_code == 202, "other content may be sent"
    account.work()
    assert account.get(f"/v1/datasets/{found['id']}")["problem"]["errors"] == [
        {"detail": "entry 0: the member is damaged"}
    ]


@pytest.mark.validation
def test_an_archive_over_the_limit_is_413(account: Account) -> None:
    made, data = dataset(account), zipped(folder())
    settings = account.settings.model_copy(update={"max_upload_bytes": len(data) - 1})
    with TestClient(create_app(settings), raise_server_exceptions=False) as http:
        http.headers.update(account.http.headers)
        for body in (data, iter([data[:100], data[100:]])):
            response = http.put(f"/v1/datasets/{made}/content", content=body, headers={"Content-Type": ZIP})
            is_problem(response, 413, "too-large")
    assert (blobs(account.settings), incoming(account.settings)) == (set(), [])


@pytest.mark.validation
def test_an_upload_that_is_cut_in_the_middle_leaves_nothing(account: Account) -> None:
    """The connection is lost after half of the bytes: played at the ASGI interface, where a server says so."""
    made, data = dataset(account), zipped(folder())
    half = [{"type": "http.request", "body": data[: len(data) // 2], "more_body": True}, {"type": "http.disconnect"}]
    messages = iter(half)

    async def cut(scope: Any, receive: Any, send: Any) -> None:
        async def lose() -> Any:
            return next(messages)

        own = scope["type"] == "http"
        await create_app_for_cut(scope, lose if own else receive, send)

    create_app_for_cut = create_app(account.settings)
    with TestClient(cut, raise_server_exceptions=False) as http:
        http.headers.update(account.http.headers)
        response = http.put(f"/v1/datasets/{made}/content", content=b"", headers={"Content-Type": ZIP})
    assert response.status_code == 499
    assert (blobs(account.settings), incoming(account.settings)) == (set(), [])
    assert account.get(f"/v1/datasets/{made}")["state"] == "awaiting-content"


@pytest.mark.validation
def test_the_loser_of_two_uploads_leaves_nothing(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both were let in; the other one was recorded first."""
    from app.api import datasets as api

    made, check = dataset(account), api.sandbox.call
    first, second = npz(), npz(labels=np.array([0, 1, 0, 1, 0, 1]))

    def slow(*given: Any) -> Any:
        monkeypatch.setattr(api.sandbox, "call", check)
        assert send(account, made, first, NPZ).status_code == 202
        return check(*given)

    monkeypatch.setattr(api.sandbox, "call", slow)
    is_problem(send(account, made, second, NPZ), 409, "content-present")
    assert len(blobs(account.settings)) == 1, "the winner's bytes"
    account.work()
    assert account.get(f"/v1/datasets/{made}")["state"] == "ready"


@pytest.mark.validation
def test_the_loser_of_two_equal_uploads_takes_nothing_from_the_winner(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.api import datasets as api

    made, check, data = dataset(account), api.sandbox.call, npz()

    def slow(*given: Any) -> Any:
        monkeypatch.setattr(api.sandbox, "call", check)
        assert send(account, made, data, NPZ).status_code == 202
        return check(*given)

    monkeypatch.setattr(api.sandbox, "call", slow)
    is_problem(send(account, made, data, NPZ), 409, "content-present")
    account.work()
    assert account.get(f"/v1/datasets/{made}")["state"] == "ready"


@pytest.mark.validation
def test_a_receipt_says_nothing_of_another_tenants_bytes(account: Account) -> None:
    """Two tenants have uploaded the same samples: what is erased for one says nothing of the other."""
    data = npz()
    own = [taken_in(account, data, NPZ)["id"] for _ in range(2)]
    with account.database.read() as session:
        assert len({session.get_one(Dataset, made).images for made in own}) == 1

    def details(made: str) -> str:
        request = account.delete(made, ["person-0", "person-1"])
        account.work()
        found = account.get(f"/v1/deletion-requests/{request['id']}")
        assert found["status"] == "fulfilled"
        (receipt,) = [r for r in found["receipts"] if r["subject"] == "sample-bytes"]
        return str(receipt["detail"])

    token = other_tenant(account)
    mine = account.http.headers["Authorization"]
    account.http.headers["Authorization"] = f"Bearer {token}"
    theirs = taken_in(account, data, NPZ)["id"]
    account.http.headers["Authorization"] = mine
    assert "another object holds the same bytes" in details(own[0]), "one's own other dataset does"
    assert "same bytes" not in details(own[1]), "the other tenant's dataset is not to be known of"
    with account.database.read() as session:
        kept = session.get_one(Dataset, theirs).images
    assert kept in blobs(account.settings), "it keeps its bytes all the same"


@pytest.mark.validation
def test_the_contract_and_the_catalog_say_what_is_taken(account: Account) -> None:
    document = account.get("/v1/openapi.json")
    body = document["paths"]["/v1/datasets/{dataset}/content"]["put"]["requestBody"]["content"]
    assert set(body) == {PARQUET, NPZ, ZIP, "application/x-tar", "text/csv", "application/x-ndjson"}
    words = account.get("/v1/catalog")["sources"]["upload"]["params"]["description"]
    manifests = {"text/csv", "application/x-ndjson"}
    assert all(form in words for form in set(body) - manifests)
    words = account.get("/v1/catalog")["sources"]["objects"]["params"]["description"]
    assert all(form in words for form in {*manifests, PARQUET})
