"""A signed folder: by the specification's own rules, computed here from the files that a client gets."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from app.blobs.open import open_blobs
from app.evidence import model_signing
from app.releases import signatures
from tests.app.releases.test_export import exported
from tests.helpers import is_problem
from tests.trained import Trained


@pytest.mark.validation
def test_an_exported_folder_carries_its_signature(trained: Trained, tmp_path: Path) -> None:
    account, where = trained.account, f"{trained.where}/versions/1"
    is_problem(account.http.get(f"{where}/signature"), 404, "not-found")
    account.post(f"{where}:sign", {"form": "plain"})
    is_problem(account.http.get(f"{where}/signature"), 409, "signature-not-ready")
    is_problem(account.http.post(f"{where}:sign", json={"form": "hugging-face"}), 422, "export-form")
    key = model_signing.load("", account.settings.data_dir)
    assert signatures.sign_due(account.database, open_blobs(account.settings), key) == 1
    assert signatures.sign_due(account.database, open_blobs(account.settings), key) == 0
    folder = exported(trained, trained.model, "plain", tmp_path / "out")
    bundle = json.loads((folder / "model.sig").read_text())
    found = account.get(f"{where}/signature")
    assert found["bundle"] == bundle
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"

    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    signed = b" ".join([b"DSSEv1", b"%d" % len(kind), kind, b"%d" % len(payload), payload])
    public = load_pem_public_key(found["public_key"].encode())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    public.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        public.verify(signature, signed + b" ", ec.ECDSA(hashes.SHA256()))
    hint = hashlib.sha256(found["public_key"].encode()).hexdigest()
    assert bundle["verificationMaterial"]["publicKey"]["hint"] == hint

    statement = json.loads(payload)
    resources = statement["predicate"]["resources"]
    files = sorted(path.name for path in folder.iterdir() if path.name != "model.sig")
    assert [each["name"] for each in resources] == files
    assert [each["digest"] for each in resources] == [
        hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files
    ]
    together = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources)).hexdigest()
    assert statement["subject"][0]["digest"]["sha256"] == together


def test_a_folder_that_changed_since_is_exported_without_it(trained: Trained, tmp_path: Path) -> None:
    account, where = trained.account, f"{trained.where}/versions/1"
    account.post(f"{where}:sign", {})
    key = model_signing.load("", account.settings.data_dir)
    signatures.sign_due(account.database, open_blobs(account.settings), key)
    with account.database.write() as session:
        row = session.query(signatures.ModelSignature).one()
        row.files = {**row.files, "README.md": "0" * 64}
    assert not (exported(trained, trained.model, "plain", tmp_path / "out") / "model.sig").exists()


def test_a_folder_that_cannot_be_signed_keeps_no_other(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    account = trained.account
    other = account.model(trained.dataset, train=False)["id"]
    account.post(f"/v1/models/{other}:train", {"seed": 2})
    account.work()
    for model in (trained.model, other):
        account.post(f"/v1/models/{model}/versions/1:sign", {})
    blobs, key = open_blobs(account.settings), model_signing.load("", account.settings.data_dir)
    first = account.get(f"{trained.where}/versions/1")["digest"]
    (account.settings.data_dir / "blobs" / first.removeprefix("sha256:")[:2] / first.removeprefix("sha256:")).unlink()
    monkeypatch.setattr(signatures, "AT_ONCE", 1)
    assert signatures.sign_due(account.database, blobs, key) == 1
    assert "a folder could not be signed" in caplog.text
    assert account.get(f"/v1/models/{other}/versions/1/signature")["bundle"]
    is_problem(account.http.get(f"{trained.where}/versions/1/signature"), 409, "signature-not-ready")


def test_a_key_of_another_curve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="PKCS #8"):
        model_signing.load("nonsense", tmp_path)
    made = model_signing.load("", tmp_path)
    assert model_signing.load("", tmp_path).public_pem == made.public_pem
