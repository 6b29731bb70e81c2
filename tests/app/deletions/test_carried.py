"""Deletions for models whose training data this service does not hold: each brings its own, and nothing is kept."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, text, update

from app import jobs
from app.blobs import usage
from app.blobs.folder import Folder
from app.core import db
from app.core.config import Settings
from app.core.tables import Base, Dataset, Job, JobArtifact, Sample
from app.deletions import carried, erasure, retention
from app.evidence import sealing
from app.jobs import outbox
from app.recovery import backup, erasure_ledger, replay
from tests.app.evidence.test_evidence import verify
from tests.app.formats.archive_cases import png, zipped
from tests.helpers import SAFETENSORS, blobs, counts, digest_of, is_problem
from tests.support import QUICK_MODEL, QUICK_POLICY, Account, Document
from tests.trained import open_account

SHAPE = [8, 8, 1]
POLICY = {**QUICK_POLICY, "remain": "none", "grace_seconds": 0}
IDS = [f"someone-{row:03d}-of-us" for row in range(40)]
HELD = [f"control-{row:03d}-of-us" for row in range(30)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small network that nobody trained: what matters here is where the data go."""
    from app.catalog import SmallCnnParams
    from engine import checkpoints, seeding
    from engine.architectures import small_cnn

    path: Path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    model = seeding.seeded_model(lambda: small_cnn.build(SmallCnnParams(width=8), 1, 10, (8, 8)), 0, "cpu")
    checkpoints.save(model, path, {})
    return path.read_bytes()


def npz(seed: int = 0, ids: list[str] = IDS, held: list[str] = HELD, **changes: Any) -> bytes:
    """Forty samples to forget and thirty controls, of random pixels."""
    random = np.random.default_rng(seed)
    n = len(ids) + len(held)
    arrays = {
        "images": random.integers(0, 256, (n, 8, 8), dtype=np.uint8),
        "labels": np.arange(n) % 10,
        "ids": np.array([*ids, *held]),
        "holdout": np.arange(n) >= len(ids),
    } | changes
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: values for name, values in arrays.items() if values is not None})
    return buffer.getvalue()


def external(account: Account, **params: Any) -> str:
    source = {"name": "external", "params": {"classes": 10, "shape": SHAPE} | params}
    made = account.post("/v1/datasets", {"name": "elsewhere", "source": source})
    assert (made["state"], made["samples"], made["classes"], made["job"]) == ("ready", 0, 10, None)
    return str(made["id"])


def model(account: Account, checkpoint: bytes, **params: Any) -> str:
    """A model on data that are not held, with version 1 imported."""
    body = {"name": "m", "dataset": external(account, **params), **QUICK_MODEL, "policy": POLICY}
    made = account.post("/v1/models", body)["id"]
    imported(account, made, checkpoint)
    return str(made)


def imported(account: Account, made: str, checkpoint: bytes) -> None:
    where = f"/v1/models/{made}/versions"
    account.post(where, {"digest": digest_of(checkpoint), "trained_on": "not-held"}, 201)
    sent = account.http.put(f"{where}/1/checkpoint", content=checkpoint, headers={"Content-Type": SAFETENSORS})
    assert sent.status_code == 202, sent.text
    account.work()
    assert account.get(f"/v1/models/{made}")["current_version"] == 1


def carry(account: Account, model: str, status: int = 202, source: Document | None = None) -> Document:
    body = {"name": "to forget", "source": source or {"name": "upload"}, "carried_for": model}
    return account.post("/v1/datasets", body, status)


def send(account: Account, dataset: str, data: bytes, form: str = "application/x-npz") -> Any:
    return account.http.put(f"/v1/datasets/{dataset}/content", content=data, headers={"Content-Type": form})


def brought(account: Account, model: str, data: bytes | None = None) -> str:
    """A carried dataset, taken in."""
    made = str(carry(account, model)["id"])
    assert send(account, made, data or npz()).status_code == 202
    account.work()
    assert account.get(f"/v1/datasets/{made}")["state"] == "ready"
    return made


def ask(account: Account, dataset: str, status: int = 202, **fields: Any) -> Document:
    return account.post("/v1/deletion-requests", {"dataset": dataset, **fields}, status)


def folder(account: Account) -> Folder:
    return Folder(account.settings.data_dir / "blobs")


def everything(account: Account) -> Iterator[bytes]:
    """Every cell of every table and every stored byte."""
    with account.database.read() as session:
        for name in Base.metadata.tables:
            for row in session.execute(text(f'SELECT * FROM "{name}"')):
                for value in row:
                    yield value if isinstance(value, bytes) else str(value).encode()
    for path in account.settings.data_dir.rglob("*"):
        if path.is_file():
            yield path.read_bytes()


def seal(account: Account) -> int:
    key = sealing.open_key(account.database, account.settings)
    sealed = sealing.seal_due(account.database, key, account.settings.log_name)
    sealing.sequence_waiting(account.database, key, account.settings.log_name)
    return sealed


def test_forty_samples_are_forgotten_and_nothing_of_them_is_kept(account: Account, checkpoint: bytes) -> None:
    made = model(account, checkpoint)
    data = npz()
    arrays = np.load(io.BytesIO(data))
    marks = [name.encode() for name in (*IDS, *HELD)]
    marks += [image.tobytes() for image in arrays["images"]]
    dataset = brought(account, made, data)
    found = account.get(f"/v1/datasets/{dataset}")
    assert (found["samples"], found["train_samples"], found["classes"], found["shape"]) == (70, 40, 10, SHAPE)
    kept_before = b"\n".join(everything(account))
    assert [mark in kept_before for mark in marks] == [True] * len(marks), "the search finds what is there"

    preview = ask(account, dataset, 200, validate_only=True)
    assert (preview["samples"], preview["models"]) == (40, [made])
    request = ask(account, dataset)
    assert (request["samples"], request["dataset"], request["model"]) == (40, dataset, None)
    jobs = account.get("/v1/jobs", kind="unlearn")["items"]
    assert [(job["dataset"], job["model"]) for job in jobs] == [(dataset, made)]
    account.work()
    request = account.get(f"/v1/deletion-requests/{request['id']}")
    assert request["status"] == "fulfilled", request
    assert [(o["model"], o["version"], o["state"]) for o in request["outcomes"]] == [(made, 2, "purged")]
    with account.database.write() as session:
        session.execute(text("DELETE FROM outbox"))  # hints that no broker asked for
    assert retention.purge_due_versions(account.database, folder(account)) == 1

    request = account.get(f"/v1/deletion-requests/{request['id']}")
    subjects = sorted(receipt["subject"] for receipt in request["receipts"])
    assert subjects == ["adversarial-artifact", "carried-data", "database", "superseded-checkpoint"]
    assert all(receipt["done_at"] for receipt in request["receipts"] if receipt["subject"] != "database")
    (data_receipt,) = [r for r in request["receipts"] if r["subject"] == "carried-data"]
    assert "40 samples and 30 controls" in data_receipt["detail"]
    version = account.get(f"/v1/models/{made}/versions/2")
    assert (version["state"], version["trained_samples"], version["origin"]) == ("current", None, "unlearned")
    assert blobs(account.settings) == {version["digest"]}, "the new checkpoint, and nothing else"
    with account.database.read() as session:
        assert session.scalars(select(Sample)).all() == []
    kept = b"\n".join(everything(account))
    assert [mark for mark in marks if mark in kept] == []
    found = account.get(f"/v1/datasets/{dataset}")
    assert (found["state"], found["erased_samples"], found["class_names"]) == ("erased", 70, None)
    assert account.get(f"/v1/datasets/{dataset}/samples")["items"] == []


@pytest.mark.validation
def test_what_report_certificate_and_register_say_of_it(account: Account, checkpoint: bytes, tmp_path: Path) -> None:
    made = model(account, checkpoint)
    request = ask(account, brought(account, made))
    account.work()
    where = f"/v1/models/{made}/versions/2/audit"
    report = account.get(where)["report"]
    assert (report["forget_samples"], report["retain_samples"], report["test_samples"]) == (40, 0, 30)
    assert report["remain_access"] == "none"
    assert report["candidate"]["accuracy_retain"] is None
    assert (report["judgement"]["verdict"], report["judgement"]["reason"]) == ("inconclusive", "no references")
    assert any("retained" in line for line in report["not_shown"]), report["not_shown"]
    page = account.http.get(where, headers={"Accept": "text/html"}).text
    assert "0 kept samples" not in page
    assert "not held" in page

    assert seal(account) == 1
    envelope = account.get(f"/v1/deletion-requests/{request['id']}/certificate")
    (tmp_path / "membership.json").write_text(
        json.dumps({"salt": account.get(f"/v1/deletion-requests/{request['id']}/opening")["salt"], "ids": IDS[:2]})
    )
    done = verify(tmp_path, envelope, account.get("/v1/log/keys"), "--membership", "membership.json")
    assert done.returncode == 0, done.stdout + done.stderr
    predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    assert predicate["dataset"]["digest"] == digest_of(b""), "what is left of what was carried"
    (certified,) = predicate["models"]
    assert (certified["verdict"], certified["remain_access"]) == ("inconclusive", "none")
    assert any("retained" in line for line in certified["audit"]["not_shown"])
    entry = next(e for e in account.get("/v1/compliance/register") if e["request"] == request["id"])
    assert (entry["status"], entry["samples"]) == ("fulfilled", 40)


@pytest.mark.validation
def test_a_second_request_starts_from_the_first_ones_version(account: Account, checkpoint: bytes) -> None:
    made = model(account, checkpoint)
    first, second = brought(account, made), brought(account, made, npz(1, [f"b{i}" for i in range(12)], ["c"]))
    requests = [ask(account, first), ask(account, second)]
    account.work()
    versions = {v["number"]: v["parent"] for v in account.get(f"/v1/models/{made}/versions")["items"]}
    assert versions == {1: None, 2: 1, 3: 2}
    for request in requests:
        assert account.get(f"/v1/deletion-requests/{request['id']}")["status"] == "fulfilled"
    response = account.http.post(f"/v1/models/{made}/versions/2:promote")
    is_problem(response, 409, "contains-erased")


@pytest.mark.validation
def test_a_carried_dataset_is_asked_for_whole_once_and_by_itself(account: Account, checkpoint: bytes) -> None:
    made = model(account, checkpoint)
    dataset = str(carry(account, made)["id"])
    ask(account, dataset, 409)  # nothing has been sent
    send(account, dataset, npz())
    account.work()
    for fields in ({"sample_ids": IDS[:2]}, {"subjects": ["x"]}, {"model": made}):
        response = account.http.post("/v1/deletion-requests", json={"dataset": dataset, **fields})
        is_problem(response, 422, "carried-dataset")
    ask(account, dataset)
    is_problem(account.http.post("/v1/deletion-requests", json={"dataset": dataset}), 409, "sample-requested")
    account.work()
    is_problem(account.http.post("/v1/deletion-requests", json={"dataset": dataset}), 410, "dataset-erased")
    is_problem(send(account, dataset, npz()), 410, "dataset-erased")
    other = account.digits()["id"]
    is_problem(account.http.post("/v1/deletion-requests", json={"dataset": other}), 422, "samples-missing")


@pytest.mark.validation
def test_without_a_version_there_is_nothing_to_forget_from(account: Account) -> None:
    body = {"name": "m", "dataset": external(account), **QUICK_MODEL, "policy": POLICY}
    made = str(account.post("/v1/models", body)["id"])
    dataset = brought(account, made)
    is_problem(account.http.post("/v1/deletion-requests", json={"dataset": dataset}), 409, "no-version")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"remain": "full"}, "remain"),
        ({"remain": "subsample"}, "remain"),
        ({"remain": "full", "method": {"name": "retrain"}}, "remain"),
        ({"when": {"mode": "batch"}}, "batch"),
        ({"adversarial": "precomputed"}, "precomputed"),
        ({"attack": {"name": "transfer"}}, "transfer"),
        ({"canaries": 1}, "canaries"),
    ],
)
@pytest.mark.validation
def test_a_policy_that_needs_data_is_refused_with_the_reason(account: Account, change: Document, word: str) -> None:
    dataset = external(account)
    body = {"name": "m", "dataset": dataset, **QUICK_MODEL, "policy": POLICY | change}
    found = is_problem(account.http.post("/v1/models", json=body), 422, "data-not-held")
    assert word in found["detail"]
    made = account.post("/v1/models", body | {"policy": POLICY})["id"]
    is_problem(account.http.put(f"/v1/models/{made}/policy", json=POLICY | change), 422, "data-not-held")


@pytest.mark.validation
def test_registration_says_what_this_setting_cannot_give(account: Account) -> None:
    body = {"name": "m", "dataset": external(account), **QUICK_MODEL, "policy": POLICY}
    made = account.post("/v1/models", body)
    said = " ".join(made["notes"])
    assert "no last step" in said
    assert "no references" in said
    for verb in ("train", "references", "precompute"):
        is_problem(account.http.post(f"/v1/models/{made['id']}:{verb}", json={}), 409, "data-not-held")


@pytest.mark.validation
def test_what_a_checkpoint_was_trained_on_is_said_as_it_is(account: Account) -> None:
    body = {"name": "m", "dataset": external(account), **QUICK_MODEL, "policy": POLICY}
    elsewhere = account.post("/v1/models", body)["id"]
    here = account.post("/v1/models", {"name": "m", "dataset": account.digits()["id"], **QUICK_MODEL})["id"]
    digest = "sha256:" + "0" * 64
    for made, said in ((elsewhere, "train-split"), (elsewhere, ["a"]), (here, "not-held")):
        response = account.http.post(f"/v1/models/{made}/versions", json={"digest": digest, "trained_on": said})
        assert response.status_code == 422, response.text


@pytest.mark.validation
def test_what_cannot_be_carried(account: Account, checkpoint: bytes) -> None:
    made = model(account, checkpoint)
    here = account.post("/v1/models", {"name": "m", "dataset": account.digits()["id"], **QUICK_MODEL})["id"]
    assert "data-held" in carry(account, here, 409)["type"]
    carry(account, "mdl_" + "0" * 26, 404)
    carry(account, made, 422, {"name": "digits"})
    carry(account, made, 422, {"name": "upload", "params": {"class_names": ["a", "b"]}})
    dataset = brought(account, made)
    body = {"name": "m", "dataset": dataset, **QUICK_MODEL, "policy": POLICY}
    is_problem(account.http.post("/v1/models", json=body), 409, "carried-dataset")


@pytest.mark.validation
def test_other_classes_or_another_shape_than_the_model_knows(account: Account, checkpoint: bytes) -> None:
    made = model(account, checkpoint)
    dataset = str(carry(account, made)["id"])
    labels = np.arange(70) % 11
    is_problem(send(account, dataset, npz(labels=labels)), 422, "dataset-content")
    assert send(account, dataset, npz(images=np.zeros((70, 8, 9), np.uint8))).status_code == 202
    account.work()
    found = account.get(f"/v1/datasets/{dataset}")
    assert found["state"] == "failed"
    assert found["problem"]["detail"] == "70 images are not of the dataset's shape [8, 8, 1]"
    assert found["problem"]["errors"][0]["detail"] == "row 0: the image has 8 x 9 pixels"


@pytest.mark.validation
def test_folders_are_labels_by_the_names_that_the_model_knows(account: Account, checkpoint: bytes) -> None:
    names = [f"class-{9 - label}" for label in range(10)]
    made = model(account, checkpoint, class_names=names)
    members = {"train/class-0/x.png": png(1), "train/class-8/y.png": png(2), "holdout/class-9/z.png": png(3)}
    dataset = str(carry(account, made)["id"])
    assert send(account, dataset, zipped(members), "application/zip").status_code == 202
    account.work()
    with account.database.read() as session:
        rows = session.execute(select(Sample.label, Sample.holdout).order_by(Sample.position))
        assert [tuple(row) for row in rows] == [(9, False), (1, False), (0, True)]
    unnamed = model(account, checkpoint)
    dataset = str(carry(account, unnamed)["id"])
    is_problem(send(account, dataset, zipped(members), "application/zip"), 422, "dataset-content")
    by_number = {"train/7/x.png": png(1), "train/0/y.png": png(2)}
    assert send(account, dataset, zipped(by_number), "application/zip").status_code == 202
    account.work()
    found = account.get(f"/v1/datasets/{dataset}")
    assert (found["classes"], found["train_samples"]) == (10, 2), "nothing is put aside as holdout"


def later(account: Account, dataset: str) -> None:
    with account.database.write() as session:
        past = db.now(session) - carried.LIFE - timedelta(seconds=1)
        session.execute(update(Dataset).where(Dataset.id == dataset).values(created_at=past))


def sweep(account: Account) -> int:
    found = carried.expire(account.database)
    outbox.relay_blobs(account.database, lambda digest: usage.remove(account.database, folder(account), digest))
    return found


def test_what_no_request_has_taken_goes_after_a_day(account: Account, checkpoint: bytes) -> None:
    made = model(account, checkpoint)
    before = blobs(account.settings)
    dataset = brought(account, made)
    assert account.get(f"/v1/datasets/{dataset}")["expires_at"] is not None
    assert sweep(account) == 0
    later(account, dataset)
    assert sweep(account) == 1
    assert sweep(account) == 0
    assert blobs(account.settings) == before
    found = account.get(f"/v1/datasets/{dataset}")
    assert (found["state"], found["expires_at"]) == ("erased", None)
    assert not any(IDS[0].encode() in kept for kept in everything(account))


@pytest.mark.validation
def test_what_a_request_has_taken_waits_for_it_and_goes_when_it_is_cancelled(
    account: Account, checkpoint: bytes
) -> None:
    made = model(account, checkpoint)
    dataset = brought(account, made)
    request = ask(account, dataset)
    assert account.get(f"/v1/datasets/{dataset}")["expires_at"] is None
    account.post(f"/v1/deletion-requests/{request['id']}:hold", {"reason": "a court asked"})
    later(account, dataset)
    assert sweep(account) == 0
    account.post(f"/v1/deletion-requests/{request['id']}:cancel", {"reason": "they changed their mind"})
    assert sweep(account) == 1
    assert account.get(f"/v1/models/{made}")["current_version"] == 1


@pytest.mark.validation
def test_what_a_job_stored_that_failed_goes_with_the_carried_data(
    account: Account, checkpoint: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adversarial neighbours differ from the samples by little."""
    from worker.jobs import unlearn
    from worker.runtime.run import JobError

    def fails(*_: Any) -> Any:
        raise JobError("stopped", "by the test")

    monkeypatch.setattr(unlearn, "finetune", fails)
    made = model(account, checkpoint)
    before = blobs(account.settings)
    dataset = brought(account, made)
    request = ask(account, dataset)
    account.work()
    job = request["outcomes"][0]["job"]
    account.post(f"/v1/deletion-requests/{request['id']}:cancel", {"reason": "they changed their mind"})
    usage.remove_leftovers(account.database, folder(account))
    with account.database.read() as session:
        assert [row.name for row in session.scalars(select(JobArtifact))] == ["adversarial"]
    later(account, dataset)
    assert sweep(account) == 1
    with account.database.read() as session:
        assert session.scalars(select(JobArtifact)).all() == []
    assert blobs(account.settings) == before
    is_problem(account.http.post(f"/v1/jobs/{job}:retry"), 409, "content-missing")
    assert account.get(f"/v1/jobs/{job}")["state"] == "failed"


def test_content_that_is_being_taken_in_is_not_swept(account: Account, checkpoint: bytes) -> None:
    made = model(account, checkpoint)
    dataset = str(carry(account, made)["id"])
    send(account, dataset, npz())
    claim = jobs.claim(account.database, "another worker", 60.0)
    later(account, dataset)
    assert sweep(account) == 0
    assert claim is not None
    jobs.release(account.database, "another worker", "stopped")
    assert sweep(account) == 1


@pytest.mark.validation
def test_content_that_no_worker_takes_in_goes_all_the_same(account: Account, checkpoint: bytes) -> None:
    made = model(account, checkpoint)
    before = blobs(account.settings)
    dataset = str(carry(account, made)["id"])
    job = send(account, dataset, npz()).json()["job"]
    later(account, dataset)
    assert sweep(account) == 1
    assert blobs(account.settings) == before
    assert account.get(f"/v1/datasets/{dataset}")["state"] == "erased"
    assert account.get(f"/v1/jobs/{job}")["state"] == "cancelled"
    is_problem(account.http.post(f"/v1/jobs/{job}:retry"), 409, "content-missing")
    account.work()
    assert account.get(f"/v1/datasets/{dataset}")["state"] == "erased"


def test_a_model_that_is_purged_meanwhile_takes_the_carried_data_with_it(account: Account, checkpoint: bytes) -> None:
    made = model(account, checkpoint)
    dataset = brought(account, made)
    request = ask(account, dataset)
    account.post(f"/v1/models/{made}:purge")
    account.work()
    assert account.get(f"/v1/deletion-requests/{request['id']}")["status"] == "fulfilled"
    assert account.get(f"/v1/datasets/{dataset}")["state"] == "erased"
    assert (seal(account), seal(account)) == (1, 0)


@pytest.mark.validation
def test_the_bytes_of_a_model_that_was_purged_for_a_request_come_back_nowhere(
    account: Account, checkpoint: bytes
) -> None:
    made = model(account, checkpoint)
    request = ask(account, brought(account, made))
    other = account.post("/v1/models", {"name": "o", "dataset": external(account), **QUICK_MODEL, "policy": POLICY})
    announced = {"digest": digest_of(checkpoint), "trained_on": "not-held"}
    where = f"/v1/models/{other['id']}/versions"
    is_problem(account.http.post(where, json=announced), 409, "trained-on-erased")
    account.post(f"/v1/models/{made}:purge")
    account.work()
    assert account.get(f"/v1/deletion-requests/{request['id']}")["status"] == "fulfilled"
    is_problem(account.http.post(where, json=announced), 409, "trained-on-erased")


@pytest.mark.validation
def test_a_crash_between_swap_and_removal_is_repaired(
    account: Account, checkpoint: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model(account, checkpoint)
    dataset = brought(account, made)
    request = ask(account, dataset)

    def fails(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(erasure, "remove_owed", fails)
        account.work()
    assert account.get(f"/v1/deletion-requests/{request['id']}")["status"] == "needs-attention"
    with account.database.read() as session:
        job = session.scalars(select(Job.id).where(Job.kind == "purge")).one()
    account.post(f"/v1/jobs/{job}:retry")
    account.work()
    found = account.get(f"/v1/deletion-requests/{request['id']}")
    assert found["status"] == "fulfilled"
    assert len([r for r in found["receipts"] if r["subject"] == "carried-data"]) == 1
    assert not any(IDS[0].encode() in kept for kept in everything(account))


@pytest.mark.validation
def test_another_tenant_sees_and_carries_nothing(account: Account, checkpoint: bytes) -> None:
    from tests.helpers import as_other

    made = model(account, checkpoint)
    dataset = brought(account, made)
    before = counts(account.database)
    other = as_other(account)
    body = {"name": "x", "source": {"name": "upload"}, "carried_for": made}
    is_problem(account.http.post("/v1/datasets", json=body, headers=other), 404, "not-found")
    response = account.http.post("/v1/deletion-requests", json={"dataset": dataset}, headers=other)
    is_problem(response, 404, "not-found")
    after = counts(account.database)
    assert {name for name in before if before[name] != after[name]} <= {"tenants", "api_keys"}


def test_a_restored_backup_that_still_has_the_data_forgets_them_again(tmp_path: Path, checkpoint: bytes) -> None:
    """On SQLite, as in test_replay.py: the request, its dates, and the checkpoint withheld until it is carried out."""
    kept, copy = tmp_path / "ledger.jsonl", tmp_path / "backup"
    with open_account(Settings(data_dir=tmp_path / "data")) as account:
        made = model(account, checkpoint)
        dataset = brought(account, made)
        backup.take(account.settings, copy)
        request = ask(account, dataset)
        account.work()
        assert account.get(f"/v1/deletion-requests/{request['id']}")["status"] == "fulfilled"
        assert erasure_ledger.Keeper(account.database, account.settings, kept).keep() == 1
    with open_account(Settings(data_dir=copy)) as account:
        assert replay.replay(account.database, account.settings, kept).asked_again == 1
        is_problem(account.http.get(f"/v1/models/{made}/versions/1/checkpoint"), 409, "version-withheld")
        account.work()
        found = account.get(f"/v1/deletion-requests/{request['id']}")
        assert (found["status"], found["due_at"]) == ("fulfilled", request["due_at"])
        assert account.get(f"/v1/datasets/{dataset}")["state"] == "erased"
        is_problem(account.http.get(f"/v1/models/{made}/versions/1/checkpoint"), 409, "version-withheld")
        assert account.http.get(f"/v1/models/{made}/versions/2/checkpoint").status_code == 200


@pytest.mark.parametrize("taken_in", [False, True])
def test_a_restored_backup_without_the_data_withholds_the_model_until_they_come_again(
    tmp_path: Path, checkpoint: bytes, taken_in: bool
) -> None:
    """Not even registered in the backup, or registered and not sent."""
    kept, copy = tmp_path / "ledger.jsonl", tmp_path / "backup"
    with open_account(Settings(data_dir=tmp_path / "data")) as account:
        made = model(account, checkpoint)
        dataset = str(carry(account, made)["id"]) if taken_in else ""
        backup.take(account.settings, copy)
        if taken_in:
            assert send(account, dataset, npz()).status_code == 202
            account.work()
        else:
            dataset = brought(account, made)
        request = ask(account, dataset)["id"]
        account.work()
        assert erasure_ledger.Keeper(account.database, account.settings, kept).keep() == 1
    where = f"/v1/models/{made}/versions"
    with open_account(Settings(data_dir=copy)) as account:
        for _ in range(2):
            done = replay.replay(account.database, account.settings, kept)
            assert (done.waiting, done.complete, done.withheld) == (1, False, [made])
            assert done.todo == [f"{request} carried its samples: send them again, for {made}"]
            is_problem(account.http.get(f"{where}/1/checkpoint"), 409, "version-withheld")
        again = ask(account, brought(account, made))["id"]
        is_problem(account.http.get(f"{where}/1/checkpoint"), 409, "version-withheld")
        account.work()
        assert account.get(f"/v1/deletion-requests/{again}")["status"] == "fulfilled"
        assert account.http.get(f"{where}/2/checkpoint").status_code == 200
        is_problem(account.http.get(f"{where}/1/checkpoint"), 409, "version-withheld")
        done = replay.replay(account.database, account.settings, kept)
        assert (done.gone, done.complete, done.withheld) == (1, True, [])
        assert account.http.get(f"{where}/2/checkpoint").status_code == 200


def test_a_carried_erasure_that_is_refused_after_a_restore_is_told_and_withholds_the_model(
    tmp_path: Path, checkpoint: bytes
) -> None:
    """The backup is of a moment before the model had a version."""
    kept, copy = tmp_path / "ledger.jsonl", tmp_path / "backup"
    with open_account(Settings(data_dir=tmp_path / "data")) as account:
        body = {"name": "m", "dataset": external(account), **QUICK_MODEL, "policy": POLICY}
        made = account.post("/v1/models", body)["id"]
        dataset = brought(account, made)
        backup.take(account.settings, copy)
        where = f"/v1/models/{made}/versions"
        imported(account, made, checkpoint)
        request = ask(account, dataset)["id"]
        account.work()
        assert erasure_ledger.Keeper(account.database, account.settings, kept).keep() == 1
    with open_account(Settings(data_dir=copy)) as account:
        done = replay.replay(account.database, account.settings, kept)
        assert (done.failed, done.complete, done.withheld) == (1, False, [made])
        assert done.todo[0] == f"{request} was refused: The model has no current version."
        imported(account, made, checkpoint)
        is_problem(account.http.get(f"{where}/1/checkpoint"), 409, "version-withheld")
        assert replay.replay(account.database, account.settings, kept).asked_again == 1
        is_problem(account.http.get(f"{where}/1/checkpoint"), 409, "version-withheld")
        account.work()
        assert account.http.get(f"{where}/2/checkpoint").status_code == 200
