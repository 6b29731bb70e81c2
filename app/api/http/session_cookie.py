"""A browser in a session of the console: its cookie stands for the key that other clients send.

The cookie alone reads. To change anything through the API it takes the session's token against forgery in
`X-CSRF-Token`, too, which another site cannot know; the console's own pages check theirs in the form.
"""

from __future__ import annotations

import hmac
from typing import NamedTuple
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.http import failures
from app.api.http.preferences import prefers
from app.core.config import Settings
from app.core.errors import Forbidden
from app.core.users import csrf_token

SAFE = ("GET", "HEAD")
API, CONSOLE = "/v1/", "/console"
SIGN_IN = "/console/sign-in"


class Cookie(NamedTuple):
    """Where the session's cookie is. `secure`: it goes over https alone."""

    name: str
    path: str
    secure: bool


def cookie(settings: Settings, scope: Scope) -> Cookie:
    """A browser takes a `__Host-` cookie over https alone, from no other host and for all of this one. Under a proxy's
    path the cookie is that path's alone: other services of the host do not get it."""
    secure, root = is_secure(settings, scope), scope.get("root_path", "")
    prefix = "" if not secure else "__Secure-" if root else "__Host-"
    return Cookie(f"{prefix}lethe-session", root or "/", secure)


def is_secure(settings: Settings, scope: Scope) -> bool:
    return settings.public_url.startswith("https:") or scope["scheme"] == "https"


class SessionCookie:
    """Puts the session's token where a key is looked for, and leads a browser without one to the page that signs in."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith((API, CONSOLE)):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if "authorization" in headers:
            await self._app(scope, receive, send)
            return
        token = of(self._settings, scope)
        if token and scope["method"] not in SAFE and scope["path"].startswith(API):
            sent = headers.get("x-csrf-token", "")
            if not hmac.compare_digest(sent.encode(), csrf_token(self._settings, token).encode()):
                said = "A session of the console changes nothing without its `X-CSRF-Token`."
                await failures.problem(Forbidden(said, kind="csrf"))(scope, receive, send)
                return
        if token:
            scope["headers"] = [*scope["headers"], (b"authorization", b"Bearer " + token.encode())]
        await self._app(scope, receive, self._leading(scope, headers, receive, send))

    def _leading(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> Send:
        """`send`, but for a browser that reads and may not: it is led to the sign-in, and from there back here."""
        if scope["method"] != "GET" or not prefers("text/html", headers.get("accept", "")):
            return send
        led = False

        async def leading(message: Message) -> None:
            nonlocal led
            if message["type"] == "http.response.start" and message["status"] == 401:
                led = True
                query = scope["query_string"].decode("latin-1")
                back = quote(scope["path"] + (f"?{query}" if query else ""))
                answer = RedirectResponse(f"{SIGN_IN}?next={back}", 303, {"Cache-Control": "no-store"})
                await answer(scope, receive, send)
            elif not led:
                await send(message)

        return leading


def of(settings: Settings, scope: Scope) -> str:
    """The token in the session's cookie; empty where there is none. Other cookies, which any service of this host may
    have set, may be malformed."""
    header = Headers(scope=scope).get("cookie", "")
    value: str = cookie_parser(header).get(cookie(settings, scope).name, "")
    return value if value.isascii() and value.isprintable() else ""
