"""The erasure ledger: what a line holds, and what is made again on an older state of the database."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from app import jobs
from app.blobs.folder import Folder
from app.cli.main import cli
from app.core import db, logs
from app.core.config import Settings, get_settings
from app.core.errors import Conflict
from app.core.keys import FIRST_TENANT
from app.core.positions import members, unpack
from app.core.tables import Commitment, Dataset, DeletionRequest, Job, Model, Outbox, Sample, Suppression
from app.datasets import records as datasets
from app.deletions import accept
from app.deletions.locking import LockedDatasets
from app.deletions.orders import Order
from app.models import versions
from app.operations import sweeper
from app.recovery import backup, erasure_ledger, replay
from app.recovery.backup import BackupError
from tests.app.datasets.test_suppression import IDS, IMAGES, packed, taken_in
from tests.helpers import is_problem
from tests.support import Account, Document, scratch_database
from tests.trained import Template, Trained, open_account


@pytest.fixture
def trained(tmp_path: Path, template: Callable[[str], Template]) -> Iterator[Trained]:
    """On SQLite, whose backups run as they are; tests/e2e/test_backup.py restores a dump of PostgreSQL too."""
    source = template("sqlite")
    shutil.copytree(source.folder, tmp_path / "data")
    with open_account(Settings(data_dir=tmp_path / "data")) as account:
        yield Trained(account, source.dataset, source.model, source.ids)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def keep(account: Account, path: Path) -> int:
    return erasure_ledger.Keeper(account.database, account.settings, path).keep()


def lines_of(path: Path) -> list[erasure_ledger.Line]:
    return [line for _, line in erasure_ledger.read(path).lines]


@contextmanager
def older(trained: Trained, folder: Path) -> Iterator[Account]:
    """The service as the backup in `folder` has it."""
    with open_account(Settings(data_dir=folder)) as account:
        yield account


def replayed(account: Account, path: Path) -> dict[str, int]:
    """The counts that are not 0."""
    done = vars(replay.replay(account.database, account.settings, path))
    return {name: n for name, n in done.items() if n and isinstance(n, int)}


def here(account: Account, dataset: str) -> set[str]:
    with account.database.read() as session:
        return set(session.scalars(select(Sample.sample_id).where(Sample.dataset_id == dataset)))


# -- the file --------------------------------------------------------------------------------------


def test_a_line_names_no_sample_and_none_is_written_twice(trained: Trained, kept: Path) -> None:
    account, ids = trained.account, trained.ids[:6]
    assert keep(account, kept) == 0
    assert not kept.exists()
    trained.forget(ids[:3])
    trained.delete(ids[3:])
    assert keep(account, kept) == 1
    assert keep(account, kept) == 0
    account.work()
    assert keep(account, kept) == 1
    assert kept.stat().st_mode & 0o777 == 0o600
    text = kept.read_text()
    assert not [sample for sample in ids if sample in text]
    lines = lines_of(kept)
    assert [len(line.samples) for line in lines] == [3, 3]
    assert lines[0].samples != lines[1].samples


def test_a_line_that_a_crash_cut_short_is_written_again(trained: Trained, kept: Path) -> None:
    trained.forget(trained.ids[:2])
    keep(trained.account, kept)
    whole = kept.read_text().splitlines()[0]
    kept.write_text(whole[: len(whole) // 2])
    assert erasure_ledger.read(kept) == erasure_ledger.Contents([], [])
    assert keep(trained.account, kept) == 1
    assert [line.request for line in lines_of(kept)] == [json.loads(whole)["request"]]
    assert keep(trained.account, kept) == 0


def test_a_sweeper_that_starts_again_writes_nothing_twice(
    trained: Trained, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.forget(trained.ids[:2])
    settings = trained.account.settings.model_copy(update={"erasures_file": kept})
    for _ in range(3):
        stop = threading.Event()
        monkeypatch.setattr(sweeper.sealing, "sequence_waiting", lambda *_, stop=stop: stop.set())  # the last duty
        sweeper.run(settings, stop)
        assert len(lines_of(kept)) == 1


def test_only_what_was_fulfilled_lately_is_read_again(trained: Trained, kept: Path) -> None:
    account = trained.account
    keeper = erasure_ledger.Keeper(account.database, account.settings, kept)
    old, new = trained.forget(trained.ids[:2])["id"], trained.forget(trained.ids[2:4])["id"]
    with account.database.write() as session:
        session.get_one(DeletionRequest, old).fulfilled_at -= 2 * erasure_ledger.OVERLAP
    assert (keeper.keep(), keeper.keep()) == (2, 0)
    assert list(keeper._recent) == [new]
    kept.unlink()
    assert keeper.keep() == 0, "neither the file nor the history is looked through again"
    trained.forget(trained.ids[4:6])
    assert keeper.keep() == 1
    assert keep(account, kept) == 2, "a new keeper looks through all"


def test_what_is_fulfilled_after_the_clock_was_set_back_is_kept_too(trained: Trained, kept: Path) -> None:
    keeper = erasure_ledger.Keeper(trained.account.database, trained.account.settings, kept)
    first = trained.forget(trained.ids[:2])
    with trained.account.database.write() as session:
        row = session.get_one(DeletionRequest, first["id"])
        assert row.fulfilled_at is not None
        row.fulfilled_at += timedelta(hours=5)  # the clock was ahead, and has been set right since
    assert keeper.keep() == 1
    trained.forget(trained.ids[2:4])
    assert [keeper.keep(), keeper.keep()] == [1, 0]


def test_a_line_that_was_cut_at_its_very_end_is_kept(trained: Trained, kept: Path) -> None:
    trained.forget(trained.ids[:2])
    keep(trained.account, kept)
    kept.write_bytes(kept.read_bytes().rstrip())
    trained.forget(trained.ids[2:4])
    assert keep(trained.account, kept) == 1
    assert (len(lines_of(kept)), len(erasure_ledger.read(kept).kept), len(kept.read_text().splitlines())) == (2, 2, 4)


def test_lines_that_cannot_be_read_are_told_and_the_others_replayed(
    trained: Trained, kept: Path, snapshot: Path
) -> None:
    take(trained, snapshot)
    for start in (0, 2, 4):
        trained.forget(trained.ids[start : start + 2])
    keep(trained.account, kept)
    first, second, third, _ = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(first + b"{" + second + b"\xff\xfe\n" + third + third[:50])
    assert erasure_ledger.read(kept).damaged == [2, 3]
    with older(trained, snapshot) as account:
        done = replay.replay(account.database, account.settings, kept)
        assert (done.asked_again, done.damaged, done.complete) == (2, 2, False)
        assert done.todo == ["line 2 cannot be read", "line 3 cannot be read"]
    assert keep(trained.account, kept) == 1, "what the damaged line had is written again"


def test_a_backup_is_not_taken_over_something_and_tells_of_missing_bytes(shared: Trained, tmp_path: Path) -> None:
    settings = shared.account.settings
    (tmp_path / "there").mkdir()
    with pytest.raises(BackupError, match="there already"):
        backup.take(settings, tmp_path / "there")
    copy = tmp_path / "copy"
    shutil.copytree(settings.data_dir, copy)
    for path in sorted((copy / "blobs").glob("??/*"))[:1]:
        path.unlink()
    with pytest.raises(BackupError, match=r"1 blobs .* are missing"):
        backup.take(Settings(data_dir=copy), tmp_path / "new")
    assert not list(tmp_path.glob("*new*"))
    for path in sorted((copy / "blobs").glob("??/*"))[:1]:
        path.write_bytes(b"damaged")
    with pytest.raises(BackupError, match=r"damaged|missing"):
        backup.take(Settings(data_dir=copy), tmp_path / "new")


# -- after a restore -------------------------------------------------------------------------------


@pytest.fixture
def snapshot(trained: Trained, tmp_path: Path) -> Path:
    """A backup of the service as it is before anything was asked of it."""
    return tmp_path / "backup"


def take(trained: Trained, folder: Path) -> None:
    backup.take(trained.account.settings, folder)


def test_an_erasure_the_backup_does_not_know_is_asked_for_again_under_its_own_name(
    trained: Trained, kept: Path, snapshot: Path
) -> None:
    take(trained, snapshot)
    made = trained.forget(trained.ids[:4], jurisdiction="gdpr:DE-BY")
    keep(trained.account, kept)
    with older(trained, snapshot) as account:
        assert account.http.get(f"/v1/deletion-requests/{made['id']}").status_code == 404
        assert replayed(account, kept) == {"asked_again": 1}
        found = account.get(f"/v1/deletion-requests/{made['id']}")
        assert found["status"] == "processing"
        for name in ("received_at", "due_at", "jurisdiction", "samples", "dataset"):
            assert found[name] == made[name]
        is_problem(account.http.get(f"{trained.where}/versions/1/checkpoint"), 409, "version-withheld")
        account.work()
        assert account.get(f"/v1/deletion-requests/{made['id']}")["status"] == "fulfilled"
        assert account.http.get(f"{trained.where}/versions/2/checkpoint").status_code == 200
        is_problem(account.http.get(f"{trained.where}/versions/1/checkpoint"), 409, "version-withheld")
        with account.database.read() as session:
            left = set(session.scalars(select(Sample.sample_id).where(Sample.dataset_id == trained.dataset)))
            assert left.isdisjoint(trained.ids[:4])
            assert session.get(Commitment, made["id"]) is not None


def test_a_request_the_backup_has_open_goes_on_and_what_was_refused_since_stays(
    trained: Trained, kept: Path, snapshot: Path
) -> None:
    account = trained.account
    made = trained.delete(trained.ids[:4])
    take(trained, snapshot)
    refusal = {"reason": "a court asked for it", "sample_ids": trained.ids[:1]}
    account.post(f"/v1/deletion-requests/{made['id']}:refuse", refusal)
    account.work()
    keep(account, kept)
    with older(trained, snapshot) as account:
        assert replayed(account, kept) == {"reopened": 1}
        with account.database.read() as session:
            request = session.get_one(DeletionRequest, made["id"])
            assert len(unpack(request.positions)) == 3
            assert request.refused_count == 1
        account.work()
        assert account.get(f"/v1/deletion-requests/{made['id']}")["status"] == "fulfilled"
        shown = {item["id"] for item in account.get(
            f"/v1/datasets/{trained.dataset}/samples", split="train", page_size=1000)["items"]}  # fmt: skip
        assert shown & set(trained.ids[:4]) == {trained.ids[0]}


LEGAL = (
    "received_at", "posted_at", "due_at", "extended_at", "confirmed_at", "ground", "samples", "samples_refused",
    "refusal_ground", "identity", "case", "complaint_about", "jurisdiction", "rule", "channel",
)  # fmt: skip


@pytest.mark.parametrize("known", ["no", "held", "asked"])
def test_the_legal_life_of_a_request_comes_back_without_free_words(
    trained: Trained, kept: Path, snapshot: Path, known: str
) -> None:
    """As seen: ground, extension, date of entry and refused part were lost; the words of the officer were not. What the
    backup had held for the identity was not carried out again. known: as what the backup has it."""
    account, now = trained.account, datetime.now(UTC)
    fields = {"ground": "17(1)(b)", "basis": "Anna took it back", "reference": "Anna", "channel": "letter"}
    fields |= {"received_reason": "Anna's post"}
    if known == "no":
        take(trained, snapshot)
    made = trained.delete(trained.ids[:4], received_at=f"{now - timedelta(days=5):%Y-%m-%d}", **fields)
    where = f"/v1/deletion-requests/{made['id']}"
    asked = {"status": "asked", "until": f"{now + timedelta(days=20):%Y-%m-%d}", "note": "Anna"}
    if known == "held":
        account.post(f"{where}:hold", {"reason": "a court"})
        take(trained, snapshot)
        account.post(f"{where}:release", {})
    account.post(f"{where}:identity", asked)
    if known == "asked":
        take(trained, snapshot)
    account.post(f"{where}:identity", {"status": "confirmed"})
    account.post(f"{where}:confirm", {})
    account.post(f"{where}:extend", {"reason": "Anna wrote three hundred letters"})
    account.post(f"{where}:refuse", {"reason": "Anna", "ground": "17(3)(e)", "sample_ids": trained.ids[:1]})
    account.work()
    before = account.get(where)
    assert before["status"] == "fulfilled"
    keep(account, kept)
    assert "Anna" not in kept.read_text()
    with older(trained, snapshot) as again:
        assert replayed(again, kept) == {"asked_again" if known == "no" else "reopened": 1}
        again.work()
        after = again.get(where)
    assert after["status"] == "fulfilled"
    assert {name: after[name] for name in LEGAL} == {name: before[name] for name in LEGAL}


def test_a_line_of_an_earlier_version_is_replayed(trained: Trained, kept: Path, snapshot: Path) -> None:
    take(trained, snapshot)
    made = trained.forget(trained.ids[:2])
    keep(trained.account, kept)
    first, *rest = kept.read_text().splitlines()
    line = json.loads(first) | {"basis": "words of an officer"}
    del line["law"]
    kept.write_text("\n".join([json.dumps(line), *rest, ""]))
    with older(trained, snapshot) as again:
        assert replayed(again, kept) == {"asked_again": 1}
        again.work()
        after = again.get(f"/v1/deletion-requests/{made['id']}")
    assert (after["status"], after["basis"], after["due_at"]) == ("fulfilled", replay.BASIS, made["due_at"])


def test_a_request_that_named_one_model_is_made_again_for_it_alone(
    trained: Trained, kept: Path, snapshot: Path
) -> None:
    take(trained, snapshot)
    made = trained.forget(trained.ids[:3], model=trained.model)
    keep(trained.account, kept)
    with older(trained, snapshot) as account:
        assert replayed(account, kept) == {"asked_again": 1}
        assert replayed(account, kept) == {"reopened": 1}
        account.work()
        found = account.get(f"/v1/deletion-requests/{made['id']}")
        assert (found["status"], found["model"]) == ("fulfilled", trained.model)
        assert replayed(account, kept) == {"fulfilled": 1}


def test_under_a_batch_policy_nobody_waits_for_the_batch(trained: Trained, kept: Path, snapshot: Path) -> None:
    account = trained.account
    when = {"mode": "batch", "max_requests": 2, "max_samples": 1000, "max_age_seconds": 86400}
    policy = account.get(trained.where)["policy"] | {"when": when}
    response = account.http.put(f"{trained.where}/policy", json=policy)
    assert response.status_code == 200, response.text
    take(trained, snapshot)
    made = [trained.delete(trained.ids[:2]), trained.delete(trained.ids[2:4])]
    account.work()
    assert trained.request(made[0])["status"] == "fulfilled"
    keep(account, kept)
    first = kept.read_text().splitlines(keepends=True)[0]
    kept.write_text(first)
    with older(trained, snapshot) as account:
        assert replayed(account, kept) == {"asked_again": 1}
        account.work()
        assert account.get(f"/v1/deletion-requests/{json.loads(first)['request']}")["status"] == "fulfilled"


def test_what_the_backup_has_no_dataset_for_needs_nothing(trained: Trained, kept: Path, tmp_path: Path) -> None:
    trained.forget(trained.ids[:2])
    keep(trained.account, kept)
    (tmp_path / "empty").mkdir()
    shutil.copy2(trained.account.settings.data_dir / "secret", tmp_path / "empty" / "secret")
    with open_account(Settings(data_dir=tmp_path / "empty")) as account:
        assert replayed(account, kept) == {"gone": 1}


def test_under_another_secret_nothing_is_done_and_it_is_told(
    trained: Trained, kept: Path, snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # the runner's own streams end with it
    take(trained, snapshot)
    trained.forget(trained.ids[:3])
    keep(trained.account, kept)
    other = Settings(data_dir=snapshot, secret="another " * 4)
    with open_account(Settings(data_dir=snapshot)) as account:
        with pytest.raises(replay.LedgerError, match=r"line 1 .* another LETHE_SECRET"):
            replay.replay(account.database, other, kept)
        renewed = other.model_copy(update={"earlier_secrets": SecretStr(account.settings.secret_bytes().decode())})
        assert replay.replay(account.database, renewed, kept).asked_again == 1, "an earlier secret wrote it"
    env = {"LETHE_DATA_DIR": str(snapshot), "LETHE_SECRET": "another " * 4}
    get_settings.cache_clear()
    ran = CliRunner().invoke(cli, ["erasures", "replay", str(kept)], env=env)
    get_settings.cache_clear()
    assert ran.exit_code == 1, ran.output


def test_the_command_says_what_is_left_to_do(
    trained: Trained, kept: Path, snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # the runner's own streams end with it
    take(trained, snapshot)
    trained.forget(trained.ids[:3])
    keep(trained.account, kept)
    whole = kept.read_bytes()
    kept.write_bytes(whole + b"{}\n")

    def run() -> tuple[int, dict[str, object]]:
        command = ["erasures", "replay", str(kept), "--json"]
        get_settings.cache_clear()
        ran = CliRunner().invoke(cli, command, env={"LETHE_DATA_DIR": str(snapshot)})
        get_settings.cache_clear()
        return ran.exit_code, json.loads(ran.stdout)

    code, document = run()
    assert (code, document["asked_again"], document["todo"]) == (1, 1, ["line 3 cannot be read"])
    kept.write_bytes(whole)
    code, document = run()
    assert (code, document["reopened"], document["todo"]) == (0, 1, [])


@pytest.mark.parametrize("held", [3, 5])
def test_a_request_that_the_backup_holds_lets_go_of_the_samples(
    trained: Trained, kept: Path, snapshot: Path, held: int
) -> None:
    account, ids = trained.account, trained.ids
    first = trained.delete(ids[:held])
    account.post(f"/v1/deletion-requests/{first['id']}:hold", {"reason": "a court asked for it"})
    take(trained, snapshot)
    account.post(f"/v1/deletion-requests/{first['id']}:release", {})
    account.post(f"/v1/deletion-requests/{first['id']}:cancel", {"reason": "a change of mind"})
    made = trained.forget(ids[:3])
    keep(account, kept)
    with older(trained, snapshot) as account:
        assert replayed(account, kept) == {"asked_again": 1}
        is_problem(account.http.get(f"{trained.where}/versions/1/checkpoint"), 409, "version-withheld")
        account.work()
        assert account.get(f"/v1/deletion-requests/{made['id']}")["status"] == "fulfilled"
        assert here(account, trained.dataset) & set(ids[:5]) == set(ids[3:5])
        found = account.get(f"/v1/deletion-requests/{first['id']}")
        assert (found["status"], found["samples"]) == (("cancelled", 3) if held == 3 else ("held", 2))


def test_a_request_of_the_backup_that_is_being_carried_out_keeps_the_samples(
    trained: Trained, kept: Path, snapshot: Path
) -> None:
    account, ids = trained.account, trained.ids
    first = trained.delete(ids[:3])
    where = f"/v1/deletion-requests/{first['id']}"
    claimed = jobs.claim(account.database, "lost", 60.0, first["outcomes"][0]["job"])
    assert claimed is not None
    take(trained, snapshot)
    jobs.release(account.database, "lost", "its worker died")
    account.post(f"{where}:cancel", {"reason": "a change of mind"})
    trained.forget(ids[:3])
    keep(account, kept)
    with older(trained, snapshot) as account:
        assert replayed(account, kept) == {"reopened": 1}
        is_problem(account.http.get(f"{trained.where}/versions/1/checkpoint"), 409, "version-withheld")
        jobs.release(account.database, "lost", "its worker died")
        is_problem(account.http.post(f"{where}:cancel", json={"reason": "again"}), 409, "carried-out")
        account.work()
        assert account.get(where)["status"] == "fulfilled"
        assert here(account, trained.dataset).isdisjoint(ids[:3])


def test_a_replayed_request_cannot_be_cancelled(trained: Trained, kept: Path, snapshot: Path) -> None:
    take(trained, snapshot)
    made = trained.forget(trained.ids[:3])
    keep(trained.account, kept)
    with older(trained, snapshot) as account:
        replayed(account, kept)
        for verb in ("cancel", "hold", "refuse"):
            response = account.http.post(f"/v1/deletion-requests/{made['id']}:{verb}", json={"reason": "no"})
            is_problem(response, 409, "carried-out")


def test_an_ingest_that_the_backup_has_not_done_brings_no_erased_sample_in(tmp_path: Path, kept: Path) -> None:
    copy = tmp_path / "backup"
    with open_account(Settings(data_dir=tmp_path / "data")) as account:
        dataset = account.post("/v1/datasets", {"name": "digits", "source": {"name": "digits"}})["id"]
        backup.take(account.settings, copy)
        account.work()
        ids = account.training_ids(dataset)[:3]
        account.delete(dataset, ids)
        account.work()
        assert keep(account, kept) == 1
    with open_account(Settings(data_dir=copy)) as account:
        for _ in range(2):
            done = replay.replay(account.database, account.settings, kept)
            assert (done.waiting, done.complete, len(done.todo)) == (1, False, 1)
        account.work()
        assert account.get(f"/v1/datasets/{dataset}")["state"] == "ready"
        assert here(account, dataset).isdisjoint(ids)
        body = {"dataset": dataset, "sample_ids": ids}
        problem = is_problem(account.http.post("/v1/deletion-requests", json=body), 409, "sample-erased")
        assert problem["counts"] == {"erased": 3}
        with account.database.read() as session:
            row = session.get_one(Dataset, dataset)
            gone, images = members(row.erased, row.sample_count), row.images or ""
            query = select(Sample.sample_id).where(Sample.dataset_id == dataset, Sample.position.in_(gone.tolist()))
            marks = {datasets.suppression(account.settings, dataset, name) for name in ids}
            assert set(session.scalars(query)) == marks
        pixels = np.load(Folder(account.settings.data_dir / "blobs").fetch(images))
        assert not pixels[gone].any()
        assert pixels.any(axis=(1, 2, 3)).sum() == len(pixels) - 3
        assert replayed(account, kept) == {"gone": 1}


# -- what must not be taken in again ---------------------------------------------------------------

PEOPLE = ["p1", "p1", *["p2"] * 10]


def sent(account: Account, **fields: Any) -> Document:
    return taken_in(account, packed(IMAGES, IDS, PEOPLE), id_namespace="ours", **fields)


def erased_person(account: Account) -> str:
    dataset = str(sent(account)["id"])
    account.post("/v1/deletion-requests", {"dataset": dataset, "subjects": ["p1"], "jurisdiction": "gdpr"}, 202)
    account.work()
    assert account.get(f"/v1/datasets/{dataset}")["erased_samples"] == 2
    return dataset


@pytest.mark.parametrize("registered", ["no", "waiting", "ready"])
def test_what_was_erased_stays_out_whatever_became_of_its_dataset(tmp_path: Path, kept: Path, registered: str) -> None:
    """As seen: the backup was older than the dataset, or the dataset was deleted since. Replay was complete, and the
    person came back with the next upload."""
    data, copy = tmp_path / "data", tmp_path / "backup"
    with open_account(Settings(data_dir=data)) as account:
        source = {"name": "upload", "params": {"holdout_fraction": 0.0}}
        fields = {"name": "d", "source": source, "id_namespace": "ours"}
        first = sent(account)["id"] if registered == "ready" else ""
        first = account.post("/v1/datasets", fields)["id"] if registered == "waiting" else first
        backup.take(account.settings, copy)
        if registered == "no":
            erased_person(account)
        else:
            if registered == "waiting":
                data_, headers = packed(IMAGES, IDS, PEOPLE), {"Content-Type": "application/x-npz"}
                assert account.http.put(f"/v1/datasets/{first}/content", content=data_, headers=headers).is_success
                account.work()
            account.post("/v1/deletion-requests", {"dataset": first, "subjects": ["p1"], "jurisdiction": "gdpr"}, 202)
            account.work()
            assert account.http.delete(f"/v1/datasets/{first}").status_code == 204
        keep(account, kept)
        assert not [name for name in ("p1", "ours", *IDS) if f'"{name}"' in kept.read_text()]
    with open_account(Settings(data_dir=copy)) as account:
        for _ in range(2):
            assert replay.replay(account.database, account.settings, kept).complete
        account.work()
        again = sent(account)
        assert again["erased_samples"] == 2
        found = account.post("/v1/deletion-requests:find", {"subjects": ["p1"]})
        assert (found["held"], found["erased"]) == ([], [0])


def test_suppressions_are_written_once_and_the_earlier_ones_of_a_service_too(tmp_path: Path, kept: Path) -> None:
    with open_account(Settings(data_dir=tmp_path / "data")) as account:
        keeper = erasure_ledger.Keeper(account.database, account.settings, kept)
        erased_person(account)
        with account.database.read() as session:
            every = set(session.scalars(select(Suppression.digest)))
        assert len(every) == 2 * 16 + 3  # all marks of each of two pictures, two ids, a person
        for each in (keeper, keeper, erasure_ledger.Keeper(account.database, account.settings, kept)):
            each.keep()
            [(number, line)] = erasure_ledger.read(kept).kept
            assert (number, set(line.suppressed)) == (2, every)
        kept.write_bytes(kept.read_bytes().splitlines(keepends=True)[0])
        keep(account, kept)
        assert len(erasure_ledger.read(kept).kept) == 1, "a file of before gets them, too"
        account.delete(sent(account)["id"], IDS[2:3])
        account.work()
        keeper.keep()
        # the second: of a picture, an id, and whose it was
        assert [len(line.suppressed) for _, line in erasure_ledger.read(kept).kept] == [35, 18]


def test_bytes_that_were_trained_on_erased_samples_are_known_where_their_version_is_not(
    trained: Trained, kept: Path, tmp_path: Path
) -> None:
    before = trained.account.get(f"{trained.where}/versions/1")["digest"]
    trained.forget(trained.ids[:2])
    after = trained.account.get(f"{trained.where}/versions/2")["digest"]
    keep(trained.account, kept)
    (tmp_path / "empty").mkdir()
    shutil.copy2(trained.account.settings.data_dir / "secret", tmp_path / "empty" / "secret")
    with open_account(Settings(data_dir=tmp_path / "empty")) as account:
        replayed(account, kept)
        with account.database.read() as session:
            found = [versions.holds_erased(session, FIRST_TENANT, each) for each in (before, after)]
        assert found == [True, False]


def test_one_refused_line_stops_no_other(
    trained: Trained, kept: Path, snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(trained, snapshot)
    refused, made = trained.forget(trained.ids[:2])["id"], trained.forget(trained.ids[2:4])["id"]
    keep(trained.account, kept)
    accept_many = accept.accept_many

    def picky(
        session: Session, settings: Settings, grounds: LockedDatasets, orders: list[Order], now: datetime
    ) -> list[Any]:
        if orders[0].again["id"] == refused:
            return [Conflict("It was refused.")]
        return list(accept_many(session, settings, grounds, orders, now))

    monkeypatch.setattr(accept, "accept_many", picky)
    with older(trained, snapshot) as account:
        done = replay.replay(account.database, account.settings, kept)
        assert (done.asked_again, done.failed, done.complete) == (1, 1, False)
        assert done.todo == [f"{refused} was refused: It was refused."]
        assert account.http.get(f"/v1/deletion-requests/{made}").status_code == 200


def test_the_samples_of_a_dataset_are_digested_once(
    trained: Trained, kept: Path, snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(trained, snapshot)
    for start in (0, 2, 4):
        trained.forget(trained.ids[start : start + 2])
    keep(trained.account, kept)
    made: list[str] = []
    digest = datasets.suppression

    def counted(settings: Settings, dataset: str, name: str) -> str:
        made.append(name)
        return digest(settings, dataset, name)

    monkeypatch.setattr(datasets, "suppression", counted)
    with older(trained, snapshot) as account:
        assert replayed(account, kept) == {"asked_again": 3}
    assert len(made) == len(set(made))


# -- whole datasets and models ---------------------------------------------------------------------


def purged(account: Account, model: str) -> None:
    assert account.http.post(f"/v1/models/{model}:purge").status_code in (200, 202, 204)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def test_a_deleted_dataset_is_deleted_again(
    tmp_path: Path, template: Callable[[str], Template], kept: Path, kind: str
) -> None:
    source = template(kind)
    with ExitStack() as stack:

        def copy(name: str) -> Account:
            """The service as the backup has it."""
            folder = tmp_path / name
            shutil.copytree(source.folder, folder)
            named = source.url.rpartition("/")[2]
            base = source.url.rpartition("/")[0] + "/postgres"
            url = stack.enter_context(scratch_database(base, named)) if source.url else ""
            return stack.enter_context(open_account(Settings(data_dir=folder, database_url=url)))

        first = copy("first")
        purged(first, source.model)
        assert keep(first, kept) == 1
        assert first.http.delete(f"/v1/datasets/{source.dataset}").status_code == 204
        assert keep(first, kept) == 1
        assert keep(first, kept) == 0
        assert erasure_ledger.Keeper(first.database, first.settings, kept).keep() == 0, "as the file has them"
        assert not [name for name in source.ids if name in kept.read_text()]

        again = copy("again")
        held = again.delete(source.dataset, source.ids[:2])  # of the backup: open, with a job that was under way
        job = again.post(f"/v1/models/{source.model}:references", {"count": 6})["id"]
        with again.database.write() as session:
            row = session.get_one(Job, job)
            row.state, row.owner, row.lease_until = "running", "gone", db.now(session)
            images = session.get_one(Dataset, source.dataset).images
        assert replayed(again, kept) == {"deleted": 2}
        assert replayed(again, kept) == {}
        assert again.get(f"/v1/datasets/{source.dataset}")["state"] == "erased"
        assert here(again, source.dataset) == set()
        with again.database.read() as session:
            assert session.get_one(Model, source.model).purged_at is not None
        assert again.get(f"/v1/jobs/{job}")["state"] == "cancelled"
        again.work()
        assert again.get(f"/v1/deletion-requests/{held['id']}")["status"] == "fulfilled"
        with again.database.read() as session:
            digests = set(session.scalars(select(Outbox.key).where(Outbox.topic == "blob")))
            assert images in digests, "its pictures go right after the commit"


def test_a_ledger_that_lacks_a_model_says_so(trained: Trained, kept: Path, tmp_path: Path) -> None:
    account = trained.account
    copy = tmp_path / "copy"
    shutil.copytree(account.settings.data_dir, copy)
    purged(account, trained.model)
    account.http.delete(f"/v1/datasets/{trained.dataset}")
    keep(account, kept)
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(line for line in lines if trained.model not in line))
    with open_account(Settings(data_dir=copy)) as again:
        done = replay.replay(again.database, again.settings, kept)
        assert (done.failed, done.complete) == (1, False)
        assert trained.model in done.todo[0]
        assert again.get(f"/v1/datasets/{trained.dataset}")["state"] == "ready"
