"""Datasets whose pictures stay in object storage: read when needed, held to their digests, erased where they lie."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import boto3.session
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sqlalchemy import select

from app.core import db
from app.core.config import Settings
from app.core.tables import AuditEvent, Job, OwedObject
from app.jobs.ending import REFUSED_SINCE
from tests.app.blobs.s3_server import s3_server
from tests.app.console.browsing import browser
from tests.helpers import PARQUET, blobs, is_problem
from tests.support import QUICK_MODEL, QUICK_POLICY, Account, Document

CSV, NDJSON = "text/csv", "application/x-ndjson"
REQUESTS = "/v1/deletion-requests"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def theirs(server: str) -> Any:
    """A client of the storage, whose buckets are empty; `kept` keeps versions."""
    client = boto3.session.Session().client(
        "s3", endpoint_url=server, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    for bucket in client.list_buckets()["Buckets"]:
        for found in client.list_object_versions(Bucket=bucket["Name"]).get("Versions", []):
            client.delete_object(Bucket=bucket["Name"], Key=found["Key"], VersionId=found["VersionId"])
        for found in client.list_object_versions(Bucket=bucket["Name"]).get("DeleteMarkers", []):
            client.delete_object(Bucket=bucket["Name"], Key=found["Key"], VersionId=found["VersionId"])
        client.delete_bucket(Bucket=bucket["Name"])
    for name in ("faces", "kept"):
        client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": "Enabled"})
    return client


@pytest.fixture
def settings(settings: Settings, server: str) -> Settings:
    """The service may read two folders, and erase in one of them."""
    return settings.model_copy(
        update={
            "objects_allowed": ["s3://faces/people", "s3://kept/people", "ten_other=s3://faces/theirs"],
            "objects_erasable": ["s3://kept/people"],
            "objects_endpoint": server,
            "objects_access_key": "key",
            "objects_secret_key": settings.s3_secret_key.__class__("secret"),
        }
    )


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def filled(theirs: Any, bucket: str = "faces", n: int = 20) -> list[str]:
    """Addresses of n pictures."""
    for row in range(n):
        theirs.put_object(Bucket=bucket, Key=f"people/anna-{row}.png", Body=picture(row))
    return [f"s3://{bucket}/people/anna-{row}.png" for row in range(n)]


def rows_of(addresses: list[str]) -> list[Document]:
    return [
        {"address": address, "id": f"id-{row}", "label": ("ant", "bee")[row % 2], "subject": f"person {row // 4}"}
        for row, address in enumerate(addresses)
    ]


def as_csv(rows: list[Document], delimiter: str = ",") -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, [*rows[0]], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def as_ndjson(rows: list[Document]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def as_parquet(rows: list[Document]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def registered(account: Account, **params: Any) -> str:
    source = {"name": "objects", "params": params}
    return str(account.post("/v1/datasets", {"name": "faces", "source": source})["id"])


def send(account: Account, made: str, data: bytes, form: str = CSV) -> Any:
    return account.http.put(f"/v1/datasets/{made}/content", content=data, headers={"Content-Type": form})


def taken_in(account: Account, rows: list[Document], **params: Any) -> str:
    made = registered(account, **params)
    assert send(account, made, as_csv(rows)).status_code == 202
    account.work()
    found = account.get(f"/v1/datasets/{made}")
    assert found["state"] == "ready", found["problem"]
    return made


def trained(account: Account, dataset: str) -> tuple[str, Document]:
    """A model on the dataset, and its train job."""
    body = {"name": "m", "dataset": dataset, **QUICK_MODEL, "policy": QUICK_POLICY}
    model = account.post("/v1/models", body)["id"]
    job = account.post(f"/v1/models/{model}:train", {"seed": 1})["id"]
    account.work()
    return model, account.get(f"/v1/jobs/{job}")


@pytest.mark.validation
@pytest.mark.parametrize(
    ("form", "write"),
    [(CSV, as_csv), (CSV, lambda rows: as_csv(rows, ";")), (NDJSON, as_ndjson), (PARQUET, as_parquet)],
    ids=["csv", "semicolons", "ndjson", "parquet"],
)
def test_a_manifest_of_each_form_is_taken_in(account: Account, theirs: Any, form: str, write: Any) -> None:
    made = registered(account)
    assert account.get(f"/v1/datasets/{made}")["state"] == "awaiting-content"
    rows = rows_of(filled(theirs))
    response = send(account, made, write(rows), form)
    assert response.status_code == 202, response.text
    account.work()
    found = account.get(f"/v1/datasets/{made}")
    assert (found["state"], found["samples"], found["class_names"]) == ("ready", 20, ["ant", "bee"]), found
    assert found["shape"] == [8, 8, 1]
    assert account.get(f"/v1/datasets/{made}/report")["form"] == "addresses"
    assert [item["id"] for item in account.get(f"/v1/datasets/{made}/samples")["items"]] == [row["id"] for row in rows]
    kept = b"".join(path.read_bytes() for path in (account.settings.data_dir / "blobs").glob("??/*"))
    assert picture(3) not in kept, "the pictures stay where they are"


@pytest.mark.validation
def test_an_image_folder_under_a_prefix_is_taken_in(account: Account, theirs: Any) -> None:
    for row in range(20):
        split, name = ("val" if row < 4 else "train"), ("ant", "bee")[row % 2]
        theirs.put_object(Bucket="faces", Key=f"people/insects/{split}/{name}/{row}.png", Body=picture(row))
    theirs.put_object(Bucket="faces", Key="people/insects/", Body=b"")  # as some tools make folders
    made = registered(account, prefix="s3://faces/people/insects/")
    account.work()
    found = account.get(f"/v1/datasets/{made}")
    assert (found["state"], found["train_samples"], found["class_names"]) == ("ready", 16, ["ant", "bee"]), found
    assert account.get(f"/v1/datasets/{made}/samples")["items"][0]["id"] == "train/ant/10.png"
    is_problem(send(account, made, b"address,label\n"), 409, "not-an-upload")


@pytest.mark.validation
def test_a_manifest_may_come_in_shards_without_ids(account: Account, theirs: Any) -> None:
    made, addresses = registered(account), filled(theirs)
    for number, part in enumerate((addresses[:10], addresses[10:])):
        data = as_csv([{"address": address, "label": 1 + row % 2} for row, address in enumerate(part)])
        where = f"/v1/datasets/{made}/shards/{number}"
        split = {"split": "holdout"} if number else {}
        sent = account.http.put(where, content=data, headers={"Content-Type": CSV}, params=split)
        assert sent.status_code == 200, sent.text
    account.post(f"/v1/datasets/{made}:close", {"shards": 2})
    account.work()
    found = account.get(f"/v1/datasets/{made}")
    assert (found["state"], found["train_samples"], found["class_names"]) == ("ready", 10, ["1", "2"]), found
    assert [item["id"] for item in account.get(f"/v1/datasets/{made}/samples")["items"]] == addresses
    told = [each["code"] for each in account.get(f"/v1/datasets/{made}/report")["conversions"]]
    assert told == ["ids-are-addresses", "labels-with-gaps", "no-split"]


@pytest.mark.validation
@pytest.mark.parametrize(
    "address",
    [
        "s3://faces/others/1.png", "s3://faces/people-private/1.png", "s3://faces/people/../others/1.png",
        "s3://faces/theirs/1.png", "s3://other/people/1.png", "https://faces/people/1.png", "/etc/passwd",
        "file:///people/1.png", "s3://faces/people/", "s3://faces/people//1.png", "s3://faces/people/a\\1.png", "",
    ],
)  # fmt: skip
def test_an_address_outside_of_the_allowed_storage_is_refused(account: Account, theirs: Any, address: str) -> None:
    made, rows = registered(account), rows_of(filled(theirs))
    rows[7]["address"] = address
    problem = is_problem(send(account, made, as_ndjson(rows), NDJSON), 422, "dataset-content")
    assert [line["detail"].partition(":")[0] for line in problem["errors"]] == ["row 7"]
    assert "people" not in json.dumps(problem), "an address may name a person"
    assert account.get(f"/v1/datasets/{made}")["state"] == "awaiting-content"


@pytest.mark.validation
@pytest.mark.parametrize(
    ("data", "form", "text"),
    [
        (b"address,label\n", CSV, "no row"),
        (b"address;name\ns3://faces/people/1;2\n", CSV, "no column label"),
        (b"address,label,label\n", CSV, "more than one column label"),
        (b"address,label\ns3://faces/people/1\n", CSV, "line 2"),
        (b"address,label\ns3://faces/people/1,\n", CSV, "no label"),
        (b"address,label,id\ns3://faces/people/1,a,x\ns3://faces/people/1,b,y\n", CSV, "the same address as row 0"),
        (b'address,label\n"s3://faces/people/1,a\n', CSV, "readable CSV"),
        (b"address,label\n\xff\xfe,a\n", CSV, "UTF-8"),
        (b'{"address": "s3://faces/people/1", "label": [1, 2]}', NDJSON, "line 1"),
        (b'{"address": "s3://faces/people/1", "label": 0.5}', NDJSON, "line 1"),
        (b'{"address": "s3://faces/people/1"', NDJSON, "line 1"),
        (b"[]", NDJSON, "csv"),
        (b"address,label\ns3://faces/people/1,a\n", NDJSON, "form csv"),
        (b"PAR1 and nothing", PARQUET, "Parquet"),
    ],
)
def test_bad_manifests_are_refused(account: Account, data: bytes, form: str, text: str) -> None:
    problem = is_problem(send(account, registered(account), data, form), 422, "dataset-content")
    assert text in json.dumps(problem)


@pytest.mark.validation
def test_sources_and_types_that_do_not_go_together_are_refused(account: Account) -> None:
    made = registered(account)
    assert send(account, made, b"PK\x03\x04", "application/zip").status_code == 415
    uploaded = account.post("/v1/datasets", {"name": "u", "source": {"name": "upload"}})["id"]
    assert send(account, uploaded, b"address,label\n").status_code == 415
    for prefix in ("s3://faces/others/", "s3://faces/", "s3://faces/theirs/"):
        body = {"name": "faces", "source": {"name": "objects", "params": {"prefix": prefix}}}
        is_problem(account.http.post("/v1/datasets", json=body), 422, "storage-not-allowed")
    body["source"]["params"]["prefix"] = "s3://faces/people"  # type: ignore[index]
    assert account.http.post("/v1/datasets", json=body).status_code == 422


@pytest.mark.validation
def test_without_a_setting_no_storage_is_allowed(account: Account) -> None:
    object.__setattr__(account.settings, "objects_allowed", [])
    body = {"name": "faces", "source": {"name": "objects"}}
    problem = is_problem(account.http.post("/v1/datasets", json=body), 422, "storage-not-allowed")
    assert "LETHE_OBJECTS_ALLOWED" in problem["detail"]


@pytest.mark.validation
def test_objects_that_cannot_be_taken_in_are_named_by_their_rows(account: Account, theirs: Any) -> None:
    made, rows = registered(account), rows_of(filled(theirs))
    theirs.delete_object(Bucket="faces", Key="people/anna-3.png")
    assert send(account, made, as_csv(rows)).status_code == 202
    account.work()
    found = account.get(f"/v1/datasets/{made}")
    assert found["state"] == "failed"
    assert [line["detail"] for line in found["problem"]["errors"]] == ["row 3: there is no such object"]
    theirs.put_object(Bucket="faces", Key="people/anna-3.png", Body=b"no picture")
    assert send(account, made, as_csv(rows)).status_code == 202
    account.work()
    problem = account.get(f"/v1/datasets/{made}")["problem"]
    assert [line["detail"] for line in problem["errors"]] == ["row 3: the image cannot be decoded"]


@pytest.mark.validation
def test_what_was_erased_before_is_left_out(account: Account, theirs: Any) -> None:
    rows = rows_of(filled(theirs, "kept"))
    first = taken_in(account, rows)
    account.post(REQUESTS, {"dataset": first, "subjects": ["person 1"]})
    account.work()
    for row in range(4, 8):  # they come back
        theirs.put_object(Bucket="kept", Key=f"people/anna-{row}.png", Body=picture(row))
    second = taken_in(account, rows_of(filled(theirs, "kept")))
    assert account.get(f"/v1/datasets/{second}")["erased_samples"] == 4
    job = account.get("/v1/jobs", dataset=second, kind="ingest")["items"][0]
    assert job["result"] == {"samples": 20, "left_out": 4}


@pytest.mark.validation
def test_a_picture_can_be_seen(account: Account, theirs: Any) -> None:
    made = taken_in(account, rows_of(filled(theirs)))
    [shown] = account.post(f"/v1/datasets/{made}:preview", {"sample_ids": ["id-5"]})
    assert (shown["height"], shown["width"], shown["label"]) == (8, 8, 1)
    theirs.delete_object(Bucket="faces", Key="people/anna-5.png")
    seen = account.http.post(f"/v1/datasets/{made}:preview", json={"sample_ids": ["id-5"]})
    is_problem(seen, 409, "object-gone")


@pytest.mark.validation
@pytest.mark.parametrize("kind", ["object-gone", "object-changed"])
def test_an_object_that_is_not_what_was_taken_in_stops_the_job(account: Account, theirs: Any, kind: str) -> None:
    made = taken_in(account, rows_of(filled(theirs)))
    if kind == "object-gone":
        theirs.delete_object(Bucket="faces", Key="people/anna-5.png")
    else:
        theirs.put_object(Bucket="faces", Key="people/anna-5.png", Body=picture(500))
    model, job = trained(account, made)
    assert job["state"] == "failed"
    assert job["problem"]["type"].endswith(kind)
    [line] = job["problem"]["errors"]
    assert (line["position"], line["sample_id"]) == (5, "id-5")
    with account.database.read() as session:
        stored = json.dumps([event.data for event in session.scalars(select(AuditEvent))])
    assert "id-5" not in stored
    assert "anna" not in stored
    # Once it is there again, the job goes on.
    theirs.put_object(Bucket="faces", Key="people/anna-5.png", Body=picture(5))
    account.post(f"/v1/jobs/{job['id']}:retry", {})
    account.work()
    assert account.get(f"/v1/models/{model}")["current_version"] == 1


def erased(account: Account, dataset: str, **fields: Any) -> Document:
    made = account.post(REQUESTS, {"dataset": dataset, **fields})
    account.work()
    return account.get(f"{REQUESTS}/{made['id']}")


def versions(theirs: Any, bucket: str) -> set[str]:
    found = theirs.list_object_versions(Bucket=bucket)
    return {each["Key"] for kind in ("Versions", "DeleteMarkers") for each in found.get(kind, [])}


def test_erasing_deletes_the_object_with_its_versions(account: Account, theirs: Any) -> None:
    made = taken_in(account, rows_of(filled(theirs, "kept")))
    theirs.put_object(Bucket="kept", Key="people/anna-6.png", Body=picture(6))  # a second version of the same
    theirs.put_object(Bucket="kept", Key="people/anna-6.png.txt", Body=b"something else")
    _model, _ = trained(account, made)
    found = erased(account, made, subjects=["person 1"])
    assert found["status"] == "fulfilled", found
    gone = {f"people/anna-{row}.png" for row in range(4, 8)}
    assert versions(theirs, "kept") == {f"people/anna-{row}.png" for row in range(20)} - gone | {
        "people/anna-6.png.txt"
    }
    subjects = {receipt["subject"]: receipt for receipt in found["receipts"]}
    assert subjects["source-object"]["done_at"]
    assert subjects["source-object"]["detail"].startswith("4 objects")
    assert subjects["sample-copy"]["done_at"]
    assert subjects["sample-bytes"]["done_at"]
    assert account.get(f"{REQUESTS}/{found['id']}/objects") == {"addresses": []}
    # Nothing that names them is left, and the others can still be used.
    with account.database.read() as session:
        assert session.scalars(select(OwedObject)).all() == []
    kept = b"".join(path.read_bytes() for path in (account.settings.data_dir / "blobs").glob("??/*"))
    assert b"anna-5.png" not in kept
    assert b"anna-8.png" in kept
    body = {
        "name": "n",
        "dataset": made,
        **QUICK_MODEL,
        "policy": QUICK_POLICY,
        "input": {"geometry": {"resize": [16, 16]}},
    }
    again = account.post("/v1/models", body)["id"]
    account.post(f"/v1/models/{again}:train", {"seed": 1})
    account.work()
    assert account.get(f"/v1/models/{again}")["current_version"] == 1


def test_elsewhere_the_owner_deletes_and_confirms(account: Account, theirs: Any) -> None:
    made = taken_in(account, rows_of(filled(theirs)))
    found = erased(account, made, sample_ids=["id-4", "id-9"])
    assert found["status"] == "fulfilled"
    [owed] = [receipt for receipt in found["receipts"] if receipt["subject"] == "source-object"]
    assert (owed["done_at"], owed["due_at"]) == (None, found["due_at"])
    assert "2 objects" in owed["detail"]
    assert ":confirm-objects" in owed["detail"]
    where = f"{REQUESTS}/{found['id']}"
    addresses = [f"s3://faces/people/anna-{row}.png" for row in (4, 9)]
    assert account.get(f"{where}/objects") == {"addresses": addresses}
    problem = is_problem(account.http.post(f"{where}:confirm-objects"), 409, "objects-remain")
    assert problem["objects"] == 2
    for row in (4, 9):
        theirs.delete_object(Bucket="faces", Key=f"people/anna-{row}.png")
    confirmed = account.post(f"{where}:confirm-objects")
    [done] = [receipt for receipt in confirmed["receipts"] if receipt["subject"] == "source-object"]
    assert done["done_at"]
    assert "found none" in done["detail"]
    assert account.get(f"{where}/objects") == {"addresses": []}
    is_problem(account.http.post(f"{where}:confirm-objects"), 409, "no-objects-listed")
    with account.database.read() as session:
        [event] = session.scalars(select(AuditEvent).where(AuditEvent.kind == "request.objects-confirmed"))
        assert event.data["objects"] == 2
        assert event.data["actor"].startswith("key_")
        assert session.scalars(select(OwedObject)).all() == []


@pytest.mark.validation
def test_an_officer_sees_and_confirms_them_in_the_console(account: Account, theirs: Any) -> None:
    made = taken_in(account, rows_of(filled(theirs)))
    at = f"/console/requests/{erased(account, made, sample_ids=['id-4', 'id-9'])['id']}"
    app, database = account.http.app, account.database
    with browser(app, database, "officer") as officer, browser(app, database, "auditor") as auditor:
        page = officer.open(at)
        assert page.has("2 pictures must be deleted where they lie")
        assert page.has("s3://faces/people/anna-9.png")
        assert not auditor.open(at).has("must be deleted where")
        refused = officer.send(page.form(f"{at}/confirm-objects"), 409)
        assert refused.has("still there")
        for row in (4, 9):
            theirs.delete_object(Bucket="faces", Key=f"people/anna-{row}.png")
        done = officer.send(officer.open(at).form(f"{at}/confirm-objects"))
        assert done.has("deleted at their place")
        assert not done.has("must be deleted where")


def test_an_object_that_the_storage_keeps_is_left_to_its_owner(
    account: Account, theirs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator lets the service erase, and the storage does not."""
    from app.blobs.folder import StorageRefusedError
    from app.datasets.objects import Objects

    made = taken_in(account, rows_of(filled(theirs, "kept")))

    def refuse(self: Objects, address: str) -> None:
        raise StorageRefusedError("the object storage answered AccessDenied to DeleteObject")

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "erase", refuse)
        found = erased(account, made, sample_ids=["id-4"])
    [owed] = [receipt for receipt in found["receipts"] if receipt["subject"] == "source-object"]
    assert owed["done_at"] is None
    assert owed["due_at"]
    where = f"{REQUESTS}/{found['id']}"
    # A deleted object whose versions are kept is not gone.
    theirs.delete_object(Bucket="kept", Key="people/anna-4.png")
    is_problem(account.http.post(f"{where}:confirm-objects"), 409, "objects-remain")
    # Nobody can look: the owner's word is taken, and the receipt says so.
    object.__setattr__(account.settings, "objects_endpoint", "http://127.0.0.1:9")
    object.__setattr__(account.settings, "s3_timeout_seconds", 0.2)
    confirmed = account.post(f"{where}:confirm-objects")
    [done] = [receipt for receipt in confirmed["receipts"] if receipt["subject"] == "source-object"]
    assert done["done_at"]
    assert "could not look" in done["detail"]


def test_storage_that_is_away_keeps_no_copy_of_the_service(
    account: Account, theirs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As seen: what the service held itself waited for an owner's storage, for ever, and nobody was told."""
    from app.blobs.folder import StorageUnavailableError
    from app.datasets.objects import Objects

    made = taken_in(account, rows_of(filled(theirs, "kept")))

    def away(self: Objects, address: str) -> None:
        raise StorageUnavailableError("the object storage does not answer")

    def again(hours: float = 0.0) -> None:
        with account.database.write() as session:
            [job] = session.scalars(select(Job).where(Job.kind == "purge", Job.state == "queued"))
            since = datetime.fromisoformat(job.params[REFUSED_SINCE]) - timedelta(hours=hours)
            job.available_at, job.params = db.now(session), {**job.params, REFUSED_SINCE: since.isoformat()}
            job.created_at -= timedelta(hours=2)  # it may have waited long for its turn
        account.work()

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "erase", away)
        found = erased(account, made, sample_ids=["id-4"])
        where = f"{REQUESTS}/{found['id']}"
        assert found["status"] == "published"
        mine = {row["digest"] for row in found["receipts"] if row["digest"]}
        assert mine
        assert not mine & blobs(account.settings)
        again()
        assert account.get(where)["status"] == "published", "it may pass"
        again(hours=1)
        told = account.get(where)
        assert told["status"] == "needs-attention"
        assert "does not answer" in told["reason"]
    again()
    assert account.get(where)["status"] == "fulfilled"


@pytest.mark.validation
def test_deleting_such_a_dataset_leaves_the_objects(account: Account, theirs: Any) -> None:
    made = taken_in(account, rows_of(filled(theirs)))
    assert account.http.delete(f"/v1/datasets/{made}").status_code == 204
    assert account.get(f"/v1/datasets/{made}")["state"] == "erased"
    assert len(versions(theirs, "faces")) == 20
