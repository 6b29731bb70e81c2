"""What version 0.1 left is migrated and goes on: its records read as before, its evidence verifies, its work is done.

`make.py` says what is in the archives. They are never made again: what they hold is what that version wrote.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.core.config import Settings
from app.evidence import sealing
from lethe import verify
from tests.conftest import POSTGRES
from tests.support import Account, Document, environment, scratch_database
from tests.trained import open_account

ARCHIVES = Path(__file__).parent / "0.1"
KINDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.services)]
STATUS = {
    "fulfilled": "fulfilled",
    "partly-refused": "fulfilled",
    "refused": "refused",
    "escalated": "fulfilled",
    "cancelled": "cancelled",
    "held": "held",
    "pending": "accepted",
    "escalating": "processing",
    "queued": "processing",
}


@dataclass
class Old:
    """What the old version left, behind the API of this one. `kept`: its evidence.json."""

    account: Account
    folder: Path
    kept: Document

    def where(self, role: str) -> str:
        return f"/v1/deletion-requests/{self.kept['requests'][role]['id']}"

    def model(self, role: str) -> str:
        return f"/v1/models/{self.kept['models'][role]['id']}"

    @property
    def trusted(self) -> list[verify.TrustedKey]:
        """The keys that the auditor kept."""
        return verify.read_trust(json.dumps(self.kept["keys"]).encode())

    @property
    def heads(self) -> list[verify.Head]:
        """The log's heads that the auditor kept: one from the middle, and the last."""
        return [verify.open_head(note, self.trusted, None) for note in self.kept["heads"]]

    def proof(self, **wanted: int) -> list[bytes]:
        return hashes(self.account.get("/v1/log/proof", **wanted)["hashes"])


@contextmanager
def migrated(kind: str, folder: Path) -> Iterator[Old]:
    unpack(kind, folder)
    with ExitStack() as stack:
        url = ""
        if kind == "postgres":
            url = stack.enter_context(scratch_database(POSTGRES))
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute((folder / "dump.sql").read_text())
        account = stack.enter_context(open_account(Settings(data_dir=folder / "data", database_url=url)))
        yield Old(account, folder, kept_of(folder))


def unpack(kind: str, folder: Path) -> None:
    with tarfile.open(ARCHIVES / f"{kind}.tar.xz") as archive:
        archive.extractall(folder, filter="data")


def kept_of(folder: Path) -> Document:
    found: Document = json.loads((folder / "evidence.json").read_text())
    return found


@pytest.fixture(scope="module", params=KINDS)
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Old]:
    """Shared by the tests that only read."""
    with migrated(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


@pytest.fixture(params=KINDS)
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Old]:
    with migrated(request.param, tmp_path) as found:
        yield found


def hashes(texts: list[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


def leaf_of(entry: Any) -> bytes:
    """RFC 9162: the hash of an entry of the log."""
    return hashlib.sha256(b"\0" + verify.canonical_json(entry).encode()).digest()


def without_forecast(request: Document) -> Document:
    return request | {"outcomes": [outcome | {"forecast_at": None} for outcome in request["outcomes"]]}


# -- what was written reads as before ----------------------------------------------------------------


def test_requests(old: Old) -> None:
    assert {role: request["status"] for role, request in old.kept["requests"].items()} == STATUS
    for role, before in old.kept["requests"].items():
        now = old.account.get(old.where(role))
        status = status_now(now)
        assert as_then(without_forecast(now), before) == without_forecast(before) | {"status": status}, role
        listed = old.account.get(f"/v1/deletion-requests?status={status}")["items"]
        assert before["id"] in [item["id"] for item in listed]
    assert old.kept["requests"]["partly-refused"]["samples_refused"] == 1


def status_now(now: Document) -> str:
    """The word that version 0.1 had, unless it kept something past the due date, which it called fulfilled, too."""
    kept_late = any(each["until"] > now["due_at"] for each in now["remains"])
    assert (now["status"] == "incomplete") == kept_late
    return "incomplete" if kept_late else str(now["status"])


def as_then(now: Any, then: Any) -> Any:
    """What is said now of what was said then: later versions say more."""
    if isinstance(then, dict):
        return {name: as_then(now[name], then[name]) for name in then}
    if isinstance(then, list) and len(then) == len(now):
        return [as_then(one, other) for one, other in zip(now, then, strict=True)]
    return now


def test_versions_and_their_bytes(old: Old) -> None:
    states = set()
    for role, versions in old.kept["versions"].items():
        for before in versions:
            where = f"{old.model(role)}/versions/{before['number']}"
            assert as_then(old.account.get(where), before) == before
            states.add((before["origin"], before["state"]))
            if before["state"] in ("current", "superseded"):
                content = old.account.http.get(f"{where}/checkpoint", params={"reason": "to compare"}).content
                assert f"sha256:{hashlib.sha256(content).hexdigest()}" == before["digest"]
            else:
                assert old.account.http.get(f"{where}/checkpoint").status_code in (404, 409, 410)
    assert {("unlearned", "current"), ("unlearned", "superseded"), ("trained", "purged")} <= states
    assert ("imported", "candidate") in states
    assert old.account.get(f"{old.model('batched')}/aliases")["items"] == old.kept["aliases"]
    for role, before in old.kept["models"].items():
        assert old.account.get(old.model(role))["current_version"] == before["current_version"]
    assert old.account.get(old.model("batched"))["current_version"] == 1  # rolled back


def test_reports(old: Old) -> None:
    for number, before in old.kept["reports"].items():
        where = f"{old.model('main')}/versions/{number}/audit"
        report = old.account.get(where)["report"]
        for name in ("method", "candidate", "parent", "judgement", "forget_samples", "references"):
            assert as_then(report[name], before[name]) == before[name], name
        page = old.account.http.get(where, headers={"Accept": "text/html"})
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert before["judgement"]["reason"] in page.text.replace("\N{MINUS SIGN}", "-")
        if gate := before["gate"]:
            assert (report["gate"]["step"], report["gate"]["steps"]) == (gate["rung"], gate["rungs"])


def test_jobs(old: Old) -> None:
    for before in old.kept["jobs"]:
        now = old.account.get(f"/v1/jobs/{before['id']}")
        for name in ("kind", "state", "attempts", "model", "dataset", "request", "result", "problem", "finished_at"):
            assert now[name] == before[name], name
    second = [job for job in old.kept["jobs"] if job["rung"] and job["rung"]["number"] == 2]
    assert sorted(job["state"] for job in second) == ["queued", "succeeded"]
    for job in second:
        assert old.account.get(f"/v1/jobs/{job['id']}")["escalation"] == job["rung"]
        assert old.account.get(f"/v1/jobs/{job['rung']['after']}")["escalation"]["next"] == job["id"]


def test_keys_and_webhooks(old: Old) -> None:
    """The webhook asks for the new names of its events; what was delivered has the names of then."""
    as_reader = {"Authorization": f"Bearer {old.kept['reader']}"}
    assert old.account.http.get("/v1/log/checkpoint", headers=as_reader).status_code == 200
    order = {"dataset": old.kept["dataset"], "sample_ids": old.kept["ids"]["never-requested"]}
    assert old.account.http.post("/v1/deletion-requests", json=order, headers=as_reader).status_code == 403
    webhook = f"/v1/webhooks/{old.kept['webhook']['id']}"
    kinds = ["request.fulfilled", "request.cancelled", "gate.escalated", "version.*"]
    assert old.account.get(webhook) == old.kept["webhook"] | {"events": kinds}
    sent = old.account.get(f"{webhook}/deliveries", page_size=1000)["items"]
    since = "version.withheld-download"  # of the tests beside this one
    assert sorted(item["kind"] for item in sent if item["kind"] != since) == old.kept["deliveries"]
    assert {"request.withdrawn", "gate.climbed"} <= set(old.kept["deliveries"])


# -- what was signed verifies ------------------------------------------------------------------------


def test_the_certificate(old: Old, tmp_path: Path) -> None:
    now = old.account.get(f"{old.where('fulfilled')}/certificate")
    assert now == old.kept["certificates"][0]
    listed = old.account.get("/v1/certificates", request=old.kept["requests"]["fulfilled"]["id"])["items"]
    assert [old.account.get(f"/v1/certificates/{item['digest']}") for item in listed] == old.kept["certificates"]
    assert old.account.get(f"{old.where('fulfilled')}/opening")["salt"] == old.kept["opening"]

    checkpoint = tmp_path / "version-2.safetensors"
    checkpoint.write_bytes(old.account.http.get(f"{old.model('main')}/versions/2/checkpoint?reason=audit").content)
    newest, *previous = (json.dumps(envelope).encode() for envelope in old.kept["certificates"])
    size = verify.open_envelope(newest, old.trusted).predicate["log"]["tree_size"]
    first = old.heads[0]
    assert size <= first.size
    given = verify.Evidence(
        checkpoints=[checkpoint],
        earlier_head=old.kept["heads"][0],
        consistency=old.account.get("/v1/log/proof", old=size, size=first.size)["hashes"],
        membership={"salt": old.kept["opening"], "ids": old.kept["ids"]["fulfilled"]},
        previous=previous,
    )
    report = verify.verify(newest, old.trusted, given)
    assert report.verified, report.checks
    # All was given but the checkpoint of the model that was purged.
    assert sum(check.verified is None for check in report.checks) == 1
    wrong = verify.Evidence(membership={"salt": old.kept["opening"], "ids": old.kept["ids"]["never-requested"]})
    assert not verify.verify(newest, old.trusted, wrong).verified


def test_the_log(old: Old) -> None:
    """Entries and proofs are those that were published, and the present proofs lead to the heads that were kept."""
    first, last = old.heads
    entries = old.account.get("/v1/log/entries", limit=1000)["entries"]
    assert entries[: last.size] == old.kept["entries"]
    assert len(old.kept["entries"]) == last.size
    assert {"request.withdrawn", "gate.climbed"} <= {entry["kind"] for entry in entries}
    for leaf, entry in enumerate(entries[: last.size]):
        proof = old.proof(leaf=leaf, size=last.size)
        assert verify.root_by_inclusion(leaf_of(entry), leaf, last.size, proof) == last.root
        if kept := old.kept["inclusion"].get(str(leaf)):
            assert hashes(kept) == proof
    assert first.size < last.size
    proof = old.proof(old=first.size, size=last.size)
    assert proof == hashes(old.kept["consistency"])
    assert verify.roots_by_consistency(first.size, last.size, proof, first.root) == (first.root, last.root)


# -- what was open goes on ---------------------------------------------------------------------------


def test_open_requests_are_carried_out_and_the_log_grows(fresh: Old) -> None:
    account, kept = fresh.account, fresh.kept
    account.post(f"{fresh.where('held')}:release")  # the third of the open batch, which closes it
    [job] = {outcome_of(fresh, role, "batched")["job"] for role in ("held", "pending", "queued")}
    assert job is not None
    made = account.delete(kept["dataset"], kept["ids"]["never-requested"], model=kept["models"]["main"]["id"])
    awaiting = f"{fresh.model('awaiting')}/versions/1"
    content = account.http.get(f"{fresh.model('main')}/versions/1/checkpoint?reason=test").content
    sent = account.http.put(
        f"{awaiting}/checkpoint", content=content, headers={"Content-Type": "application/vnd.safetensors"}
    )
    # Since 0.2 a checkpoint that is known to hold erased samples is no version of another model either.
    assert (sent.status_code, sent.json()["type"].rpartition("/")[2]) == (409, "trained-on-erased")
    account.work()
    open_roles = ("held", "pending", "queued", "escalating")
    where = [*map(fresh.where, open_roles), f"/v1/deletion-requests/{made['id']}"]
    assert [account.get(each)["status"] for each in where] == ["fulfilled"] * 5
    for role in ("queued", "escalating"):
        assert outcome_of(fresh, role, "main")["job"] == outcome_before(fresh, role, "main")["job"]
    # The second method was tried as the policy of then has it, which the model's present one would not have asked for.
    escalated = outcome_of(fresh, "escalating", "main")["version"]
    assert account.get(f"{fresh.model('main')}/versions/{escalated}/audit")["report"]["method"] == "retrain"

    key = sealing.open_key(account.database, account.settings)
    while sealing.seal_due(account.database, key, account.settings.log_name):
        pass
    sealing.sequence_waiting(account.database, key, account.settings.log_name)
    assert account.get("/v1/log/keys") == kept["keys"]
    old, note = fresh.heads[-1], account.http.get("/v1/log/checkpoint").text
    now = verify.open_head(note, fresh.trusted, None)
    assert now.origin == old.origin
    assert now.size > old.size
    proof = fresh.proof(old=old.size, size=now.size)
    assert verify.roots_by_consistency(old.size, now.size, proof, old.root) == (old.root, now.root)
    assert account.get("/v1/log/entries", limit=1000)["entries"][: old.size] == kept["entries"]
    for each in where:
        envelope = json.dumps(account.get(f"{each}/certificate")).encode()
        size = verify.open_envelope(envelope, fresh.trusted).predicate["log"]["tree_size"]
        consistency = account.get("/v1/log/proof", old=old.size, size=size)["hashes"]
        given = verify.Evidence(earlier_head=kept["heads"][-1], consistency=consistency)
        report = verify.verify(envelope, fresh.trusted, given)
        assert report.verified, report.checks


def outcome_before(old: Old, role: str, model: str) -> Document:
    return outcome_in(old.kept["requests"][role], old.kept["models"][model]["id"])


def outcome_of(old: Old, role: str, model: str) -> Document:
    return outcome_in(old.account.get(old.where(role)), old.kept["models"][model]["id"])


def outcome_in(request: Document, model: str) -> Document:
    [found] = [outcome for outcome in request["outcomes"] if outcome["model"] == model]
    return dict(found)


def test_a_backup_is_restored_and_its_erasures_are_replayed(tmp_path: Path) -> None:
    """As docs/operations.md says. The backup was taken before the later two of the three fulfilled requests."""
    unpack("sqlite", tmp_path)
    kept, folder = kept_of(tmp_path), tmp_path / "backup"
    with open_account(Settings(data_dir=folder)) as account:
        old = Old(account, folder, kept)
        assert account.get(f"{old.where('fulfilled')}/certificate") == kept["certificates"][0]
        for role in ("partly-refused", "escalated"):
            account.get(old.where(role), 404)
        command = [sys.executable, "-m", "app", "erasures", "replay", str(tmp_path / "erasures.jsonl"), "--json"]
        done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        counts = {name: n for name, n in json.loads(done.stdout).items() if isinstance(n, int) and n}
        assert counts == {"asked_again": 2, "fulfilled": 1}
        account.work()
        for role in ("fulfilled", "partly-refused", "escalated"):
            before, now = kept["requests"][role], account.get(old.where(role))
            assert {"incomplete": "fulfilled"}.get(status_now(now), now["status"]) == before["status"], role
            for name in ("samples", "received_at", "due_at", "jurisdiction", "rule"):
                assert now[name] == before[name], (role, name)
        samples = account.get(f"/v1/datasets/{kept['dataset']}/samples", page_size=1000)["items"]
        assert len(samples) == account.get(f"/v1/datasets/{kept['dataset']}")["samples"] - 6
