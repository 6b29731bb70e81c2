"""The client behind a company's wall: authorities of its own, proxies, keys out of files, terminals without letters."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.events import webhooks
from lethe import Client, LetheError, UnreachableError
from lethe.cli.settings import read_settings
from lethe.transport import cleaned, system_proxy

ROOT = Path(__file__).parents[2]


# -- a private authority ---------------------------------------------------------------------------


def _certificate(folder: Path, name: str, issuer: x509.Certificate | None, signer: ec.EllipticCurvePrivateKey | None):  # type: ignore[no-untyped-def]
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer is None:
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
        builder = builder.add_extension(authority, critical=False)
    made = builder.sign(signer or key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made, key


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"status": "ready"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority")
    root, key = _certificate(folder, "authority", None, None)
    _certificate(folder, "service", root, key)
    return folder


@contextmanager
def served(authority: Path | None) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority / "service.pem", authority / "service.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def secured(authority: Path) -> Iterator[str]:
    with served(authority) as port:
        yield f"https://127.0.0.1:{port}"


def ready(url: str, **options: object) -> str:
    with Client(url, "lethe_a_b", retries=0, **options) as calls:  # type: ignore[arg-type]
        return str(calls.ready()["status"])


def test_a_private_authority_is_trusted_by_name(
    secured: str, authority: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As seen: SSL_CERT_FILE was not looked at, and there was no other way."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(LetheError, match=r"not trusted.*SSL_CERT_FILE"):
        ready(secured)
    file = authority / "authority.pem"
    assert ready(secured, verify=file) == "ready"
    assert ready(secured, verify=str(file)) == "ready"
    assert ready(secured, verify=ssl.create_default_context(cafile=file)) == "ready"
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert ready(secured) == "ready"
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    with pytest.raises(LetheError, match="SSL_CERT_FILE names no file"):
        ready(secured)
    with pytest.raises(LetheError, match="`verify` names no file"):
        ready(secured, verify=str(tmp_path / "nothing.pem"))


def test_the_command_line_trusts_it_too(secured: str, authority: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LETHE_")} | {
        "LETHE_URL": secured,
        "LETHE_API_KEY": "lethe_a_b \r\n",
        "SSL_CERT_FILE": str(authority / "authority.pem"),
        "LETHE_DATA_DIR": str(tmp_path),
    }
    code = "from lethe.cli.common import client\nwith client() as c: print(c.ready()['status'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "ready\n", done.stderr


def test_webhooks_trust_it_too_and_say_what_is_wrong(
    secured: str, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send() -> webhooks.Reply:
        now = dt.datetime.now(dt.UTC)
        return webhooks.send(f"{secured}/", ["whsec_YQ=="], "msg_1", b"{}", now, allow_private=True)

    assert "not trusted" in str(send().error)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "authority.pem"))
    assert send().delivered


def test_a_service_without_tls_is_said_at_once() -> None:
    with served(None) as port, pytest.raises(LetheError, match="http://"):
        Client(f"https://localhost:{port}", "lethe_a_b", retries=5).ready()


# -- proxies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://lethe.example.com", "http://proxy.corp:3128"),
        ("http://lethe.example.com", None),
        ("https://127.0.0.1:8321", None),
        ("https://[::1]:8321", None),
        ("https://localhost", None),
        ("https://lethe.intern.corp", None),
    ],
)
def test_a_proxy_carries_what_it_cannot_read(url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.corp:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.corp:3128")
    monkeypatch.setenv("NO_PROXY", ".intern.corp")
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert system_proxy(url) == proxy


# -- keys and addresses ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["lethe_a_b\n", " lethe_a_b", "lethe_a_b\r\n", "\ufefflethe_a_b", "\tlethe_a_b \n\n"])
def test_what_is_around_a_key_is_no_part_of_it(key: str) -> None:
    """As seen: an error of the HTTP library, whose text held the key."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json={})

    Client("http://x", key, transport=httpx.MockTransport(answer)).ready()
    assert seen == ["Bearer lethe_a_b"]


@pytest.mark.parametrize("key", ["lethe_a b", "lethe_a\nb", "lethe_ä_b", "lethe_\x00", "lethe_a\u2028b"])
def test_what_no_key_has_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(LetheError) as caught:
        Client("http://x", key)
    assert key not in str(caught.value)
    assert cleaned("") == ""


def test_a_folders_files_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "url").write_bytes(b"\xef\xbb\xbfhttp://127.0.0.1:1\r\n")
    (tmp_path / "api-key").write_bytes(b"\xef\xbb\xbflethe_a_b\r\n")
    with Client.from_folder(tmp_path, retries=0) as calls, pytest.raises(UnreachableError):
        calls.ready()


@pytest.mark.parametrize("url", ["http://[::1", "http://h:port", "http://\x00"])
def test_an_address_that_is_none_is_refused_with_words(url: str) -> None:
    with pytest.raises(LetheError, match="address"):
        Client(url, "lethe_a_b", retries=0).ready()


@pytest.mark.parametrize(("host", "shown"), [("::1", "[::1]"), ("[::1]", "[::1]"), ("", "127.0.0.1")])
def test_the_command_line_finds_hosts_of_ipv6(
    host: str, shown: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LETHE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LETHE_HOST", host)
    monkeypatch.setenv("LETHE_PORT", "udp://10.0.0.1:8321")
    assert read_settings().own_url == f"http://{shown}:8321"


# -- terminals -------------------------------------------------------------------------------------

# Every path of the service answers with one document that has letters of everywhere; then each verb runs.
STORY = """
import json, sys
import httpx
import lethe.transport as transport
import lethe.cli.main as main
from lethe.cli.account import LISTS

WORD = "Ünïcode \\u2026 \\u2212 \\u4f60 \\U0001f600 \\u2028"
ITEM = {name: WORD for _, columns in LISTS.values() for name in columns} | {"id": WORD, "split": WORD, "label": 1}
DOCUMENT = {"id": WORD, "name": WORD, "state": "dead", "current_version": 1, "status": "x", "outcomes": [],
            "receipts": [], "problem": {"detail": WORD, "errors": [{"detail": WORD}]}}
COUNTS = (
    "received", "samples", "extended", "answered_late", "mean_days", "median_days", "overdue_count", "due_soon_count"
)  # fmt: skip
DOCUMENT |= dict.fromkeys(("by_status", "by_verdict"), {WORD: 1})
DOCUMENT |= {"as_of": WORD, "overdue": [WORD], "due_soon": [], **dict.fromkeys(COUNTS, 1)}

def answer(request):
    path = request.url.path
    if path.endswith("register") or "card" in path:
        return httpx.Response(200, text=WORD)
    if path.endswith("samples") or path.count("/") == 2:
        return httpx.Response(200, json={"items": [ITEM], "next_page_token": None})
    return httpx.Response(200, json=DOCUMENT)

class Carried(httpx.Client):
    def __init__(self, **options):
        super().__init__(**options | {"transport": httpx.MockTransport(answer), "verify": False})

transport.httpx.Client = Carried
for verb in json.loads(sys.argv[1]):
    sys.argv = ["lethe", *verb]
    try:
        main.main()
    except SystemExit as ended:
        print("ended", verb[0], ended.code, file=sys.stderr)
"""
VERBS = [
    *(["list", noun] for noun in ("models", "datasets", "requests", "jobs")),
    ["status", "job_1"],
    ["register"],
    ["dataset", "samples", "d"],
    ["model", "card", "m"],
    ["summary"],
]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_no_verb_ends_in_an_error_of_an_encoding(encoding: str, tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONIOENCODING": encoding,
        "PYTHONPATH": str(ROOT),
        "LETHE_URL": "http://x",
        "LETHE_API_KEY": "lethe_a_b",
        "LETHE_DATA_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", STORY, json.dumps(VERBS)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)
    said = done.stderr.decode("utf-8", "replace")
    assert "Error" not in said
    ended = [line.split() for line in said.splitlines() if line.startswith("ended")]
    assert [(verb, code) for _, verb, code in ended] == [(verb[0], "0") for verb in VERBS], said
    # What programs read (the register, ids, the card) is what the service sent, in UTF-8.
    assert done.stdout.count("Ünïcode … − 你 😀 \u2028".encode()) >= 3
