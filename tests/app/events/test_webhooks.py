"""Addresses that may be called, the standard's signature, the schedule of retries, and TLS to a pinned address."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from app.core.config import Settings
from app.events import webhooks
from app.events.webhooks import RefusedError

NOW = datetime(2026, 11, 21, tzinfo=UTC)
PUBLIC = "93.184.215.14"


def test_the_signature_is_that_of_the_standards_own_example() -> None:
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    found = webhooks.signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_body_is_thin_and_dated() -> None:
    found = webhooks.payload("request.fulfilled", datetime(2026, 1, 2, 3, 4, 5, 678, UTC), {"id": "del_1"})
    assert found == b'{"type":"request.fulfilled","timestamp":"2026-01-02T03:04:05Z","data":{"id":"del_1"}}'


def test_retries_go_on_for_three_days_and_then_end() -> None:
    at, failures = NOW, 0
    while (again := webhooks.retry_at(at, failures := failures + 1)) is not None:
        assert again > at
        at = again
    assert failures == len(webhooks.RETRY_SECONDS) + 1
    assert timedelta(hours=72) < at - NOW < timedelta(hours=80)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        (PUBLIC, True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.31.255.255", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("192.88.99.1", False),
        ("198.18.0.1", False),
        ("203.0.113.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
        ("3fff::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.215.14", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::5db8:d70e", True),
        ("2002:a00:1::", False),
        ("2001:db8::5efe:10.0.0.1", False),
        ("2606:4700::5efe:7f00:1", False),
    ],
)
def test_only_public_addresses_are_called(address: str, public: bool) -> None:
    assert webhooks.is_global(address) == public


def test_one_private_address_among_several_refuses_the_host() -> None:
    parts = webhooks.check_url("https://example.com/hook", allow_private=False)
    with pytest.raises(RefusedError, match="not public"):
        webhooks.targets(parts, allow_private=False, resolver=lambda *_: [PUBLIC, "10.0.0.1"])
    assert webhooks.targets(parts, allow_private=False, resolver=lambda *_: [PUBLIC]) == ([PUBLIC], 443)


def test_a_name_that_has_turned_private_since_it_was_registered_is_not_called() -> None:
    reply = webhooks.send(
        "https://example.com/", ["whsec_QQ=="], "msg_1", b"{}", NOW, allow_private=False,
        resolver=lambda *_: ["169.254.169.254"],
    )  # fmt: skip
    assert (reply.status, reply.delivered) == (None, False)
    assert "not public" in str(reply.error)


# -- TLS -------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> Path:
    """A certificate for `name`, its own authority, with its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(serialization.Encoding.PEM, form, plain)
    )
    return path


class Taker(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.hosts.append(self.headers["host"])  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """A server that says it is hooks.example, and that we believe."""
    path = certificate(tmp_path, "hooks.example")
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(path)
    server = HTTPServer(("127.0.0.1", 0), Taker)
    server.hosts = []  # type: ignore[attr-defined]
    server.socket = own.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[assignment]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    usual = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda: usual(cafile=str(path)))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_pinned_address_must_show_the_hosts_certificate(over_tls: HTTPServer) -> None:
    port = over_tls.server_port

    def post(host: str) -> webhooks.Reply:
        return webhooks.send(
            f"https://{host}:{port}/hook", ["whsec_QQ=="], "msg_1", b"{}", NOW, allow_private=True,
            resolver=lambda *_: ["127.0.0.1"],
        )  # fmt: skip

    assert post("hooks.example").delivered
    assert over_tls.hosts == [f"hooks.example:{port}"]  # type: ignore[attr-defined]
    other = post("other.example")
    assert other.status is None
    assert "its certificate is not trusted: Hostname mismatch" in str(other.error)


def test_a_dead_address_or_one_of_a_family_that_is_not_there_is_passed_over(over_tls: HTTPServer) -> None:
    """As seen: IPv6 first in a container without it, and one dead address of two, failed for days."""
    reply = webhooks.send(
        f"https://hooks.example:{over_tls.server_port}/hook", ["whsec_QQ=="], "msg_1", b"{}", NOW, allow_private=True,
        resolver=lambda *_: ["100::1", "127.0.0.9", "127.0.0.1"],
    )  # fmt: skip
    assert reply.delivered


# -- a receiver that drips ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head", ["HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4000\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n"]
)
def test_a_reply_that_drips_and_ends_with_the_connection_is_cut_off(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """http.client lets go of such a connection before its body is read."""
    monkeypatch.setattr(webhooks, "DEADLINE_SECONDS", 0.5)
    with _drips(head.encode()) as port:
        began = time.monotonic()
        _post(f"http://127.0.0.1:{port}/")
    assert time.monotonic() - began < 3


def test_a_handshake_that_drips_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "DEADLINE_SECONDS", 0.5)
    with _drips(b"\x16\x03\x03\x40\x00") as port:
        began = time.monotonic()
        assert not _post(f"https://127.0.0.1:{port}/").delivered
    assert time.monotonic() - began < 3


def _post(url: str) -> webhooks.Reply:
    return webhooks.send(url, ["whsec_QQ=="], "msg_1", b"{}", NOW, allow_private=True)


@contextmanager
def _drips(head: bytes) -> Iterator[int]:
    """A receiver that sends this and then a byte now and again, for five seconds."""
    over = threading.Event()

    def serve() -> None:
        line, _ = listener.accept()
        with line, suppress(OSError):
            line.recv(65536)
            line.sendall(head)
            for _ in range(50):
                if over.wait(0.1):
                    return
                line.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("url", "netloc", "path"),
    [
        ("https://bücher.example/hook", "xn--bcher-kva.example", "/hook"),
        ("https://BÜCHER.example:8443/é/%C3%A9?q=ü&r=1", "xn--bcher-kva.example:8443", "/%C3%A9/%C3%A9?q=%C3%BC&r=1"),
        ("https://example.org/a b", "example.org", "/a%20b"),
        ("https://[2001:db8::1]:9000/a~b", "[2001:db8::1]:9000", "/a~b"),
    ],
)
def test_letters_beyond_ascii_are_sent_as_the_standards_have_it(url: str, netloc: str, path: str) -> None:
    """As seen: such an address was taken, and every delivery ended in UnicodeEncodeError."""
    parts = webhooks.check_url(url, allow_private=False)
    assert (parts.netloc, parts.path + (f"?{parts.query}" if parts.query else "")) == (netloc, path)


def test_a_host_that_is_no_name_is_refused() -> None:
    with pytest.raises(webhooks.RefusedError, match="no name"):
        webhooks.check_url("https://ü..example/hook", allow_private=False)


# -- networks of the operator ----------------------------------------------------------------------

INSIDE = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("url", "addresses", "refused"),
    [
        ("http://ci.internal/hook", ["10.1.2.3"], None),
        ("https://ci.internal/hook", ["10.1.2.3", "fd12::1"], None),
        ("https://ci.internal/hook", ["10.2.0.1"], "not public"),
        ("https://ci.internal/hook", ["10.1.2.3", "127.0.0.1"], "not public"),
        ("https://ci.internal/hook", ["169.254.169.254"], "not public"),
        ("http://example.com/hook", [PUBLIC], "must be https"),
        ("http://ci.internal/hook", ["10.1.2.3", PUBLIC], "must be https"),
        ("ftp://ci.internal/hook", ["10.1.2.3"], "must be https"),
    ],
)
def test_an_operator_may_allow_private_networks(url: str, addresses: list[str], refused: str | None) -> None:
    def tried() -> list[str]:
        parts = webhooks.check_url(url, allow_private=INSIDE)
        return list(webhooks.targets(parts, allow_private=INSIDE, resolver=lambda *_: addresses)[0])

    if refused is None:
        assert tried() == addresses
    else:
        with pytest.raises(webhooks.RefusedError, match=refused):
            tried()


def test_networks_are_listed_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().private_receivers == []
    monkeypatch.setenv("LETHE_WEBHOOK_NETWORKS", "10.1.0.0/16, fd00::/8")
    assert Settings().private_receivers == INSIDE
    monkeypatch.setenv("LETHE_WEBHOOK_NETWORKS", "10.1.0.0/33")
    with pytest.raises(ValidationError):
        Settings()
