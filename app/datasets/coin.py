"""The coin that decides which canaries are trained on.

A dataset with a coin leaves it to the service which canaries are trained on: for each, one fair bit that follows from a
secret. The secret's digest is in the transparency log before any sample is sent, so that nobody can have chosen the
canaries by it, and the secret is shown once the dataset is ready. After an exact forget of those that were trained on,
these and those kept out are exchangeable for any score, so an audit of them takes no reference model.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

SUBJECT = "lethe:canary"
COIN_BYTES = 32


def new_coin() -> str:
    """The secret of a dataset whose canaries the service assigns, in hex."""
    return secrets.token_hex(COIN_BYTES)


def commitment(coin: str) -> str:
    """What is logged of a coin before it is used: the SHA-256 digest of its bytes, in hex."""
    return hashlib.sha256(bytes.fromhex(coin)).hexdigest()


def kept_out(coin: str, sample_id: str) -> bool:
    """Whether the coin holds a canary out: the lowest bit of the first byte of HMAC-SHA-256(coin, id)."""
    return bool(hmac.digest(bytes.fromhex(coin), sample_id.encode(), "sha256")[0] & 1)


def assign(coin: str, ids: Sequence[str], subjects: Sequence[str | None] | None, holdout: Sequence[bool]) -> list[bool]:
    """Which samples are held out, the canaries among them by the coin."""
    whose = subjects or [None] * len(ids)
    return [
        kept_out(coin, name) if subject == SUBJECT else held
        for name, subject, held in zip(ids, whose, holdout, strict=True)
    ]
