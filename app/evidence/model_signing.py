"""Signatures of a model's folder in the form that the field reads: OpenSSF Model Signing v1.0, with a P-256 key.

The bundle is a detached file, `model.sig`: an in-toto statement in a DSSE envelope, in Sigstore's bundle. It lists
every file with its SHA-256; the subject's digest is the SHA-256 of these digests in the order of the names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec

from app.core.config import write_private
from app.evidence import certificate

KEY_FILE = "model-signing-key.pem"
FILE = "model.sig"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@dataclass(frozen=True)
class ModelKey:
    """One P-256 key. `public_pem` may be published."""

    private: ec.EllipticCurvePrivateKey

    @property
    def public_pem(self) -> str:
        info = form.PublicFormat.SubjectPublicKeyInfo
        return self.private.public_key().public_bytes(form.Encoding.PEM, info).decode()


def load(configured: str, folder: Path) -> ModelKey:
    """The key of `configured` (PKCS #8 PEM), else of `folder`/model-signing-key.pem, which is made once.

    Raises:
        ValueError: the PEM is unreadable or of another curve; the text is not repeated.
    """
    path = folder / KEY_FILE
    if not configured and not path.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        pem = made.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        write_private(path, pem.decode().strip(), exclusive=True)
    try:
        key = form.load_pem_private_key((configured or path.read_text()).encode(), password=None)
    except (ValueError, TypeError):
        raise ValueError("the key of model signatures is not an unencrypted PKCS #8 PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the key of model signatures is not a P-256 key")
    return ModelKey(key)


def bundle(name: str, files: Mapping[str, str], key: ModelKey) -> dict[str, Any]:
    """The signature of a folder called `name`. files: SHA-256 in hexadecimal by name."""
    order = sorted(files)
    together = hashlib.sha256(b"".join(bytes.fromhex(files[each]) for each in order)).hexdigest()
    statement = {
        "_type": certificate.STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": together}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [FILE],
            },
            "resources": [{"name": each, "algorithm": "sha256", "digest": files[each]} for each in order],
        },
    }
    payload = json.dumps(statement).encode()
    signature = key.private.sign(certificate.pae(payload), ec.ECDSA(hashes.SHA256()))
    return {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(key.public_pem.encode()).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": certificate.PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
