"""An S3-speaking server as a process of its own, and a proxy before it that spoils chosen requests."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

# It ends when its standard input does, so that it never outlives the tests.
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server with no bucket in it; it takes any credentials."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", SERVER], text=True, **pipes) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            process.wait()


class Exchange(BaseHTTPRequestHandler):
    """One request on its way. A fault takes it and forwards, answers, stalls or breaks it as it likes."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the server's reply; a wrong checksum is refused, as S3 itself does."""
        told = self.headers.get("x-amz-checksum-sha256")
        if told and told != base64.b64encode(hashlib.sha256(body).digest()).decode():
            return error(400, "BadDigest")
        connection = HTTPConnection(self.server.target, timeout=30)
        skipped = {"connection", "expect"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
        connection.request(self.command, self.path, body, headers)
        reply = connection.getresponse()
        found = reply.status, {k: v for k, v in reply.getheaders() if k.lower() != "connection"}, reply.read()
        connection.close()
        return found

    def receive(self, most: int | None = None) -> bytes:
        length = int(self.headers.get("content-length") or 0)
        return self.rfile.read(length if most is None else min(most, length))

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.begin(status, headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def reset(self) -> None:
        """Break the connection off, as a crashed peer does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def stall(self) -> None:
        """Say nothing more until the test is over."""
        self.wfile.flush()
        self.server.over.wait()
        self.close_connection = True

    def _take(self) -> None:
        self.server.seen.append(f"{self.command} {self.path}")
        with suppress(OSError):
            fault = self.server.fault_for(self)
            if fault is None:
                self.answer(*self.forward(self.receive()))
            else:
                fault(self)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _take  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


Fault = Callable[[Exchange], None]


def patience(test: pytest.FixtureRequest, *silences: Fault) -> float:
    """Seconds for a client: short where the test's fault is a silence, sat out in every try, else for any machine."""
    parameters = test.node.callspec.params if hasattr(test.node, "callspec") else {}
    return 1.0 if parameters.get("fault") in silences else 30.0


class Proxy(ThreadingHTTPServer):
    """Passes requests on to `target`, but for those that `spoil` has named; `seen` lists them all."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.target = urlsplit(target).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.seen: list[str] = []
        self.over = threading.Event()
        self._rules: list[tuple[str, str, Fault, list[None]]] = []

    def spoil(self, method: str, fault: Fault, times: int = 1000, path: str = "") -> None:
        """Give the next `times` requests of `method`, with `path` in theirs, to `fault`."""
        self._rules.append((method, path, fault, [None] * times))

    def fault_for(self, exchange: Exchange) -> Fault | None:
        for method, path, fault, left in self._rules:
            if method == exchange.command and path in exchange.path and left:
                left.pop()
                return fault
        return None

    def handle_error(self, *_: object) -> None:
        """A client that went away is what these tests are about."""


@contextmanager
def proxy(target: str) -> Iterator[Proxy]:
    server = Proxy(target)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def error(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    return status, {"Content-Type": "application/xml", "Content-Length": str(len(body))}, body
