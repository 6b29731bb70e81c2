"""How long the body of a request may be."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FILES = re.compile(r"/v1/(datasets/[^/]+/content|models/[^/]+/versions/[^/]+/checkpoint)")


class BodyLimit:
    """Refuses a longer body with 413, whether or not its length was declared.

    Files have a limit of their own, kept while they are streamed to disk (`transfer.receive`).
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] == "PUT" and FILES.fullmatch(scope["path"])):
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        received = 0

        async def metered() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit or (declared.isdecimal() and int(declared) > self._limit):
                raise HTTPException(413, f"The body is over {self._limit} bytes.")
            return message

        await self._app(scope, metered, send)
