"""Connections, before and around the application: how many there are, how long a head may take and how long it may be.

`Connection` is uvicorn's protocol on httptools with limits that uvicorn does not have. `lethe api` names it to uvicorn;
the application makes the `Crowd` that all connections of a process share.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from http import HTTPStatus
from itertools import chain
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.http.observe import PROBES
from app.core.config import Settings
from app.core.errors import AppError, HeadTooLarge, RequestTimeout, Unavailable

log = logging.getLogger("lethe.connections")

MOST_HEAD = 2**15  # bytes of a request besides its body
MOST_UNREAD = 2**25  # bytes of a body that are taken off the network after the reply, so that its client can read it
MOST_PIPELINED = 16  # requests that wait behind another on one connection
SLICE = 2**15  # bytes that are parsed at once
OTHER_FILES = 256  # files that a process opens besides connections: database, blobs, logs
SPARE = 16  # connections beyond the limit, which get health checks answered
WATCH_SECONDS = 1.0
CONNECTION = "lethe.connection"  # where the scope of a call has the connection that it came on
PROBE_PATHS = {path.encode() for path in PROBES}


class Crowd:
    """The connections of one process. Those that wait for the head of a request, then those that wait for the body of
    a call without a key, make room for others, the one that has waited longest first: what is sent by half keeps nobody
    out."""

    def __init__(self, settings: Settings) -> None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.most = max(1, min(settings.max_connections, files - OTHER_FILES - SPARE))
        self._head_seconds, self._write_seconds = settings.head_seconds, settings.body_seconds
        self.waiting: dict[Connection, float] = {}  # for a head, since when; longest first
        self.unknown: dict[Connection, None] = {}  # that send a body without a key or a session; longest first
        self.blocked: dict[Connection, tuple[int, float]] = {}  # by a slow reader: bytes left, and since when

    def make_room(self, newcomer: Connection) -> bool:
        """End the connection that has waited longest, but not one that still sends its last reply."""
        for one in chain(self.waiting, self.unknown):
            if one is not newcomer and not one.transport.get_write_buffer_size():
                one.end()
                return True
        return False

    async def watch(self) -> None:
        """End what takes too long, for as long as the application lives."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(WATCH_SECONDS, self._head_seconds / 4, self._write_seconds / 4))
            now = loop.time()
            for one, since in list(self.waiting.items()):
                if now - since < self._head_seconds:
                    break  # the others have waited less
                one.head_is_late(self._head_seconds)
            for one, (left, since) in list(self.blocked.items()):
                size = one.transport.get_write_buffer_size()
                if size != left:
                    self.blocked[one] = (size, now)
                elif now - since > self._write_seconds:
                    one.end()


class Connection(HttpToolsProtocol):
    """One connection. Ends it, with a problem document where that can still be said, on a head that is too long or too
    slow, on too many requests at once, and on a reader that does not read."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._crowd: Crowd = app_state["crowd"]
        self._beside_body = 0  # bytes since the last ones of a body, or the last whole head
        self._unread = 0
        self._spare = False  # one beyond the limit

    # -- how long it may live ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        crowd = self._crowd
        crowd.waiting[self] = self.loop.time()
        over = len(self.connections) - crowd.most
        if over <= 0 or crowd.make_room(self):
            return
        if over > SPARE:
            self.end()
        else:
            self._spare = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def end(self) -> None:
        """End the connection at once; what it was doing sees a client that has gone."""
        self._forget()
        self.connections.discard(self)
        self.transport.abort()

    def sends_unknown(self) -> None:
        """It has a body to send, and nobody knows whose it is."""
        self._crowd.unknown[self] = None

    def has_sent(self) -> None:
        self._crowd.unknown.pop(self, None)

    def _forget(self) -> None:
        self._crowd.waiting.pop(self, None)
        self._crowd.unknown.pop(self, None)
        self._crowd.blocked.pop(self, None)

    def head_is_late(self, seconds: float) -> None:
        begun = self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)
        if begun:
            self._refuse(RequestTimeout(f"The headers have not come within {seconds:g} s."))
        else:
            self.end()

    def _refuse(self, error: AppError) -> None:
        """The last that is said on this connection, unless a reply is under way on it."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            body = json.dumps(error.document()).encode()
            lines = [
                f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
                "content-type: application/problem+json",
                f"content-length: {len(body)}",
                "connection: close",
            ]
            self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self._forget()
        self.transport.close()

    # -- what comes in -----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if len(data) <= SLICE:
            self._feed(data)
            return
        for start in range(0, len(data), SLICE):
            if self.transport.is_closing():
                return
            self._feed(data[start : start + SLICE])

    def _feed(self, data: bytes) -> None:
        self._beside_body += len(data)
        super().data_received(data)
        if self._beside_body > MOST_HEAD:
            self._refuse(HeadTooLarge(f"The headers are over {MOST_HEAD} bytes."))
        elif len(self.pipeline) > MOST_PIPELINED:
            self.end()

    def send_400_response(self, msg: str) -> None:
        refused = AppError(msg, kind="bad-request")
        refused.status, refused.title = 400, "This is no HTTP request"
        self._refuse(refused)

    def on_headers_complete(self) -> None:
        self._beside_body = self._unread = 0
        self._crowd.waiting.pop(self, None)
        if self._spare:
            self.app = self.config.loaded_app if self.url.partition(b"?")[0] in PROBE_PATHS else _full
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._beside_body = 0
        super().on_body(body)
        if self.cycle.response_complete:
            self._unread += len(body)
            if self._unread > MOST_UNREAD:
                self.flow.pause_reading()  # until the connection is ended

    # -- what goes out -----------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():  # and none is pipelined
            self._crowd.waiting[self] = self.loop.time()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._crowd.blocked[self] = (self.transport.get_write_buffer_size(), self.loop.time())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._crowd.blocked.pop(self, None)


async def _full(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of connections beyond the limit."""
    error = Unavailable("The service has no connection left. Try again.", kind="busy")
    headers = {"Retry-After": "1", "Connection": "close"}
    await JSONResponse(error.document(), error.status, headers, "application/problem+json")(scope, receive, send)
