"""No webhook reaches this machine or a private network, however its address is written: a canary on loopback hears
nothing."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest

from app.events import webhooks

NOW = datetime(2026, 11, 21, tzinfo=UTC)
# Every way in which a host says this machine, a private network, a cloud's metadata, or one of those inside IPv6.
HOSTS = [
    *("127.0.0.1", "127.1", "127.0.1", "127.127.127.127", "127.0.0.1.", "2130706433", "0x7f000001", "0x7f.1"),
    *("0x7f.0.0.1", "0177.0.0.1", "017700000001", "0177.0x0.0.1", "0", "0.0.0.0", "0x0", "00000000000"),
    *("localhost", "LOCALHOST", "localhost.", "localhost.localdomain", "ip6-localhost", "127.0.0.1%00.example.com"),
    *("１２７.0.0.1", "127。0。0。1", "①②⑦.0.0.1", "ⓛocalhost"),
    *("10.0.0.1", "10.1", "0xa.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "3232235521"),
    *("169.254.169.254", "169.254.43518", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376"),
    *("100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1"),
    *("240.0.0.1", "255.255.255.255", "192.88.99.1"),
    *("[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]"),
    *("[::ffff:10.0.0.1]", "[::ffff:a9fe:a9fe]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::7f00:1]"),
    *("[2002:7f00:1::]", "[2002:a9fe:a9fe::]", "[2001:0:0:0:0:0:80ff:fffe]", "[2606:4700::5efe:7f00:1]"),
    *("[::ffff:0:127.0.0.1]", "[fc00::1]", "[fd00:ec2::254]", "[fe80::1]", "[fe80::1%25lo]", "[ff02::1]"),
    *("[2001:db8::1]", "[3fff::1]", "[100::1]", "[::1%25lo]"),
]
FORMS = [
    "https://user@{host}:{port}/", "https://user:password@{host}:{port}/", "https://example.com@{host}:{port}/",
    "https://{host}:{port}#@example.com/", "https://{host}:{port}\\@example.com/", "http://{host}:{port}/",
    "gopher://{host}:{port}/", "file:///etc/passwd", "https:///{host}:{port}/", "//{host}:{port}/", "HTTPS://{host}:{port}",
    "https://{host}:{port}/\r\nX: y", " https://{host}:{port}/",
]  # fmt: skip


class Canary:
    """Listens on every address of this machine, and never answers."""

    def __init__(self) -> None:
        self.lines = [socket.create_server(("0.0.0.0", 0))]
        self.port = self.lines[0].getsockname()[1]
        if socket.has_dualstack_ipv6():
            self.lines.append(socket.create_server(("::", self.port), family=socket.AF_INET6))

    def heard(self) -> int:
        return len(select.select(self.lines, [], [], 0)[0])


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    found = Canary()
    yield found
    for line in found.lines:
        line.close()


def send(url: str, resolver: webhooks.Resolver = webhooks.resolve) -> webhooks.Reply:
    return webhooks.send(url, ["whsec_QQ=="], "msg_1", b"{}", NOW, allow_private=False, resolver=resolver)


def test_there_are_enough_of_them() -> None:
    assert len(set(HOSTS)) + len(FORMS) >= 60


@pytest.mark.parametrize("host", HOSTS)
def test_no_host_leads_inside(host: str, canary: Canary) -> None:
    reply = send(f"https://{host}:{canary.port}/hook")
    assert reply.status is None
    assert reply.error in (
        "the host has an address that is not public",
        "the host has no address",
    ) or str(reply.error).startswith("the address"), reply
    assert canary.heard() == 0


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_an_address_leads_inside(form: str, canary: Canary) -> None:
    assert send(form.format(host="127.0.0.1", port=canary.port)).status is None
    assert canary.heard() == 0


def test_a_name_that_changes_between_two_looks_is_looked_up_once(
    canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the first answer is public, every later one is this machine. The first is what is called."""
    answers: list[Sequence[str]] = []
    called: list[str] = []

    def rebinding(_host: str, _port: int) -> Sequence[str]:
        answers.append(["127.0.0.1"] if answers else ["93.184.215.14"])
        return answers[-1]

    def connect(address: tuple[str, int], *_: object) -> socket.socket:
        called.append(address[0])
        raise OSError

    monkeypatch.setattr(webhooks.socket, "create_connection", connect)
    assert send(f"https://rebinding.example:{canary.port}/", rebinding).status is None
    assert called == ["93.184.215.14"]
    assert canary.heard() == 0


def test_the_canary_hears_what_reaches_it(canary: Canary) -> None:
    with socket.create_connection(("127.0.0.1", canary.port)):
        assert canary.heard() == 1
        canary.lines[0].accept()[0].close()
