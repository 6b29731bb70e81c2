"""The service's Ed25519 key: where it comes from, what it signs, and which earlier keys are still believed.

A key is named by the SHA-256 of its DER-encoded public half, which anyone can recompute:
`openssl pkey -pubin -in key.pem -outform DER | sha256sum`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.config import StartError, write_private

OVERLAP = timedelta(days=1)  # how long a replaced key may still sign, so that a rolling restart refuses nothing
LARGEST = 2**53 - 1
KEY_FILE = "signing-key.pem"
MAKE = "`openssl genpkey -algorithm ed25519` makes one"
NOTE_ED25519 = b"\x01"  # signature type of a C2SP signed note


@dataclass(frozen=True)
class SigningKey:
    """One Ed25519 key. `id` and `public_pem` may be published."""

    private: Ed25519PrivateKey

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message)

    @property
    def public_bytes(self) -> bytes:
        """32 bytes, RFC 8032."""
        return self.private.public_key().public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)

    @property
    def public_pem(self) -> str:
        info = form.PublicFormat.SubjectPublicKeyInfo
        return self.private.public_key().public_bytes(form.Encoding.PEM, info).decode()

    @property
    def id(self) -> str:
        info = form.PublicFormat.SubjectPublicKeyInfo
        der = self.private.public_key().public_bytes(form.Encoding.DER, info)
        return "sha256:" + hashlib.sha256(der).hexdigest()


def load(configured: str, folder: Path) -> SigningKey:
    """The key of `configured` (PKCS #8 PEM), else of `folder`/signing-key.pem, which is made once.

    Raises:
        StartError: the PEM is unreadable or of another algorithm; the text is not repeated.
    """
    if configured:
        return _parse(configured, "LETHE_SIGNING_KEY")
    path = folder / KEY_FILE
    if not path.exists():
        write_private(path, _new_pem(), exclusive=True)
    return _parse(path.read_text(), f"the file {path}")


def _new_pem() -> str:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return pem.decode().strip()


def _parse(pem: str, place: str) -> SigningKey:
    """Files of variables cannot hold a line feed: there it is written as a backslash and an n."""
    try:
        key = form.load_pem_private_key(pem.replace("\\n", "\n").encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise StartError(f"{place} is no private key as unencrypted PKCS #8 PEM: {MAKE}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise StartError(f"{place} is a key of another kind than Ed25519: {MAKE}")
    return SigningKey(key)


# -- canonical bytes (RFC 8785) --------------------------------------------------------------------


def canonical(value: Any) -> bytes:
    """The one byte form of a JSON value: members by UTF-16 code units, numbers as ECMAScript prints them.

    Raises:
        ValueError: not JSON, not finite, or an integer that a double cannot hold.
    """
    return _canonical(value).encode()


def _canonical(value: Any) -> str:
    match value:
        case None | bool() | str():
            return json.dumps(value, ensure_ascii=False)
        case int() if abs(value) <= LARGEST:
            return str(value)
        case float() if math.isfinite(value):
            return _number(value)
        case list() | tuple():
            return f"[{','.join(map(_canonical, value))}]"
        case dict() if all(isinstance(name, str) for name in value):
            names = sorted(value, key=lambda name: name.encode("utf-16-be"))
            return "{" + ",".join(f"{_canonical(name)}:{_canonical(value[name])}" for name in names) + "}"
    raise ValueError(f"no canonical form for a {type(value).__name__} of this value")


def _number(value: float) -> str:
    """ECMAScript's Number::toString; Python finds the same shortest digits and only lays them out otherwise."""
    if value == 0:
        return "0"
    mantissa, _, power = repr(abs(value)).partition("e")
    whole, _, part = mantissa.partition(".")
    point = len(whole) + int(power or 0)  # the decimal point stands after so many of the figures
    figures = (whole + part).lstrip("0")
    point -= len(whole + part) - len(figures)
    figures, minus = figures.rstrip("0"), "-" * (value < 0)
    if len(figures) <= point <= 21:
        return minus + figures.ljust(point, "0")
    if 0 < point <= 21:
        return f"{minus}{figures[:point]}.{figures[point:]}"
    if -6 < point <= 0:
        return f"{minus}0.{'0' * -point}{figures}"
    fraction = f".{figures[1:]}" if len(figures) > 1 else ""
    return f"{minus}{figures[0]}{fraction}e{point - 1:+d}"


# -- signed notes (C2SP signed-note) ---------------------------------------------------------------


def note_key_id(key: SigningKey, name: str) -> bytes:
    """Four bytes that say which key of that name signed."""
    return hashlib.sha256(name.encode() + b"\n" + NOTE_ED25519 + key.public_bytes).digest()[:4]


def sign_note(key: SigningKey, name: str, text: str) -> str:
    """`text` and one signature line by the key under that name.

    Raises:
        ValueError: `text` has no final newline, or `name` a space or a plus sign.
    """
    if not text.endswith("\n") or not name or "+" in name or len(name.split()) != 1:
        raise ValueError("a note ends in a newline, and a key name has no space and no plus sign")
    signature = base64.b64encode(note_key_id(key, name) + key.sign(text.encode())).decode()
    return f"{text}\n\N{EM DASH} {name} {signature}\n"


# -- rotation --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KnownKey:
    """A public key and when its signatures count: `not_before` <= signed at < `not_after` (UTC)."""

    id: str
    public_pem: str
    not_before: datetime
    not_after: datetime | None


def rotate(known: Iterable[KnownKey], key: SigningKey, now: datetime) -> list[KnownKey]:
    """The known keys once `key` signs: itself added if new, and the others ended after `OVERLAP`.

    A key that was replaced and is still within its overlap changes nothing: it is a process not yet restarted.

    Raises:
        StartError: `key` was replaced longer ago, so that what it signs would not be believed.
    """
    keys = list(known)
    mine = next((k for k in keys if k.id == key.id), None)
    if mine is not None:
        if mine.not_after is not None and mine.not_after <= now:
            raise StartError(
                "the key of LETHE_SIGNING_KEY was replaced by another and may not sign any more: set the newer one"
            )
        return keys
    ended = [replace(k, not_after=now + OVERLAP) if k.not_after is None else k for k in keys]
    return [*ended, KnownKey(key.id, key.public_pem, now, None)]


def trust_document(known: Iterable[KnownKey]) -> dict[str, Any]:
    """What an auditor keeps and gives to `lethe.verify --trust`."""
    return {
        "keys": [
            {
                "id": key.id,
                "public_key": key.public_pem,
                "not_before": _utc(key.not_before),
                "not_after": _utc(key.not_after) if key.not_after else None,
            }
            for key in sorted(known, key=lambda key: key.not_before)
        ]
    }


def _utc(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds") + "Z"
