"""Ids of rows: a prefix that says the noun, then 48 bits of time and 80 random bits, so that ids sort by age.

Within one process they never run backwards, so that jobs made in one transaction keep their order.
"""

from __future__ import annotations

import secrets
import threading
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32

_lock = threading.Lock()
_last = 0


def new_id(prefix: str) -> str:
    global _last
    with _lock:
        _last = number = max(_last + 1, (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80))
    digits = []
    for _ in range(26):
        number, digit = divmod(number, 32)
        digits.append(ALPHABET[digit])
    return f"{prefix}_{''.join(reversed(digits))}"
