"""Shares of what one process has: how much of it a key and a tenant may have at once, and how often they may call."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.core.errors import TooManyRequests, Unavailable
from app.core.keys import Caller

MOST_OF_STRANGERS = 2**18  # bytes of one body that comes without a key or a session
ADDRESSES = 10_000  # that are counted at a time


class Room:
    """A number of things (bytes, streams, files) that a process handles at once.

    One key gets at most half of it and one tenant three quarters, so that something is left for others, but at least
    `least`, which is as much as a single call may need.
    """

    def __init__(self, what: str, size: int, least: int = 1) -> None:
        self._what = what
        self._size = max(size, least)
        self._of_tenant, self._of_key = max(3 * size // 4, least), max(size // 2, least)
        self._used = 0
        self._by_owner: Counter[str] = Counter()

    def take(self, who: Caller | None, amount: int = 1) -> None:
        """Count `amount` more for the caller, until it is given back. Of callers whom nobody knows (None) none has a
        share.

        Raises:
            TooManyRequests: it is more than the share of the key or of its tenant.
            Unavailable: the process has no more.
        """
        wait = {"Retry-After": "1"}
        owners = _owners(who)
        for owner, name, most in zip(owners, ("key", "tenant"), (self._of_key, self._of_tenant), strict=False):
            if self._by_owner[owner] + amount > most:
                reached = (
                    f"This {name} has reached its limit of {most} {self._what} at once. Wait until some have ended."
                )
                raise TooManyRequests(reached, kind="too-many-at-once", headers=wait)
        if self._used + amount > self._size:
            raise Unavailable(
                f"The service has reached its limit of {self._what}. Try again.", kind="busy", headers=wait
            )
        self._used += amount
        for owner in owners:
            self._by_owner[owner] += amount

    def give_back(self, who: Caller | None, amount: int = 1) -> None:
        self._used -= amount
        for owner in _owners(who):
            self._by_owner[owner] -= amount
            if not self._by_owner[owner]:
                del self._by_owner[owner]

    @contextmanager
    def taken(self, who: Caller) -> Iterator[None]:
        """One of it, for as long as the block lasts."""
        self.take(who)
        try:
            yield
        finally:
            self.give_back(who)


def _owners(who: Caller | None) -> tuple[str, ...]:
    return () if who is None else (who.key_id, who.tenant_id)


class Rates:
    """Calls a second of each key and of each tenant; 0 is no limit. A second's calls may come all at once."""

    def __init__(self, per_key: float, per_tenant: float) -> None:
        self._per_key, self._per_tenant = per_key, per_tenant
        self._left: dict[str, tuple[float, float]] = {}  # calls left, and when that was so

    def __bool__(self) -> bool:
        return bool(self._per_key or self._per_tenant)

    def take(self, who: Caller) -> None:
        """Count a call. Raises TooManyRequests, which says when to call again."""
        now = time.monotonic()
        for owner, name, rate in (
            (who.key_id, "key", self._per_key),
            (who.tenant_id, "tenant", self._per_tenant),
        ):
            if not rate:
                continue
            most = max(rate, 1.0)
            left, then = self._left.get(owner, (most, now))
            left = min(most, left + (now - then) * rate)
            if left < 1:
                wait = {"Retry-After": str(math.ceil((1 - left) / rate))}
                said = f"This {name} may make {rate:g} calls a second. Call again after the time in Retry-After."
                raise TooManyRequests(said, headers=wait)
            self._left[owner] = (left - 1, now)


class AddressRates:
    """Calls without a key, of each address: `most` at once, and then `rate` a second."""

    def __init__(self, rate: float, most: int) -> None:
        self._rate, self._most = rate, most
        self._left: dict[str, tuple[float, float]] = {}  # calls left, and when that was so; longest unseen first

    def take(self, address: str) -> None:
        """Count a call. Raises TooManyRequests, which says when to call again."""
        now, owner = time.monotonic(), _network(address)
        left, then = self._left.pop(owner, (float(self._most), now))
        left = min(self._most, left + (now - then) * self._rate)
        self._left[owner] = (left - 1 if left >= 1 else left, now)
        while len(self._left) > ADDRESSES:
            self._left.pop(next(iter(self._left)))
        if left < 1:
            wait = {"Retry-After": str(math.ceil((1 - left) / self._rate))}
            raise TooManyRequests("Too many calls without a key came from this address.", headers=wait)


def _network(address: str) -> str:
    """What one caller has: one IPv4 address, or 2**64 addresses of IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 6 and (inner := found.ipv4_mapped) is not None:
        return str(inner)
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)
