"""Ids: their form, their order, and that no two are alike."""

from __future__ import annotations

import re
import threading

import pytest

from app.api.http.patterns import id_pattern
from app.core import ids
from app.core.ids import new_id


def test_the_form_is_the_one_that_the_api_accepts() -> None:
    for _ in range(200):
        assert re.fullmatch(id_pattern("job"), new_id("job"))


def test_they_never_run_backwards_even_if_the_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [new_id("job") for _ in range(500)]
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1)
    made += [new_id("job") for _ in range(500)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_threads_get_different_ones() -> None:
    made: list[list[str]] = [[] for _ in range(8)]

    def make(place: int) -> None:
        made[place] = [new_id("job") for _ in range(500)]

    threads = [threading.Thread(target=make, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({name for part in made for name in part}) == 4000
    assert all(part == sorted(part) for part in made)


def test_a_later_millisecond_sorts_later(monkeypatch: pytest.MonkeyPatch) -> None:
    start = ids.time.time_ns() + 10**9 * 3600
    monkeypatch.setattr(ids.time, "time_ns", lambda: start)
    monkeypatch.setattr(ids.secrets, "randbits", lambda _: 2**80 - 2)
    first = new_id("job")
    monkeypatch.setattr(ids.time, "time_ns", lambda: start + 1_000_000)
    monkeypatch.setattr(ids.secrets, "randbits", lambda _: 0)
    assert new_id("job") > first
    monkeypatch.setattr(ids, "_last", 0)
