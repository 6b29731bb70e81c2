"""The certificate of a real deletion, verified by the offline verifier alone."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy.orm import Session

from app.blobs.open import open_blobs
from app.cases.retention import ERASED
from app.core.tables import DeletionRequest, Model
from app.deletions import retention
from app.evidence import negative, sealing
from app.operations import migrate
from tests.helpers import is_problem
from tests.trained import Trained


def seal(trained: Trained) -> int:
    account = trained.account
    key = sealing.open_key(account.database, account.settings)
    sealed = sealing.seal_due(account.database, key, account.settings.log_name)
    negative.seal_due(account.database, key, account.settings.log_name)
    sealing.sequence_waiting(account.database, key, account.settings.log_name)
    return sealed


def verify(folder: Path, envelope: object, trust: object, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "certificate.json").write_text(json.dumps(envelope))
    (folder / "trust.json").write_text(json.dumps(trust))
    command = [sys.executable, "-m", "lethe.verify", "certificate.json", "--trust", "trust.json", "--json", *options]
    root = str(Path(__file__).parents[3])
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env={"PYTHONPATH": root})


def test_a_certificate_stands_alone_and_is_superseded(trained: Trained, tmp_path: Path) -> None:
    account, ids = trained.account, trained.ids[:40:4]
    with account.database.write() as session:
        model = session.get_one(Model, trained.model)
        model.policy = {**model.policy, "grace_seconds": 0}
    request = trained.forget(ids)
    where = f"/v1/deletion-requests/{request['id']}"
    is_problem(account.http.get(f"{where}/certificate"), 404, "not-found")

    assert seal(trained) == 1
    assert seal(trained) == 0
    first = account.get(f"{where}/certificate")
    trust = account.get("/v1/log/keys")
    checkpoint = tmp_path / "v2.safetensors"
    checkpoint.write_bytes(account.http.get(f"{trained.where}/versions/2/checkpoint").content)
    (tmp_path / "membership.json").write_text(
        json.dumps({"salt": account.get(f"{where}/opening")["salt"], "ids": ids[:2]})
    )
    done = verify(tmp_path, first, trust, "--checkpoint", str(checkpoint), "--membership", "membership.json")
    assert done.returncode == 0, done.stdout + done.stderr

    # Names nobody: neither an id nor another request's reference is in it.
    statement = base64.b64decode(first["payload"]).decode()
    assert not any(f'"{sample}"' in statement for sample in ids)
    assert json.loads(statement)["predicate"]["samples"]["count"] == len(ids)

    # A changed byte, or another checkpoint, is refused.
    broken = {**first, "payload": base64.b64encode(statement.replace("gdpr", "ccpa").encode()).decode()}
    assert verify(tmp_path, broken, trust).returncode == 1
    checkpoint.write_bytes(b"x" + checkpoint.read_bytes()[1:])
    assert verify(tmp_path, first, trust, "--checkpoint", str(checkpoint)).returncode == 1

    # The superseded checkpoint goes; the next certificate says so and names the one before.
    assert retention.purge_due_versions(account.database, open_blobs(account.settings)) == 1
    assert seal(trained) == 1
    second = account.get(f"{where}/certificate")
    (tmp_path / "first.json").write_text(json.dumps(first))
    assert verify(tmp_path, second, trust, "--previous", "first.json").returncode == 0

    # Shredding the salt ends the link; the certificate still verifies.
    assert account.post(f"{where}:shred") == {"deleted": True}
    is_problem(account.http.get(f"{where}/opening"), 410, "salt-deleted")
    assert verify(tmp_path, second, trust).returncode == 0


def test_what_did_not_pass_has_a_negative_report(trained: Trained, tmp_path: Path) -> None:
    """Of a request whose version was published without a pass, and of an audit that was asked for."""
    account = trained.account
    request = trained.forget(trained.ids[:40:4])
    assert request["outcomes"][0]["verdict"] == "inconclusive"
    where = f"/v1/deletion-requests/{request['id']}/negative-report"
    is_problem(account.http.get(where), 404, "not-found")
    seal(trained)
    found, trust = account.get(where), account.get("/v1/log/keys")
    done = verify(tmp_path, found, trust)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["of"] == "negative report"
    assert "NO DELETION IS CERTIFIED" in said["says"][0]
    assert said["uncertified"] == [trained.model]
    text = base64.b64decode(found["payload"]).decode()
    assert not any(f'"{sample}"' in text for sample in trained.ids)
    broken = base64.b64encode(text.replace("inconclusive", "pass").encode()).decode()
    assert verify(tmp_path, found | {"payload": broken}, trust).returncode == 1
    (finding,) = json.loads(text)["predicate"]["findings"]
    assert (finding["version"], finding["state"], finding["verdict"]) == (2, "purged", "inconclusive")
    certified = verify(tmp_path, account.get(where.replace("negative-report", "certificate")), trust)
    assert json.loads(certified.stdout)["uncertified"]

    # An audit of samples that the version still knows; one sham says nothing of a deletion.
    account.post(f"{trained.where}:audit", {"sample_ids": trained.ids[1:40:4]})
    account.work()
    audits = account.get(f"{trained.where}/versions/2/audits")["items"]
    (asked,) = [row for row in audits if not row["published"]]
    where = f"{trained.where}/versions/2/audits/{asked['id']}/negative-report"
    is_problem(account.http.get(where), 404, "not-found")
    seal(trained)
    done = verify(tmp_path, account.get(where), trust)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["says"][1] == f"audit {asked['id']}:"
    is_problem(account.http.get(where.replace("/versions/2/", "/versions/1/")), 404, "not-found")


@pytest.mark.validation
def test_the_log_proves_its_entries_and_its_growth(trained: Trained) -> None:
    account = trained.account
    trained.forget(trained.ids[:5])
    seal(trained)
    note = account.http.get("/v1/log/checkpoint").text
    size = int(note.splitlines()[1])
    entries = account.get("/v1/log/entries", limit=1000)["entries"]
    assert len(entries) == size > 5
    assert {"request.accepted", "version.unlearned", "request.fulfilled"} <= {entry["kind"] for entry in entries}
    assert account.get("/v1/log/proof", size=size, leaf=0)["hashes"]
    trained.forget(trained.ids[5:9])
    seal(trained)
    larger = int(account.http.get("/v1/log/checkpoint").text.splitlines()[1])
    assert larger > size
    assert account.get("/v1/log/proof", size=larger, old=size)["hashes"]
    is_problem(account.http.get("/v1/log/proof", params={"size": larger + 1, "leaf": 0}), 404, "not-found")
    is_problem(account.http.get("/v1/log/proof", params={"size": size}), 422, "schema")


def test_ids_that_another_request_erases_are_committed_to_before(trained: Trained, tmp_path: Path) -> None:
    """A request of one model is held while one of the whole dataset takes its samples away."""
    account, ids = trained.account, trained.ids[:4]
    held = trained.delete(ids[:3], model=trained.model)
    where = f"/v1/deletion-requests/{held['id']}"
    account.post(f"{where}:hold", {"reason": "a court asked"})
    trained.forget([ids[0], ids[3]])
    account.post(f"{where}:refuse", {"reason": "not theirs", "sample_ids": ids[2:3]})
    account.post(f"{where}:release")
    account.work()
    assert trained.request(held)["status"] == "fulfilled"
    seal(trained)
    certificate, trust = account.get(f"{where}/certificate"), account.get("/v1/log/keys")
    salt = account.get(f"{where}/opening")["salt"]
    (tmp_path / "membership.json").write_text(json.dumps({"salt": salt, "ids": ids[:2]}))
    done = verify(tmp_path, certificate, trust, "--membership", "membership.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(base64.b64decode(certificate["payload"]))["predicate"]["samples"]["count"] == 2


def test_after_an_upgrade_only_certificates_with_an_earlier_date_are_made_again(trained: Trained) -> None:
    account = trained.account
    moved, kept, erased = (trained.forget(trained.ids[n : n + 2], basis="words") for n in (0, 2, 4))
    assert seal(trained) == 3
    until = datetime.now(UTC) + timedelta(days=80)
    body = {"until": f"{until:%Y-%m-%d}", "reason": "a pool takes nine days"}
    account.post(f"/v1/deletion-requests/{moved['id']}:keep-remains", body)
    with account.database.write() as session:  # as the version before left it
        session.get_one(DeletionRequest, erased["id"]).received_reason = ERASED
    with account.database.engine.connect().execution_options(lethe_write=True) as connection, connection.begin():
        config = migrate._config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0019")
        command.upgrade(config, "head")
    assert (seal(trained), seal(trained)) == (1, 0)
    assert len(account.get("/v1/certificates", request=moved["id"])["items"]) == 2
    assert [trained.request(each)["basis"] for each in (kept, erased)] == ["words", ERASED]


@pytest.mark.validation
def test_a_request_that_cannot_be_sealed_holds_no_other_up(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = trained.forget(trained.ids[:2]), trained.forget(trained.ids[2:4])
    whole = sealing._seal

    def broken(session: Session, request_id: str, *rest: Any) -> bool:
        if request_id == first["id"]:
            raise ValueError(trained.ids[0])
        return whole(session, request_id, *rest)

    monkeypatch.setattr(sealing, "_seal", broken)
    monkeypatch.setattr(sealing, "AT_ONCE", 1)
    assert seal(trained) == 1
    assert first["id"] in caplog.text
    trained.account.get(f"/v1/deletion-requests/{second['id']}/certificate")
    monkeypatch.undo()
    assert seal(trained) == 1
    trained.account.get(f"/v1/deletion-requests/{first['id']}/certificate")
