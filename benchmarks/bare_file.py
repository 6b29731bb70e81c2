"""The best that this server can send: a bare ASGI callable that reads a file and sends it, and nothing else."""

from __future__ import annotations

import os

from starlette.types import Receive, Scope, Send

PATH = os.environ["BARE_FILE"]


async def app(scope: Scope, _receive: Receive, send: Send) -> None:
    """`/{KiB of a piece}`."""
    if scope["type"] != "http":
        return
    piece = int(scope["path"].strip("/")) * 1024
    length = str(os.stat(PATH).st_size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    file = os.open(PATH, os.O_RDONLY)
    try:
        while data := os.read(file, piece):
            await send({"type": "http.response.body", "body": data, "more_body": True})
    finally:
        os.close(file)
    await send({"type": "http.response.body", "body": b""})
