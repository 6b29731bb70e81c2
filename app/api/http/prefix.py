"""The service under a path of a proxy, such as `https://example.com/lethe`.

The path is LETHE_ROOT_PATH, or what a proxy that strips it says in `X-Forwarded-Prefix`. Addresses in replies begin
with it. A proxy that leaves it in the path is understood, too.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.config import proxy_path

HEADER = "X-Forwarded-Prefix"


class Prefix:
    """Outermost: whatever is within sees the service's own paths."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app, self._own = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix = self._own or self._told(scope) if scope["type"] == "http" else ""
        if not prefix:
            await self._app(scope, receive, send)
            return

        async def prefixed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("location", "").startswith("/"):
                    headers["location"] = prefix + headers["location"]
            await send(message)

        path = scope["path"]
        if path.startswith(f"{prefix}/"):
            path = path.removeprefix(prefix)
        await self._app({**scope, "path": path, "root_path": prefix}, receive, prefixed)

    @staticmethod
    def _told(scope: Scope) -> str:
        """What the proxy says. The reply is for who sent it, and it can be nothing but a path of this host."""
        return proxy_path(Headers(scope=scope).get(HEADER, ""))
