"""A receiver of webhooks as a process of its own. What a path says is how it answers; all it got is on record."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# It ends when its standard input does, so that it never outlives the tests.
SERVER = """
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

record, lock, seen = open(sys.argv[1], "a"), threading.Lock(), {}

class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        with lock:
            message = self.headers.get("webhook-id")
            seen[message] = seen.get(message, 0) + 1
            found = {"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}, "body": body}
            record.write(json.dumps(found) + "\\n")
            record.flush()
        kind, _, number = self.path.strip("/").partition("-")
        if kind == "slow":
            over.wait()
        code = {"gone": 410, "moved": 307}.get(kind, 204)
        if kind == "failing" and seen[message] <= int(number):
            code = 500
        self.send_response(code)
        if kind == "moved":
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

over = threading.Event()
server = Server(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
over.set()
"""


@dataclass(frozen=True)
class Got:
    path: str
    headers: dict[str, str]
    body: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> Any:
        return json.loads(self.body)

    def signed_by(self, secret: str) -> bool:
        """Standard Webhooks 1.0.0, computed from its text: one of the signatures is HMAC-SHA256 of id, time, body."""
        key = base64.b64decode(secret.split("_", 1)[1])
        content = ".".join((self.id, self.headers["webhook-timestamp"], self.body))
        wanted = "v1," + base64.b64encode(hmac.new(key, content.encode(), hashlib.sha256).digest()).decode()
        return wanted in self.headers["webhook-signature"].split(" ")


@dataclass(frozen=True)
class Receiver:
    """`/ok…` takes all, `/failing-n…` n times 500 first, `/gone` 410, `/moved` 307, `/slow…` says nothing."""

    url: str
    record: Path

    def got(self, path: str = "") -> list[Got]:
        found = [Got(**json.loads(line)) for line in self.record.read_text().splitlines()]
        return [got for got in found if not path or got.path == path]


@contextmanager
def receiver(folder: Path) -> Iterator[Receiver]:
    record = folder / "received.jsonl"
    record.touch()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", SERVER, str(record)], text=True, **pipes) as process:
        try:
            yield Receiver(f"http://127.0.0.1:{int(process.stdout.readline())}", record)
        finally:
            process.stdin.close()
            process.wait()
