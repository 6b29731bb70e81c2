"""Shares and rates, without a server."""

from __future__ import annotations

import pytest

from app.api.http import rooms
from app.api.http.rooms import AddressRates, Rates, Room
from app.core.errors import AppError, TooManyRequests, Unavailable
from app.core.keys import Caller


def caller(tenant: str, key: str = "") -> Caller:
    return Caller(tenant, key or f"key of {tenant}", frozenset())


def most(room: Room, *callers: Caller) -> list[int]:
    """How many each of the callers gets, one after the other."""
    found = []
    for who in callers:
        count = 0
        try:
            while True:
                room.take(who)
                count += 1
        except AppError:
            found.append(count)
    return found


def test_a_key_gets_half_a_tenant_three_quarters_and_others_the_rest() -> None:
    assert most(Room("streams", 100), caller("a", "1"), caller("a", "2"), caller("a", "3"), caller("b")) == [
        50,
        25,
        0,
        25,
    ]


def test_a_share_is_refused_with_429_and_a_full_process_with_503() -> None:
    room = Room("streams", 4)
    room.take(caller("a", "1"), 2)
    with pytest.raises(TooManyRequests, match="key has reached its limit of 2 streams"):
        room.take(caller("a", "1"))
    room.take(caller("a", "2"))
    with pytest.raises(TooManyRequests, match="tenant has reached its limit of 3 streams") as refused:
        room.take(caller("a", "2"))
    assert refused.value.headers == {"Retry-After": "1"}
    room.take(caller("b"))
    with pytest.raises(Unavailable, match="limit of streams"):
        room.take(caller("c"))


def test_every_share_is_enough_for_one_call() -> None:
    assert most(Room("streams", 1), caller("a"), caller("b")) == [1, 0]
    room = Room("bytes", 10, least=32)
    room.take(caller("a"), 32)


def test_what_is_given_back_can_be_taken_again_and_leaves_nothing_behind() -> None:
    room = Room("streams", 2)
    with room.taken(caller("a")):
        assert most(room, caller("a")) == [0]
    with room.taken(caller("a")):
        pass
    assert room._used == 0
    assert not room._by_owner


def test_a_call_too_many_is_refused_until_its_time_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(rooms.time, "monotonic", lambda: now)
    rates = Rates(per_key=0.5, per_tenant=2)
    rates.take(caller("a", "1"))
    with pytest.raises(TooManyRequests, match="key may make") as refused:
        rates.take(caller("a", "1"))
    assert refused.value.headers == {"Retry-After": "2"}
    rates.take(caller("a", "2"))
    with pytest.raises(TooManyRequests, match="tenant may make 2 calls") as refused:
        rates.take(caller("a", "3"))
    assert refused.value.headers == {"Retry-After": "1"}
    rates.take(caller("b"))
    now += 2
    rates.take(caller("a", "1"))


def test_without_a_rate_nothing_is_counted() -> None:
    assert not Rates(0, 0)


def test_calls_without_a_key_are_counted_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(rooms.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(rooms, "ADDRESSES", 3)
    rates = AddressRates(rate=0.5, most=2)
    for address in ("192.0.2.1", "2001:db8::1", "2001:db8::ffff:2", "::ffff:192.0.2.1"):
        rates.take(address)
    for address in ("192.0.2.1", "2001:db8::3"):
        with pytest.raises(TooManyRequests) as refused:
            rates.take(address)
        assert refused.value.headers == {"Retry-After": "2"}
    rates.take("2001:db8:0:1::1")
    now[0] += 2
    rates.take("192.0.2.1")
    for name in ("a", "", "b", "c"):
        rates.take(name)
    assert len(rates._left) == 3
