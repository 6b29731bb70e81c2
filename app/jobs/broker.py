"""The broker, asked for what hints need: to keep one in a list and to give it back.

A broker that answers PING may still take no write (full, or a replica after a failover). Jobs do not need it: their
rows are the truth, and a worker that learns that the broker fails watches the database instead.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Literal

from app.core.config import PlainError

SECONDS = 1.0  # for a connection, and for a reply
KEPT_SECONDS = 60  # of what a probe that died left in the broker
MEANWHILE = "workers watch the database until it does"

TO_MEND = {
    "ReadOnlyError": "it is a read-only replica: point LETHE_BROKER_URL at the primary",
    "OutOfMemoryError": "its memory is full: free some, or raise its `maxmemory`",
    "AuthenticationError": "it does not accept the user and password of LETHE_BROKER_URL",
    "AuthenticationWrongNumberOfArgsError": "it does not accept the user and password of LETHE_BROKER_URL",
    "NoPermissionError": "its user may not use lists with names that begin with `lethe.`: change its access list",
    "MISCONF": "it cannot save to its disk: free space there, or switch its persistence off (hints need none)",
    "NOREPLICAS": "it has too few replicas for its `min-replicas-to-write`",
    "WRONGTYPE": "it is not Redis, or keeps other things under names that begin with `lethe.`",
}
"""What only a person can mend, by the library's kind of error or by the code in the reply."""


@dataclass(frozen=True)
class Fault:
    """Why no hint can pass now; `words` never repeats the address or a reply."""

    kind: Literal["unreachable", "refuses"]
    words: str


class BrokerError(PlainError):
    """A hint could not be sent."""


def fault(url: str) -> Fault | None:
    """Put a hint-like entry into a list of its own, and take it out again; None if the broker did both."""
    import redis  # only where there is a broker

    name = f"lethe.probe.{secrets.token_hex(8)}"
    try:
        client = redis.Redis.from_url(url, socket_connect_timeout=SECONDS, socket_timeout=SECONDS)
        with client, client.pipeline(transaction=False) as calls:
            calls.lpush(name, "probe")
            calls.expire(name, KEPT_SECONDS)
            calls.rpop(name)
            replies = calls.execute()
    except redis.RedisError as error:
        return _named(error)
    return None if replies[-1] == b"probe" else Fault("refuses", f"the broker loses what it is given; {MEANWHILE}")


def _named(error: Exception) -> Fault:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    codes = re.findall(r"\b[A-Z]{4,}\b", str(error))  # a pipeline puts its own words before the reply
    for name in (*kinds, *codes):
        if name in TO_MEND:
            return Fault("refuses", f"the broker takes no hints: {TO_MEND[name]}; {MEANWHILE}")
    if "ConnectionError" in kinds or "TimeoutError" in kinds:
        return Fault("unreachable", f"the broker of LETHE_BROKER_URL does not answer; {MEANWHILE}")
    return Fault("refuses", f"the broker takes no hints; {MEANWHILE}")
