"""Others read what the service signs: a witness countersigns heads, and securesystemslib accepts envelopes."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text

from app import events
from app.core import db
from app.core.tables import Cosignature, Tenant
from app.evidence import certificate, sealing, signing, witness
from app.evidence.witness import Witness, WitnessError
from lethe import verify
from tests.app.evidence import witness_server
from tests.support import Account

TENANT = "ten_first"


@pytest.fixture
def started(account: Account, tmp_path: Path) -> Iterator[Any]:
    """Starts a witness as a process of its own on this machine."""
    processes: list[subprocess.Popen[str]] = []

    def start(how: str) -> Witness:
        sealing.open_key(account.database, account.settings)
        trust = tmp_path / "trust.json"
        trust.write_bytes(account.http.get("/v1/log/keys").content)
        command = [sys.executable, "-m", "tests.app.evidence.witness_server", str(trust), how]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        return Witness.parse(process.stdout.readline().strip())

    yield start
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def happen(account: Account, count: int) -> None:
    key = sealing.open_key(account.database, account.settings)
    with account.database.write() as session:
        for number in range(count):
            events.record(session, TENANT, "test.happened", f"obj_{number}")
    sealing.sequence_waiting(account.database, key, "test-log")


def test_a_witness_countersigns_each_head_that_extends_the_last(account: Account, started: Any) -> None:
    asked = started("honest")
    with httpx.Client(trust_env=False) as http:
        assert account.http.get("/v1/log/checkpoint", params={"witnessed": True}).status_code == 404
        for count in (3, 4):
            happen(account, count)
            assert witness.cosign(account.database, [asked], http) == 1
            assert witness.cosign(account.database, [asked], http) == 0
        note = account.http.get("/v1/log/checkpoint", params={"witnessed": True}).text
        keys = verify.read_trust(account.http.get("/v1/log/keys").content)
        assert verify.open_head(note, keys, None).size == 7
        assert "countersigned by witness.example/one" in verify.check_witness(note, witness_server.VERIFIER)
        plain = account.http.get("/v1/log/checkpoint").text
        with pytest.raises(verify.RefusedError, match="has not countersigned"):
            verify.check_witness(plain, witness_server.VERIFIER)
        with account.database.write() as session:  # what was kept is lost: the witness says what it has seen
            session.query(Cosignature).delete()
        happen(account, 2)
        assert witness.cosign(account.database, [asked], http) == 1


@pytest.mark.validation
def test_a_witness_that_signs_another_tree_is_not_kept(
    account: Account, started: Any, caplog: pytest.LogCaptureFixture
) -> None:
    asked = started("another-tree")
    happen(account, 3)
    with httpx.Client(trust_env=False) as http:
        assert witness.cosign(account.database, [asked], http) == 0
    assert "it signs another tree" in caplog.text
    assert account.http.get("/v1/log/checkpoint", params={"witnessed": True}).status_code == 404


def mute(server: socket.socket) -> Witness:
    """One that takes connections and says nothing."""
    verifier = witness_server.VERIFIER
    return Witness.parse(f"{verifier}@http://127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize("piece", [b"", b"x" * 2**14])
def test_a_reply_that_does_not_end_is_given_up(account: Account, monkeypatch: pytest.MonkeyPatch, piece: bytes) -> None:
    monkeypatch.setattr(witness, "SECONDS", 0.5)
    happen(account, 1)
    key = sealing.open_key(account.database, account.settings)
    sealing.sequence_waiting(account.database, key, account.settings.log_name)

    def drip(server: socket.socket) -> None:
        line, _ = server.accept()
        with line, suppress(OSError):
            line.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for _ in range(100):
                line.sendall(piece or b"x")
                time.sleep(0 if piece else 0.1)

    with socket.create_server(("127.0.0.1", 0)) as server, httpx.Client(trust_env=False) as http:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        with pytest.raises(httpx.ReadTimeout, match="does not end"):
            witness._cosign(account.database, TENANT, mute(server), http)
        thread.join()


def test_a_history_that_was_changed_is_not_countersigned(account: Account, started: Any) -> None:
    """The witness has seen a longer log than this one."""
    asked = started("honest")
    happen(account, 5)
    with httpx.Client(trust_env=False) as http:
        assert witness.cosign(account.database, [asked], http) == 1
        with account.database.write() as session:
            for table in ("log_nodes", "log_heads", "cosignatures", "events"):
                session.execute(text(f"DELETE FROM {table}"))
        happen(account, 2)
        assert witness.cosign(account.database, [asked], http) == 0


@pytest.mark.parametrize(
    "given",
    ["", "name", "name+00000000+AAAA@http://x", f"{witness_server.VERIFIER}@ftp://x", "a+b+c@http://x"],
)
def test_a_witness_is_named_by_its_key_and_its_address(given: str) -> None:
    with pytest.raises(ValueError):
        Witness.parse(given)


def test_a_witness_that_does_not_answer_is_asked_for_one_head_only(
    account: Account,
) -> None:
    """As seen: a mute one held the sweeper up for five seconds a tenant, round after round."""
    with account.database.write() as session:
        for number in range(4):
            session.add(Tenant(id=f"ten_{number}", name=f"t{number}", created_at=db.now(session)))
            session.flush()
            events.record(session, f"ten_{number}", "model.registered", f"mdl_{number}", dataset="x")
    key = sealing.open_key(account.database, account.settings)
    sealing.sequence_waiting(account.database, key, account.settings.log_name)
    asked: list[httpx.Request] = []

    def silent(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        raise httpx.ReadTimeout("nothing came", request=request)

    raw = bytes([4]) + Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    mark = hashlib.sha256(b"w\n" + raw).digest()[:4].hex()
    mute = Witness.parse(f"w+{mark}+{base64.b64encode(raw).decode()}@http://127.0.0.1:9")
    with httpx.Client(transport=httpx.MockTransport(silent)) as http:
        assert witness.cosign(account.database, [mute], http) == 0
    assert len(asked) == 1


def test_a_key_with_another_hash_is_refused() -> None:
    name, _, key = witness_server.VERIFIER.split("+", 2)
    with pytest.raises(ValueError, match="hash"):
        Witness.parse(f"{name}+00000000+{key}@http://127.0.0.1:1")


def test_a_reply_without_its_line_is_refused() -> None:
    found = Witness.parse(f"{witness_server.VERIFIER}@http://127.0.0.1:1")
    with pytest.raises(WitnessError, match="no line"):
        found.line_over("a\n1\nb\n\n— a x\n", "— other AAAA\n")


def test_securesystemslib_accepts_the_envelope(tmp_path: Path) -> None:
    """Another implementation of DSSE verifies what this one signs, and refuses a changed byte."""
    dsse = pytest.importorskip("securesystemslib.dsse")
    signer = pytest.importorskip("securesystemslib.signer")
    key = signing.load("", tmp_path)
    envelope = certificate.sign({"predicate": {"a": 1}}, key)
    public = signer.SSlibKey(key.id, "ed25519", "ed25519", {"public": key.public_bytes.hex()})
    parsed = dsse.Envelope.from_dict(json.loads(json.dumps(envelope)))
    assert parsed.verify([public], 1)
    changed = envelope | {"payload": base64.b64encode(b'{"predicate":{"a":2}}').decode()}
    with pytest.raises(Exception, match=r"[Ss]ignature"):
        dsse.Envelope.from_dict(json.loads(json.dumps(changed))).verify([public], 1)
