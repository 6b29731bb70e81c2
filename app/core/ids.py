"""Ids of rows: a prefix that says the noun, then 48 bits of time and 80 random bits, so that ids sort by age.

Within one process they never run backwards, so that jobs made in one transaction keep their order.
"""

from __future__ import annotations

import base64
import re
import secrets
import threading
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
_DIGITS = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", ALPHABET.encode())

_lock = threading.Lock()
_last = 0


def is_id(prefix: str, text: str) -> bool:
    """Whether `text` has the form of an id, so that it is none of the names that people give."""
    return re.fullmatch(rf"{prefix}_[{ALPHABET}]{{26}}", text) is not None


def new_id(prefix: str) -> str:
    global _last
    with _lock:
        _last = number = max(_last + 1, (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80))
    digits = base64.b32encode(number.to_bytes(20, "big"))[-26:]  # 130 of 160 bits
    return f"{prefix}_{digits.translate(_DIGITS).decode()}"
