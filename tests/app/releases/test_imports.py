"""A checkpoint trained elsewhere: what is refused at once, what the import job refuses, and what is published."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app.deletions import retention
from app.main import create_app
from tests.helpers import (
    SAFETENSORS,
    blobs,
    counts,
    digest_of,
    incoming,
    is_problem,
    make_safetensors,
    read_safetensors,
)
from tests.support import QUICK_MODEL, QUICK_POLICY, Document
from tests.trained import Trained

Tensors = dict[str, np.ndarray[Any, Any]]


def good(trained: Trained) -> bytes:
    """A file that fits the architecture: version 1 of the other model."""
    content: bytes = trained.account.http.get(f"{trained.where}/versions/1/checkpoint").content
    return content


def fresh(trained: Trained) -> str:
    """A model without a version; the path of its versions."""
    made = trained.account.post("/v1/models", {"name": "imported", "dataset": trained.dataset, **QUICK_MODEL})
    return f"/v1/models/{made['id']}/versions"


def announce(trained: Trained, where: str, digest: str, status: int = 201, **fields: Any) -> Document:
    body = {"digest": digest, "trained_on": "train-split"} | fields
    return trained.account.post(where, body, status)


def send(trained: Trained, where: str, data: Any, number: int = 1, form: str = SAFETENSORS) -> Any:
    return trained.account.http.put(f"{where}/{number}/checkpoint", content=data, headers={"Content-Type": form})


def nothing_kept(trained: Trained, before: tuple[dict[str, int], set[str]]) -> None:
    assert counts(trained.account.database) == before[0]
    assert blobs(trained.account.settings) == before[1]
    assert incoming(trained.account.settings) == []


def state(trained: Trained) -> tuple[dict[str, int], set[str]]:
    return counts(trained.account.database), blobs(trained.account.settings)


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", data)
    return buffer.getvalue()


def duplicated(data: bytes) -> bytes:
    """The same header with its first tensor named twice."""
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].rstrip()
    header = json.loads(text)
    name = next(key for key in header if key != "__metadata__")
    text = text[:-1] + f",{json.dumps(name)}:{json.dumps(header[name])}}}".encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("pickle", lambda data: pickle.dumps({"weight": [1.0]})),
        ("zip .pt", zipped),
        ("text", lambda data: b"not a checkpoint at all"),
        ("cut in the header", lambda data: data[:100]),
        ("cut in the tensors", lambda data: data[:-1]),
        ("longer than said", lambda data: data + b"\x00"),
        ("named twice", duplicated),
        ("no tensor", lambda data: (2).to_bytes(8, "little") + b"{}"),
        ("a header of 2^63 bytes", lambda data: (2**63).to_bytes(8, "little") + data[8:]),
        ("empty", lambda data: b""),
    ],
)
def test_a_file_that_is_no_safetensors_is_refused_at_once(shared: Trained, name: str, spoil: Any) -> None:
    data = spoil(good(shared))
    where = fresh(shared)
    announce(shared, where, digest_of(data))
    before = state(shared)
    is_problem(send(shared, where, data), 422, "empty-body" if name == "empty" else "checkpoint-refused")
    nothing_kept(shared, before)
    assert shared.account.get(f"{where}/1")["size"] == 0


def test_other_bytes_than_announced_are_refused(shared: Trained) -> None:
    data, where = good(shared), fresh(shared)
    announce(shared, where, digest_of(data + b"x"))
    before = state(shared)
    is_problem(send(shared, where, data), 422, "digest-mismatch")
    nothing_kept(shared, before)


def test_media_types(shared: Trained) -> None:
    data, where = good(shared), fresh(shared)
    announce(shared, where, digest_of(data))
    before = state(shared)
    for form in ("application/x-pytorch", "text/plain", "", "application/json", "multipart/form-data; boundary=x"):
        is_problem(send(shared, where, data, form=form), 415, "unsupported-media-type")
    nothing_kept(shared, before)
    assert send(shared, where, data, form="Application/Octet-Stream; q=1").status_code == 202


def test_a_file_over_the_limit_is_413_and_leaves_nothing(shared: Trained) -> None:
    data, where = good(shared), fresh(shared)
    announce(shared, where, digest_of(data))
    before = state(shared)
    settings = shared.account.settings.model_copy(update={"max_upload_bytes": len(data) - 1})
    with TestClient(create_app(settings), raise_server_exceptions=False) as http:
        http.headers.update(shared.account.http.headers)
        for body in (data, iter([data[:1000], data[1000:]])):
            headers = {"Content-Type": SAFETENSORS}
            is_problem(http.put(f"{where}/1/checkpoint", content=body, headers=headers), 413, "too-large")
            nothing_kept(shared, before)
    assert send(shared, where, data).status_code == 202, "the limit itself still fits"


def test_a_body_that_breaks_off_leaves_nothing(shared: Trained) -> None:
    """The connection is lost after half of the bytes: played at the ASGI interface, where a server says so."""
    data, where = good(shared), fresh(shared)
    announce(shared, where, digest_of(data))
    before = state(shared)
    messages = [
        {"type": "http.request", "body": data[: len(data) // 2], "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send_nowhere(message: Any) -> None:
        assert message.get("status") in (499, None)

    headers = [
        (b"content-type", SAFETENSORS.encode()),
        (b"content-length", str(len(data)).encode()),
        (b"authorization", shared.account.http.headers["Authorization"].encode()),
    ]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "PUT", "scheme": "http",
        "path": f"{where}/1/checkpoint", "raw_path": b"", "query_string": b"", "root_path": "", "headers": headers,
        "client": ("test", 1), "server": ("test", 80), "state": {},
    }  # fmt: skip
    portal = shared.account.http.portal
    assert portal is not None
    portal.call(shared.account.http.app, scope, receive, send_nowhere)
    nothing_kept(shared, before)


def changed(name: str, change: Any) -> Any:
    def spoil(tensors: Tensors) -> Tensors:
        first = next(key for key in tensors if tensors[key].ndim == 4)
        return change(dict(tensors), first)

    return pytest.param(spoil, id=name)


def with_value(value: float) -> Any:
    def change(tensors: Tensors, first: str) -> Tensors:
        array = tensors[first].copy()
        array.flat[0] = value
        return tensors | {first: array}

    return change


@pytest.mark.parametrize(
    "spoil",
    [
        changed("a shape", lambda tensors, first: tensors | {first: tensors[first][:, :, :1]}),
        changed("a wider dtype", lambda tensors, first: tensors | {first: tensors[first].astype(np.float64)}),
        changed("a missing tensor", lambda tensors, first: {k: v for k, v in tensors.items() if k != first}),
        changed("a further tensor", lambda tensors, first: tensors | {"extra": tensors[first]}),
        changed("NaN", with_value(float("nan"))),
        changed("infinity", with_value(float("-inf"))),
    ],
)
def test_a_file_that_does_not_fit_the_architecture_fails_its_job(shared: Trained, spoil: Any) -> None:
    where = fresh(shared)
    data = make_safetensors(spoil(read_safetensors(good(shared))))
    announce(shared, where, digest_of(data))
    for _ in range(2):  # the same file may be sent again, and is refused again
        response = send(shared, where, data)
        assert response.status_code == 202, response.text
        shared.account.work()
        job = shared.account.get(f"/v1/jobs/{response.json()['id']}")
        assert job["state"] == "failed"
        assert job["problem"]["type"].endswith("/checkpoint-refused")
        assert job["attempts"] == 1, "trying again cannot help"
        assert shared.account.get(f"{where}/1")["state"] == "candidate"
        assert shared.account.get(where.removesuffix("/versions"))["current_version"] is None


@pytest.mark.validation
def test_a_good_checkpoint_is_published_and_can_be_unlearned(trained: Trained) -> None:
    account, data, where = trained.account, good(trained), fresh(trained)
    ids = trained.ids[:400]
    announced = announce(trained, where, digest_of(data), trained_on=ids)
    assert (announced["state"], announced["size"], announced["trained_samples"]) == ("candidate", 0, 400)
    is_problem(account.http.get(f"{where}/1/checkpoint"), 409, "content-missing")
    response = send(trained, where, data)
    assert response.headers["location"] == f"/v1/jobs/{response.json()['id']}"
    is_problem(send(trained, where, data), 409, "content-present")  # it is being looked at
    account.work()
    version = account.get(f"{where}/1")
    assert (version["state"], version["origin"], version["size"]) == ("current", "imported", len(data))
    assert version["metrics"]["accuracy_test"] > 0.3
    assert account.http.get(f"{where}/1/checkpoint").content == data
    is_problem(send(trained, where, data), 409, "content-present")
    body = {"digest": digest_of(data), "trained_on": "train-split"}
    is_problem(account.http.post(where, json=body), 409, "version-present")

    model = where.split("/")[3]
    final = trained.forget(trained.ids[395:405], model=model)
    assert final["outcomes"][0]["version"] == 2
    assert account.get(f"{where}/2")["trained_samples"] == 395


@pytest.mark.validation
def test_of_two_announced_checkpoints_the_first_becomes_the_version(trained: Trained) -> None:
    account, data, where = trained.account, good(trained), fresh(trained)
    other = make_safetensors(read_safetensors(data))
    assert other != data
    announce(trained, where, digest_of(data))
    announce(trained, where, digest_of(other))
    jobs = [send(trained, where, data, 1).json()["id"], send(trained, where, other, 2).json()["id"]]
    account.work()
    states = [account.get(f"/v1/jobs/{job}") for job in jobs]
    assert [job["state"] for job in states] == ["succeeded", "failed"]
    assert states[1]["attempts"] == 1
    assert account.get(f"{where}/2")["state"] == "candidate"
    is_problem(send(trained, where, other, 2), 409, "version-present")


@pytest.mark.validation
def test_what_was_requested_or_erased_is_no_training_data_of_an_import(trained: Trained) -> None:
    account, data = trained.account, good(trained)
    late = fresh(trained)
    announce(trained, late, digest_of(data))  # before the request
    trained.delete(trained.ids[:2])
    where = fresh(trained)
    body = {"digest": digest_of(data), "trained_on": trained.ids[:5]}
    is_problem(account.http.post(where, json=body), 409, "trained-on-erased")
    split = {"digest": digest_of(data), "trained_on": "train-split"}
    is_problem(account.http.post(where, json=split), 409, "trained-on-erased")
    account.work()
    is_problem(account.http.post(where, json=split), 409, "trained-on-erased")
    response = account.http.post(fresh(trained), json=body)
    assert is_problem(response, 409, "sample-erased")["counts"] == {"erased": 2}
    before = blobs(account.settings)
    is_problem(send(trained, late, data), 409, "trained-on-erased")
    is_problem(account.http.get(f"{late}/1/checkpoint"), 409, "content-missing")
    assert blobs(account.settings) == before


def test_a_checkpoint_whose_samples_are_requested_before_it_is_published_goes_with_them(trained: Trained) -> None:
    account, data = trained.account, make_safetensors(read_safetensors(good(trained)))
    late = fresh(trained)
    account.http.put(f"{late.removesuffix('/versions')}/policy", json={**QUICK_POLICY, "grace_seconds": 0})
    announce(trained, late, digest_of(data))
    job = send(trained, late, data).json()["id"]
    made = trained.delete(trained.ids[:2])
    account.work()
    assert account.get(f"/v1/jobs/{job}")["problem"]["type"].endswith("/trained-on-erased")
    retention.purge_due_versions(account.database, account.resources.blobs)
    is_problem(account.http.get(f"{late}/1/checkpoint"), 410, "purged")
    assert digest_of(data) in {receipt["digest"] for receipt in trained.request(made)["receipts"]}
    assert digest_of(data) not in blobs(account.settings)


@pytest.mark.validation
def test_what_was_requested_of_one_model_is_no_training_data_of_its_import(trained: Trained) -> None:
    data, where = good(trained), fresh(trained)
    model = where.split("/")[3]
    trained.delete(trained.ids[:2], model=model)
    body = {"digest": digest_of(data), "trained_on": trained.ids[:5]}
    is_problem(trained.account.http.post(where, json=body), 409, "trained-on-erased")


def test_bad_ids_of_an_announcement_are_named_by_position(shared: Trained) -> None:
    where, before = fresh(shared), counts(shared.account.database)
    body = {"digest": "sha256:" + "0" * 64, "trained_on": [shared.ids[0], "stranger", shared.ids[0]]}
    response = shared.account.http.post(where, json=body)
    found = is_problem(response, 422, "sample-unknown")
    assert [fault["pointer"] for fault in found["errors"]] == ["/trained_on/1", "/trained_on/2"]
    assert "stranger" not in response.text
    for digest in ("sha256:" + "0" * 63, "sha256:" + "A" * 64, "md5:" + "0" * 64, "../../lethe.db"):
        is_problem(shared.account.http.post(where, json=body | {"digest": digest}), 422, "schema")
    assert counts(shared.account.database) | {"models": 0} == before | {"models": 0}


def test_an_announced_digest_opens_no_bytes_that_are_stored_for_somebody_else(shared: Trained) -> None:
    data, where = good(shared), fresh(shared)
    assert digest_of(data) in blobs(shared.account.settings)
    announce(shared, where, digest_of(data))
    for method in ("GET", "HEAD"):
        response = shared.account.http.request(method, f"{where}/1/checkpoint")
        assert response.status_code == 409
        assert data[:100] not in response.content
        assert "etag" not in response.headers
