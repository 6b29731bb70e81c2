"""What is said of taken-in data, what a person may see of them, and how they go."""

from __future__ import annotations

import base64
import io
from functools import partial

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from app.blobs import usage
from app.blobs.folder import Folder
from app.core.tables import AuditEvent, Sample
from app.deletions import retention
from app.jobs import outbox
from tests.app.datasets.test_shards import close, part, put
from tests.app.datasets.test_uploads import columns, dataset, parquet, png, send
from tests.app.formats.archive_cases import npz
from tests.helpers import blobs, is_problem
from tests.support import QUICK_MODEL, Account

pytestmark = pytest.mark.validation


def sweep(account: Account) -> None:
    """What the sweeper does of the bytes that are not needed any more."""
    stored = Folder(account.settings.data_dir / "blobs")
    retention.purge_due_versions(account.database, stored)
    outbox.relay_blobs(account.database, partial(usage.remove, account.database, stored))


def noise(seed: int, mode: str = "L") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def taken_in(account: Account, data: bytes, form: str | None = None) -> str:
    made = dataset(account)
    response = send(account, made, data, *([form] if form else []))
    assert response.status_code == 202, response.text
    account.work()
    assert account.get(f"/v1/datasets/{made}")["state"] == "ready"
    return made


def doubles(account: Account) -> str:
    """Person-0 is there three times, once held out and once in colour; person-1 twice; two are of one colour."""
    images = [noise(row) for row in range(20)]
    images[5], images[19], images[6] = noise(0, "RGB"), images[0], noise(1)
    images[7] = images[8] = png(9)
    split = ["train"] * 15 + ["holdout"] * 5
    label = [("ant", "bee", "cat")[row % 3] for row in range(20)]
    return taken_in(account, parquet(columns(image=images, split=split, label=label)))


def test_a_report_counts_and_names_nobody(account: Account) -> None:
    made = doubles(account)
    found = account.get(f"/v1/datasets/{made}/report")
    assert found == {
        "samples": 20,
        "form": "parquet",
        "splits": {"train": 15, "holdout": 5},
        "classes": [{"label": 0, "train": 5, "holdout": 2}, {"label": 1, "train": 5, "holdout": 2},
                    {"label": 2, "train": 5, "holdout": 1}],
        "modes": {"L": 19, "RGB": 1},
        "sizes": [{"height": 8, "width": 8, "samples": 20}],
        "different_sizes": 1,
        "constant": 2,
        "duplicates": {"samples": 5, "contents": 2, "across_splits": 1},
        "conversions": [],
    }  # fmt: skip
    built_in = account.post("/v1/datasets", {"name": "d", "source": {"name": "digits"}})["id"]
    is_problem(account.http.get(f"/v1/datasets/{built_in}/report"), 409, "no-report")


def test_a_report_says_what_was_converted(account: Account) -> None:
    made = taken_in(account, npz(images=np.zeros((6, 3, 8, 8), np.float32), ids=None), "application/x-npz")
    found = account.get(f"/v1/datasets/{made}/report")
    assert [(each["code"], each["samples"]) for each in found["conversions"]] == [
        ("channels-first", 6), ("floats", 6), ("holdout-drawn", 1), ("ids-made", 6)
    ]  # fmt: skip
    assert all(each["detail"] for each in found["conversions"])


def test_a_preview_of_a_request_names_duplicates_that_stay(account: Account) -> None:
    made = doubles(account)
    order = {"dataset": made, "sample_ids": ["person-0", "person-7"], "jurisdiction": "gdpr", "validate_only": True}
    found = account.http.post("/v1/deletion-requests", json=order).json()
    assert (found["duplicates"], found["duplicate_ids"]) == (2, ["person-5", "person-19"])
    order["sample_ids"] = ["person-0", "person-5", "person-19", "person-2"]
    found = account.http.post("/v1/deletion-requests", json=order).json()
    assert (found["duplicates"], found["duplicate_ids"]) == (0, [])
    account.delete(made, ["person-5"])
    account.work()
    order["sample_ids"] = ["person-0"]
    assert account.http.post("/v1/deletion-requests", json=order).json()["duplicate_ids"] == ["person-19"]


def key(account: Account, *scopes: str) -> dict[str, str]:
    made = account.post("/v1/api-keys", {"name": "k", "scopes": list(scopes)}, 201)
    return {"Authorization": f"Bearer {made['token']}"}


@pytest.mark.parametrize("kind", ["pictures", "array"])
def test_a_preview_shows_pictures_to_those_who_may_and_is_logged(account: Account, kind: str) -> None:
    if kind == "pictures":
        made = taken_in(account, parquet(columns(image=[noise(row) for row in range(20)])))
        expected = np.asarray(Image.open(io.BytesIO(noise(3))))
    else:
        made = taken_in(account, npz(), "application/x-npz")
        expected = np.load(io.BytesIO(npz()))["images"][3]
    body = {"sample_ids": ["person-3", "person-1"]}
    where = f"/v1/datasets/{made}:preview"
    is_problem(account.http.post(where, json=body, headers=key(account, "read", "operate")), 403, "scope-missing")
    response = account.http.post(where, json=body, headers=key(account, "samples"))
    assert response.status_code == 200, response.text
    first, second = response.json()
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first["png"]))))
    assert np.array_equal(shown, expected)
    assert (first["height"], first["width"], first["split"]) == (8, 8, first["split"])
    assert first["png"] != second["png"]
    with account.database.read() as session:
        [event] = session.scalars(select(AuditEvent).where(AuditEvent.kind == "dataset.previewed")).all()
        assert event.data["samples"] == 2
        assert "person" not in str(event.data)
    account.delete(made, ["person-3"])
    account.work()
    is_problem(account.http.post(where, json=body), 409, "sample-erased")
    is_problem(account.http.post(where, json={"sample_ids": ["nobody"]}), 422, "sample-unknown")


def test_a_dataset_goes_with_all_that_it_holds_once_nobody_needs_it(account: Account) -> None:
    made = taken_in(account, parquet(columns(image=[noise(row) for row in range(20)])))
    model = account.post("/v1/models", {"name": "m", "dataset": made, **QUICK_MODEL})["id"]
    account.post(f"/v1/models/{model}:train", {})
    account.work()
    told = account.get(f"/v1/datasets/{made}:erasable")
    assert (told["samples"], told["copies"], told["needed"]) == (
        20,
        1,
        [f"the model {model} is of it; purge the model first"],
    )
    assert told["bytes"] > 20 * 64
    refused = is_problem(account.http.delete(f"/v1/datasets/{made}"), 409, "dataset-needed")
    assert model in refused["detail"]
    account.post(f"/v1/models/{model}:purge", {})
    sweep(account)
    assert account.get(f"/v1/datasets/{made}:erasable")["needed"] == []
    is_problem(
        account.http.delete(f"/v1/datasets/{made}", headers=key(account, "read", "operate")), 403, "scope-missing"
    )
    assert account.http.delete(f"/v1/datasets/{made}").status_code == 204
    sweep(account)
    assert blobs(account.settings) == set()
    found = account.get(f"/v1/datasets/{made}")
    assert (found["state"], found["samples"], found["erased_samples"]) == ("erased", 20, 20)
    with account.database.read() as session:
        assert session.scalars(select(Sample.sample_id)).all() == []
    is_problem(account.http.delete(f"/v1/datasets/{made}"), 409, "dataset-needed")
    is_problem(account.http.post("/v1/deletion-requests", json={"dataset": made, "sample_ids": ["person-1"]}), 410,
               "dataset-erased")  # fmt: skip
    is_problem(account.http.get(f"/v1/datasets/{made}/report"), 409, "no-report")


def test_what_was_sent_and_never_taken_in_can_be_deleted(account: Account) -> None:
    made = dataset(account)
    put(account, made, 0, part(0))
    put(account, made, 1, part(1)[:500], upload={"complete": "?0"})
    assert account.get(f"/v1/datasets/{made}:erasable")["shards"] == 2
    assert account.http.delete(f"/v1/datasets/{made}").status_code == 204
    sweep(account)
    assert blobs(account.settings) == set()
    assert account.get(f"/v1/datasets/{made}/shards")["items"] == []
    failing = dataset(account)
    put(account, failing, 0, parquet(columns(image=[b"no image"] * 20)))
    close(account, failing, 1)
    is_problem(account.http.delete(f"/v1/datasets/{failing}"), 409, "dataset-needed")  # its job waits
    account.work()
    assert account.get(f"/v1/datasets/{failing}")["state"] == "failed"
    assert account.http.delete(f"/v1/datasets/{failing}").status_code == 204
    sweep(account)
    assert blobs(account.settings) == set()
