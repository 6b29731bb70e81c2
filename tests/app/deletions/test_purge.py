"""What a fulfilled request leaves behind: nothing of the samples, and a receipt or a date for everything."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from sqlalchemy import select, update

from app import jobs
from app.blobs import usage
from app.blobs.folder import Folder, StorageRefusedError
from app.core import db
from app.core.positions import unpack
from app.core.tables import (
    AdversarialRow,
    Commitment,
    Dataset,
    Job,
    JobArtifact,
    Model,
    Receipt,
    ReferenceRow,
    Sample,
    Version,
)
from app.deletions import erasure, retention
from app.jobs.routing import Takes
from app.rules.states import JobKind
from tests.helpers import blobs, is_problem
from tests.support import Document
from tests.trained import Trained


def open_blobs(trained: Trained) -> Folder:
    return Folder(trained.account.settings.data_dir / "blobs")


def grace(trained: Trained, seconds: int, **changes: Any) -> None:
    """Change the model's policy behind the API."""
    with trained.account.database.write() as session:
        model = session.get_one(Model, trained.model)
        model.policy = {**model.policy, "grace_seconds": seconds, **changes}


def positions_of(trained: Trained, ids: list[str]) -> list[int]:
    with trained.account.database.read() as session:
        query = select(Sample.position).where(Sample.dataset_id == trained.dataset, Sample.sample_id.in_(ids))
        return sorted(session.scalars(query))


def file_of(trained: Trained, digest: str | None) -> Path:
    assert digest is not None
    return open_blobs(trained).fetch(digest)


def purge_due(trained: Trained) -> int:
    return retention.purge_due_versions(trained.account.database, open_blobs(trained))


def receipts(document: Document, subject: str) -> list[Document]:
    return [receipt for receipt in document["receipts"] if receipt["subject"] == subject]


def test_nothing_of_the_samples_is_left(trained: Trained) -> None:
    account, ids = trained.account, trained.ids[3:60:7]
    grace(trained, 0)
    account.post(f"{trained.where}:precompute", {})
    account.work()
    where = positions_of(trained, ids)
    with account.database.read() as session:
        old_images = session.get_one(Dataset, trained.dataset).images
        old_signals = set(session.scalars(select(ReferenceRow.digest)))
        old_covered = set(unpack(session.scalars(select(AdversarialRow)).one().positions))
        labels = dict(session.execute(select(Sample.position, Sample.label)).all())
    before = np.load(file_of(trained, old_images))
    assert before[where].any()

    final = trained.forget(ids)
    assert final["status"] == "fulfilled"
    with account.database.read() as session:
        dataset = session.get_one(Dataset, trained.dataset)
        # The pixels: zero, and every other pixel as it was.
        after = np.load(file_of(trained, dataset.images))
        assert not after[where].any()
        others = np.setdiff1d(np.arange(len(before)), where)
        assert (after[others] == before[others]).all()
        # The ids: overwritten, the others and the labels kept.
        rows = {row.position: row for row in session.scalars(select(Sample))}
        assert all(rows[position].sample_id.startswith("erased:") for position in where)
        assert len({rows[position].sample_id for position in where}) == len(ids)
        assert not [row for row in rows.values() if row.sample_id in ids]
        assert {position: row.label for position, row in rows.items()} == labels
        # The reference signals: their columns are NaN, the others numbers.
        signals = session.scalars(select(ReferenceRow)).all()
        assert len(signals) == 4
        assert old_signals.isdisjoint(signal.digest for signal in signals)
        for signal in signals:
            arrays = load_file(file_of(trained, signal.digest))
            assert np.isnan(arrays["logits"][where]).all()
            assert np.isnan(arrays["log_odds"][where]).all()
            assert np.isfinite(arrays["log_odds"][others]).all()
        # The precomputed adversarial set: without their rows, the others aligned as before.
        kept = session.scalars(select(AdversarialRow)).one()
        assert set(unpack(kept.positions)) == old_covered - set(where)
        assert len(load_file(file_of(trained, kept.digest))["images"]) == len(unpack(kept.positions))
        # What the job had stored on its way.
        names = select(JobArtifact.name).where(JobArtifact.job_id == final["outcomes"][0]["job"])
        assert not session.scalars(names).all()
    assert account.get(f"/v1/datasets/{trained.dataset}")["erased_samples"] == len(ids)

    assert purge_due(trained) == 1
    found = trained.request(final)
    subjects = [receipt["subject"] for receipt in found["receipts"]]
    assert sorted(subjects) == sorted(
        ["sample-bytes", "adversarial-artifact", "precomputed-adversarial", "superseded-checkpoint", "reference-pool"]
        + ["reference-columns"] * 4
        + ["database"]
    )
    left = blobs(account.settings)
    for receipt in found["receipts"]:
        assert receipt["done_at"] or receipt["subject"] in ("reference-pool", "database"), receipt
        assert receipt["digest"] not in left, receipt


def test_a_pool_goes_at_its_date(trained: Trained) -> None:
    trained.forget(trained.ids[:3])
    database = trained.account.database
    assert retention.retire_due_pools(database) == 0
    with database.write() as session:
        past = db.now(session) - timedelta(seconds=1)
        session.execute(update(Receipt).where(Receipt.subject == "reference-pool").values(due_at=past))
    assert retention.retire_due_pools(database) == 4
    with database.read() as session:
        assert not session.scalars(select(ReferenceRow)).all()
    document = trained.account.get("/v1/deletion-requests")["items"][0]
    assert all(receipt["done_at"] for receipt in receipts(document, "reference-pool"))


def test_a_superseded_checkpoint_goes_after_its_grace(trained: Trained) -> None:
    account = trained.account
    old = account.get(f"{trained.where}/versions/1")
    final = trained.forget(trained.ids[:5])
    (dated,) = receipts(final, "superseded-checkpoint")
    assert (dated["digest"], dated["done_at"]) == (old["digest"], None)
    version = account.get(f"{trained.where}/versions/1")
    assert (version["state"], version["purge_after"]) == ("superseded", dated["due_at"])
    assert purge_due(trained) == 0
    where = f"{trained.where}/versions/1/checkpoint"
    is_problem(account.http.get(where), 409, "version-withheld")
    assert account.http.get(where, params={"reason": "to compare"}).status_code == 200

    with account.database.write() as session:
        earlier = select(Version.created_at).where(Version.number == 1).scalar_subquery()
        session.execute(update(Version).where(Version.number == 1).values(purge_after=earlier))
    assert purge_due(trained) == 1
    assert purge_due(trained) == 0
    for method in ("GET", "HEAD"):
        response = account.http.request(method, f"{trained.where}/versions/1/checkpoint")
        assert response.status_code == 410
    response = account.http.get(
        f"{trained.where}/versions/1/checkpoint",
        headers={"If-None-Match": f'"{old["digest"]}"', "Range": "bytes=0-1"},
    )
    assert is_problem(response, 410, "purged")["purged_at"]
    assert old["digest"] not in blobs(account.settings)
    version = account.get(f"{trained.where}/versions/1")
    assert (version["state"], version["digest"]) == ("purged", old["digest"]), "the lineage stays"
    assert account.http.get(f"{trained.where}/versions/2/checkpoint").status_code == 200
    assert receipts(trained.request(final), "superseded-checkpoint")[0]["done_at"]


@pytest.mark.validation
def test_a_grace_that_ends_before_the_purge_begins_has_its_receipt_all_the_same(trained: Trained) -> None:
    from worker.run_one import run_one

    grace(trained, 0)
    made = trained.delete(trained.ids[:5])
    assert run_one(trained.account.resources, "tester")  # the unlearn job; its purge is queued
    assert purge_due(trained) == 1
    trained.account.work()
    (dated,) = receipts(trained.request(made), "superseded-checkpoint")
    assert dated["done_at"]


@pytest.mark.validation
def test_an_announcement_keeps_no_bytes_alive(trained: Trained) -> None:
    account = trained.account
    digest = account.get(f"{trained.where}/versions/1")["digest"]
    other = account.model(trained.dataset, train=False)["id"]
    account.post(f"/v1/models/{other}/versions", {"digest": digest, "trained_on": "train-split"})
    grace(trained, 0)
    final = trained.forget(trained.ids[:5])
    assert purge_due(trained) == 1
    assert digest not in blobs(account.settings)
    assert receipts(trained.request(final), "superseded-checkpoint")[0]["done_at"]


@pytest.mark.validation
def test_bytes_that_another_object_holds_too_stay_and_the_receipt_says_so(trained: Trained) -> None:
    account = trained.account
    twin = account.digits()
    assert twin["id"] != trained.dataset
    final = trained.forget(trained.ids[:5])
    (receipt,) = receipts(final, "sample-bytes")
    assert receipt["digest"] in blobs(account.settings)
    assert "another object holds the same bytes" in receipt["detail"]
    assert len(account.training_ids(twin["id"])) == len(trained.ids)


def test_the_second_request_keeps_the_first_ones_samples_out(trained: Trained) -> None:
    account, first, second = trained.account, trained.ids[:10], trained.ids[10:30]
    trained.forget(first)
    trained.forget(second)
    version = account.get(f"{trained.where}/versions/3")
    assert version["trained_samples"] == len(trained.ids) - 30
    report = account.get(f"{trained.where}/versions/3/audit")["report"]
    assert (report["forget_samples"], report["retain_samples"]) == (20, len(trained.ids) - 30)
    with account.database.read() as session:
        row = session.scalars(select(Version).where(Version.number == 3)).one()
        trained_on = np.unpackbits(np.frombuffer(row.trained_on, np.uint8)).nonzero()[0]
        erased = select(Sample.position).where(Sample.sample_id.startswith("erased:"))
        assert set(trained_on).isdisjoint(session.scalars(erased))


def test_a_purge_that_dies_between_its_two_steps_is_repaired_by_running_it_again(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.jobs import LeaseLostError
    from worker.run_one import run_one

    made = trained.delete(trained.ids[:5])
    assert run_one(trained.account.resources, "tester")

    def dies(*_: object) -> None:
        raise LeaseLostError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr(erasure, "complete", dies)
        assert run_one(trained.account.resources, "tester")
    assert trained.request(made)["status"] == "published"
    assert jobs.release(trained.account.database, "tester", "it is gone") == 1
    trained.account.work()
    final = trained.request(made)
    assert final["status"] == "fulfilled"
    subjects = [receipt["subject"] for receipt in final["receipts"]]
    assert len(subjects) - subjects.count("reference-columns") == len(set(subjects) - {"reference-columns"})
    assert subjects.count("reference-columns") == 4


def test_signals_that_are_stored_while_a_purge_rewrites_are_not_forgotten(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference that arrives between the plan and the swap still holds the samples' columns."""
    from worker.run_one import run_one

    made = trained.delete(trained.ids[:5])
    assert run_one(trained.account.resources, "tester")
    swap = erasure.swap

    def late(session: Any, *rest: Any) -> None:
        with trained.account.database.read() as reading:
            row = reading.scalars(select(ReferenceRow).limit(1)).one()
        values = {column.name: getattr(row, column.name) for column in ReferenceRow.__table__.columns}
        session.add(ReferenceRow(**values | {"pool": "late"}))
        session.flush()
        swap(session, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(erasure, "swap", late)
        run_one(trained.account.resources, "tester")
    found = trained.request(made)
    assert found["status"] == "published", "it must start again, not end"
    jobs.release(trained.account.database, "tester", "start again")
    trained.account.work()
    assert trained.request(made)["status"] == "fulfilled"


@pytest.mark.validation
def test_a_comparison_of_another_request_is_purged_once_its_samples_are_erased(trained: Trained) -> None:
    account = trained.account
    grace(trained, 0)
    first = trained.delete(trained.ids[:5])
    account.post(f"{trained.where}:train", {"exclude_request": first["id"], "compare_only": True})
    account.work()
    comparison = next(v for v in account.get(f"{trained.where}/versions")["items"] if v["origin"] == "comparison")
    where = f"{trained.where}/versions/{comparison['number']}"
    assert account.http.get(f"{where}/checkpoint").status_code == 200
    final = trained.forget(trained.ids[5:10])  # which the comparison was trained on
    purge_due(trained)
    assert account.get(where)["state"] == "purged"
    assert comparison["digest"] not in blobs(account.settings)
    assert comparison["digest"] in {r["digest"] for r in trained.request(final)["receipts"]}


@pytest.mark.validation
def test_a_purge_cannot_be_cancelled(trained: Trained) -> None:
    from worker.run_one import run_one

    made = trained.delete(trained.ids[:5])
    assert run_one(trained.account.resources, "tester")
    job = trained.account.get("/v1/jobs", kind="purge")["items"][0]
    is_problem(trained.account.http.post(f"/v1/jobs/{job['id']}:cancel"), 409, "conflict")
    trained.account.work()
    assert trained.request(made)["status"] == "fulfilled"


@pytest.mark.validation
def test_a_purge_that_was_given_up_needs_attention_until_it_is_tried_again(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.run_one import run_one

    made = trained.delete(trained.ids[:5])
    assert run_one(trained.account.resources, "tester")

    def fails(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(erasure, "swap", fails)
        trained.account.work()
    job = trained.account.get("/v1/jobs", kind="purge")["items"][0]
    assert (job["state"], job["attempts"]) == ("dead", 3)
    assert trained.request(made)["status"] == "needs-attention"
    trained.account.post(f"/v1/jobs/{job['id']}:retry")
    assert trained.request(made)["status"] == "published"
    trained.account.work()
    assert trained.request(made)["status"] == "fulfilled"


@pytest.mark.validation
def test_orphans_and_leftovers_are_swept_and_nothing_that_is_used(trained: Trained) -> None:
    account, folder = trained.account, open_blobs(trained)
    usage.remove_leftovers(account.database, folder)
    usage.remove_orphans(account.database, folder, -60.0)
    kept = blobs(account.settings)
    orphan = folder.put(b"left by a crash").digest
    assert usage.remove_orphans(account.database, folder, 3600.0) == 0, "it is young"
    assert usage.remove_orphans(account.database, folder, -60.0) == 1
    assert blobs(account.settings) == kept
    assert orphan not in kept
    assert trained.forget(trained.ids[:5])["status"] == "fulfilled"


class Locked(Folder):
    """Refuses to delete some bytes, as an object storage does while an object is locked."""

    locked: frozenset[str] = frozenset()

    def delete(self, digest: str) -> bool:
        if digest in self.locked:
            raise StorageRefusedError("the object storage answered AccessDenied: the object is locked")
        return super().delete(digest)


def test_a_checkpoint_that_its_storage_locks_keeps_no_other(trained: Trained, caplog: pytest.LogCaptureFixture) -> None:
    account = trained.account
    for model in (trained.model, account.model(trained.dataset, train=False)["id"]):
        account.post(f"/v1/models/{model}:train", {"seed": 5 + len(model), "promote": True})
        account.work()
    account.post(f"{trained.where}:train", {"seed": 9, "promote": True})
    account.work()
    with account.database.write() as session:
        rows = session.scalars(select(Version).where(Version.state == "superseded").order_by(Version.number)).all()
        for row in rows:
            row.purge_after = db.now(session) - timedelta(seconds=1)
    assert len(rows) == 2
    folder = Locked(account.settings.data_dir / "blobs")
    folder.locked = frozenset([rows[0].digest])
    assert [retention.purge_due_versions(account.database, folder) for _ in range(2)] == [1, 0]
    assert "a superseded checkpoint could not be removed" in caplog.text
    with account.database.read() as session:
        assert [session.get_one(Version, row.id).state for row in rows] == ["superseded", "purged"]
    assert retention.purge_due_versions(account.database, open_blobs(trained)) == 1


def test_a_purge_erases_what_it_can_and_says_what_stays(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    account = trained.account
    with account.database.read() as session:
        images = session.get_one(Dataset, trained.dataset).images
    real = Folder.delete

    def delete(self: Folder, digest: str) -> bool:
        if digest == images:
            raise StorageRefusedError("the object storage answered AccessDenied: the object is locked")
        return real(self, digest)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "delete", delete)
        assert trained.forget(trained.ids[:3])["status"] == "published", "it may pass"
        with account.database.write() as session:
            [waiting] = session.scalars(select(Job).where(Job.state == "queued"))
            waiting.available_at = db.now(session)
        account.work()
    found = account.get("/v1/deletion-requests")["items"][0]
    assert found["status"] == "needs-attention"
    (job,) = account.get("/v1/jobs", kind="purge", state="queued")["items"]
    assert job["problem"]["type"].endswith("/storage-refused")
    assert f"the purge job {job['id']} is tried again and again: the object storage answered" in found["reason"]
    listed = account.http.get("/v1/deletion-requests?status=needs-attention").json()["items"]
    assert [each["id"] for each in listed] == [found["id"]]
    assert account.get("/v1/compliance/summary")["by_status"]["needs-attention"] == 1
    (stays,) = [row for row in found["receipts"] if row["digest"] == images]
    assert "it is still there: the object storage answered AccessDenied" in stays["detail"]
    assert {row["digest"] for row in found["receipts"] if not row["due_at"]} & blobs(account.settings) == {images}
    with account.database.write() as session:
        session.execute(update(Job).where(Job.state == "queued").values(available_at=db.now(session)))
    account.work()
    done = trained.request(found)
    assert done["status"] == "fulfilled"
    assert not [row for row in done["receipts"] if "still there" in row["detail"]]


@pytest.mark.validation
def test_a_look_for_orphans_takes_no_turn_from_writers(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    account, folder = trained.account, open_blobs(trained)
    usage.remove_orphans(account.database, folder, -60.0)
    monkeypatch.setattr(account.database, "write", None)
    assert usage.remove_orphans(account.database, folder, -60.0) == 0


# -- requests whose purges wait together -----------------------------------------------------------


def receipts_of(trained: Trained, made: Document) -> Counter[str]:
    return Counter(receipt["subject"] for receipt in trained.request(made)["receipts"])


def test_purges_that_wait_together_rewrite_the_dataset_once(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.jobs import purge
    from worker.run_one import run_one

    rewritten: list[int] = []
    real = purge._without_columns

    def counted(run: Any, digest: str, positions: Any) -> str:
        rewritten.append(len(positions))
        return real(run, digest, positions)

    monkeypatch.setattr(purge, "_without_columns", counted)
    account, parts = trained.account, [trained.ids[:3], trained.ids[3:7], trained.ids[7:9]]
    grace(trained, 7 * 86400, when={"mode": "batch", "max_requests": len(parts)})
    made = [trained.delete(ids) for ids in parts]
    assert run_one(account.resources, "tester"), "one job for all of them"
    assert [trained.request(each)["status"] for each in made] == ["published"] * 3
    assert run_one(account.resources, "tester")
    assert [trained.request(each)["status"] for each in made] == ["fulfilled", "published", "published"]
    account.work()
    assert rewritten == [9] * 4, "four signals, once each, without the samples of all"
    found = [receipts_of(trained, each) for each in made]
    assert found == [found[0]] * 3
    assert (found[0]["sample-bytes"], found[0]["reference-columns"], found[0]["reference-pool"]) == (1, 4, 1)
    for each in made:
        final = trained.request(each)
        assert final["status"] == "fulfilled"
        gone = [receipt["digest"] for receipt in final["receipts"] if receipt["done_at"] and receipt["digest"]]
        assert blobs(account.settings).isdisjoint(gone)
    with account.database.read() as session:
        left = set(session.scalars(select(Sample.sample_id).where(Sample.dataset_id == trained.dataset)))
        assert left.isdisjoint(trained.ids[:9])
        assert len(session.scalars(select(Commitment)).all()) == 3


def test_a_purge_takes_no_samples_along_that_a_comparison_waits_for(trained: Trained) -> None:
    from worker.run_one import run_one

    account = trained.account
    grace(trained, 7 * 86400, when={"mode": "batch", "max_requests": 2})
    first, second = trained.delete(trained.ids[:3]), trained.delete(trained.ids[3:7])
    wanted = {"exclude_request": second["id"], "compare_only": True}
    comparison = account.post(f"{trained.where}:train", wanted)["id"]
    assert run_one(account.resources, "tester")
    with account.database.read() as session:
        [purge] = session.scalars(select(Job.id).where(Job.request_id == first["id"], Job.kind == "purge"))
    assert run_one(account.resources, "tester", hint=purge)
    assert trained.request(first)["status"] == "fulfilled"
    assert trained.request(second)["status"] == "published"
    with account.database.read() as session:
        left = set(session.scalars(select(Sample.sample_id).where(Sample.dataset_id == trained.dataset)))
    assert left.isdisjoint(trained.ids[:3])
    assert left.issuperset(trained.ids[3:7])
    account.work()
    assert account.get(f"/v1/jobs/{comparison}")["state"] == "succeeded"
    assert trained.request(second)["status"] == "fulfilled"


def held_out(trained: Trained) -> list[str]:
    """Ids that no model was trained on: their requests need nothing but a purge."""
    page = trained.account.get(f"/v1/datasets/{trained.dataset}/samples", split="holdout", page_size=10)
    return [item["id"] for item in page["items"]]


def left_of(trained: Trained, ids: list[str]) -> list[str]:
    with trained.account.database.read() as session:
        there = set(session.scalars(select(Sample.sample_id).where(Sample.dataset_id == trained.dataset)))
    return [name for name in ids if name in there]


@pytest.mark.parametrize(("verb", "saved"), [("hold", 3), ("cancel", 3), ("refuse", 1)])
def test_what_is_stopped_while_another_purge_takes_it_along_is_not_erased(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, verb: str, saved: int
) -> None:
    from worker.jobs import purge
    from worker.run_one import run_one

    ids, real, said = held_out(trained), purge._without_pixels, list[int]()
    first, second = trained.delete(ids[:2]), trained.delete(ids[2:5])

    def slow(*given: Any) -> str | None:
        if not said:
            body = {"reason": "asked by a court"} | ({"sample_ids": ids[2:3]} if verb == "refuse" else {})
            where = f"/v1/deletion-requests/{second['id']}:{verb}"
            said.append(trained.account.http.post(where, json=body).status_code)
        return real(*given)

    with monkeypatch.context() as patched:
        patched.setattr(purge, "_without_pixels", slow)
        run_one(trained.account.resources, "tester")
    assert said == [200]
    trained.account.work()
    assert trained.request(first)["status"] == "fulfilled"
    assert left_of(trained, ids[:5]) == ids[2 : 2 + saved]
    with trained.account.database.read() as session:
        pixels = np.load(file_of(trained, session.get_one(Dataset, trained.dataset).images))
    where = positions_of(trained, ids[2 : 2 + saved])
    assert len(where) == saved
    assert all(pixels[position].any() for position in where)


@pytest.mark.parametrize("verb", ["hold", "cancel", "refuse"])
@pytest.mark.validation
def test_what_another_purge_took_along_cannot_be_stopped_any_more(trained: Trained, verb: str) -> None:
    from worker.run_one import run_one

    ids = held_out(trained)
    first, second = trained.delete(ids[:2]), trained.delete(ids[2:5])
    assert run_one(trained.account.resources, "tester")
    assert [trained.request(each)["status"] for each in (first, second)] == ["fulfilled", "published"]
    assert not left_of(trained, ids[:5])
    response = trained.account.http.post(f"/v1/deletion-requests/{second['id']}:{verb}", json={"reason": "too late"})
    is_problem(response, 409, "carried-out")
    trained.account.work()
    assert trained.request(second)["status"] == "fulfilled"


@pytest.mark.validation
def test_a_comparison_that_samples_were_erased_under_leaves_nothing_of_them(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked for after their purges, which therefore do not wait for it."""
    from worker.jobs import audit
    from worker.run_one import run_one

    account, real, purged = trained.account, audit.train_on, list[bool]()
    first, second = trained.delete(trained.ids[:5]), trained.delete(trained.ids[5:10])
    while trained.request(second)["status"] != "published":
        assert run_one(account.resources, "tester")
    wanted = {"exclude_request": first["id"], "compare_only": True}
    comparison = account.post(f"{trained.where}:train", wanted)["id"]

    def slow(*given: Any) -> Any:
        stored = real(*given)
        while not purged or purged[-1]:
            purged.append(run_one(account.resources, "another"))
        return stored

    with monkeypatch.context() as patched:
        patched.setattr(audit, "train_on", slow)
        trainer = replace(account.resources, takes=Takes(kinds=frozenset({JobKind.TRAIN})))
        assert run_one(trainer, "tester")
    assert [trained.request(each)["status"] for each in (first, second)] == ["fulfilled"] * 2
    account.work()
    assert account.get(f"/v1/jobs/{comparison}")["problem"]["type"].endswith("/samples-erased")
    assert not account.get(f"{trained.where}/versions", origin="comparison")["items"]
    usage.remove_leftovers(account.database, open_blobs(trained))
    with account.database.read() as session:
        assert not session.scalars(select(JobArtifact).where(JobArtifact.job_id == comparison)).all()


@pytest.mark.validation
def test_what_a_stopped_job_had_stored_goes_also_where_it_waits_to_go_on(trained: Trained) -> None:
    from worker.run_one import run_one

    account = trained.account
    trained.delete(trained.ids[:5])
    assert run_one(account.resources, "tester")
    later = account.post(f"{trained.where}:references", {"count": 4, "seed": 7})["id"]
    path = account.settings.data_dir / "half"
    path.write_bytes(b"half a reference")
    digest = account.resources.blobs.adopt(path).digest
    with account.database.write() as session:
        facts: Document = {"base": "reference", "size": 16}
        kept = JobArtifact(job_id=later, name="resume", digest=digest, facts=facts, created_at=db.now(session))
        session.add(kept)
        [purge] = session.scalars(select(Job.id).where(Job.kind == "purge"))
    assert run_one(account.resources, "tester", hint=purge)
    assert account.get(f"/v1/jobs/{later}")["state"] == "queued"
    assert digest not in blobs(account.settings)
    account.work()
    assert account.get(f"/v1/jobs/{later}")["state"] == "succeeded"
