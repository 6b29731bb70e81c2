"""A C2SP witness as a program of its own: `python -m tests.app.evidence.witness_server TRUST HOW`.

It knows one log by the keys of the file TRUST, remembers the last head that it has seen, and countersigns a head only
if the proof shows that the log was appended to. HOW: `honest`, or `another-tree`, which signs what it was not sent.
It prints its verifier key and its address.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lethe import verify

NAME = "witness.example/one"
KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"a witness of the tests").digest())
RAW = b"\x04" + KEY.public_key().public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)
KEY_ID = hashlib.sha256(NAME.encode() + b"\n" + RAW).digest()[:4]
VERIFIER = f"{NAME}+{KEY_ID.hex()}+{base64.b64encode(RAW).decode()}"


def cosignature(text: str) -> str:
    stamp = int(time.time())
    signature = KEY.sign(f"cosignature/v1\ntime {stamp}\n{text}".encode())
    return f"\N{EM DASH} {NAME} {base64.b64encode(KEY_ID + stamp.to_bytes(8, 'big') + signature).decode()}\n"


class Handler(BaseHTTPRequestHandler):
    seen: verify.Head | None = None
    trusted: list[verify.TrustedKey] = []  # noqa: RUF012
    how = "honest"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        asked, _, note = body.partition("\n\n")
        first, *proof = asked.split("\n")
        try:
            head = verify.open_head(note, self.trusted, None)
        except verify.RefusedError:
            return self.answer(403, "")
        before = Handler.seen
        size = before.size if before else 0
        if int(first.removeprefix("old ")) != size:
            return self.answer(409, f"{size}\n")
        if before is not None and before.size:
            try:
                verify.check_consistency(before, head, [base64.b64decode(line).hex() for line in proof])
            except verify.RefusedError:
                return self.answer(422, "")
        Handler.seen = head
        text = note.rpartition("\n\n")[0] + "\n"
        if self.how == "another-tree":
            root = base64.b64encode(bytes(32)).decode()
            text = "\n".join([*text.split("\n")[:2], root]) + "\n"
        return self.answer(200, cosignature(text))

    def answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        if "gzip" in self.headers.get("accept-encoding", ""):  # as one behind a proxy does
            body = gzip.compress(body)
            self.send_header("content-encoding", "gzip")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    Handler.trusted = verify.read_trust(Path(sys.argv[1]).read_bytes())
    Handler.how = sys.argv[2]
    server = HTTPServer(("127.0.0.1", 0), Handler)
    print(f"{VERIFIER}@http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
