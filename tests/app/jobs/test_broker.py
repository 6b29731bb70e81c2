"""What a broker must do for hints, and how its refusals are named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.jobs import broker
from tests.redis_server import FULL, READ_ONLY, RedisServer, redis_server
from tests.support import free_port


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as found:
        yield found


def test_a_broker_that_keeps_a_hint_is_well(server: RedisServer) -> None:
    assert broker.fault(server.url) is None


@pytest.mark.parametrize(
    ("command", "reply", "said"),
    [
        (b"LPUSH", READ_ONLY, "point LETHE_BROKER_URL at the primary"),
        (b"LPUSH", FULL, "its memory is full"),
        (b"LPUSH", b"-MISCONF Redis is configured to save RDB snapshots, but it cannot persist.", "cannot save"),
        (b"LPUSH", b"-NOPERM User default has no permissions to access 'lethe.x'", "access list"),
        (b"LPUSH", b"-NOREPLICAS Not enough good replicas to write.", "min-replicas-to-write"),
        (b"LPUSH", b"-NOAUTH Authentication required.", "user and password"),
        (b"HELLO", b"-WRONGPASS invalid username-password pair or user is disabled.", "user and password"),
        (b"LPUSH", b"-CLUSTERDOWN The cluster is down", "takes no hints"),
        (b"LPUSH", b"-ERR something about hunter2", "takes no hints"),
        (b"RPOP", b"_", "loses what it is given"),
    ],
)
def test_a_broker_that_answers_ping_and_takes_no_write_is_named(
    server: RedisServer, command: bytes, reply: bytes, said: str
) -> None:
    server.refuse(reply, command)
    found = broker.fault(server.url.replace("//", "//:hunter2@"))
    assert found is not None
    assert found.kind == "refuses"
    assert said in found.words
    assert "hunter2" not in found.words


def test_a_broker_that_is_away_or_loads_does_not_answer(server: RedisServer) -> None:
    server.refuse(b"-LOADING Redis is loading the dataset in memory", b"LPUSH")
    for url in (server.url, f"redis://127.0.0.1:{free_port()}/0"):
        found = broker.fault(url)
        assert found is not None
        assert found.kind == "unreachable"
