"""The calls that are made most, past the framework's routing and dependencies, which take longer than they do.

Only a call that is plainly usual comes this way: its path, key and headers are of the form that they must have. All
others go on to the framework's own route of the same call, which refuses them in the right words.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

from fastapi.security import HTTPAuthorizationCredentials
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.http import failures
from app.api.http.deps import Parts
from app.api.http.patterns import IDEMPOTENCY_KEY, id_pattern

Handler = Callable[[Request, Any, HTTPAuthorizationCredentials, str], Awaitable[Response]]
"""(request, what the application holds, the key as sent, the id in the path): the reply."""
BEARER = re.compile(rb"[Bb]earer ([\x21-\x7e]{1,400})")
KEY = re.compile(IDEMPOTENCY_KEY.encode())


class Shortcut:
    """`routes`: by method and path, and the prefix of the ids that the path ends in, if it does."""

    def __init__(
        self,
        app: ASGIApp,
        parts: Parts,
        routes: Mapping[tuple[str, str], tuple[Handler, str]],
        handlers: Mapping[Any, Callable[[Any, Any], Any]],
    ) -> None:
        self._app, self._parts, self._handlers = app, parts, handlers
        self._plain: dict[tuple[str, str], tuple[Handler, SimpleNamespace]] = {}
        self._named: dict[tuple[str, str], tuple[Handler, SimpleNamespace, re.Pattern[str]]] = {}
        for (method, path), (handler, prefix) in routes.items():
            route = SimpleNamespace(path_format=path)  # by which the log and the metrics name it
            if prefix:
                self._named[method, path.rpartition("/")[0]] = (handler, route, re.compile(id_pattern(prefix)))
            else:
                self._plain[method, path] = (handler, route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope) if scope["type"] == "http" and not scope["query_string"] else None
        if found is None:
            await self._app(scope, receive, send)
            return
        handler, route, name, token = found
        scope["route"] = route
        request = Request(scope, receive)
        try:
            response = await handler(request, self._parts, token, name)
        except Exception as error:
            response = failures.reply(error, request, self._handlers)
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> tuple[Handler, SimpleNamespace, str, HTTPAuthorizationCredentials] | None:
        method, path, name = scope["method"], scope["path"], ""
        plain = self._plain.get((method, path))
        if plain is not None:
            handler, route = plain
        else:
            folder, _, name = path.rpartition("/")
            named = self._named.get((method, folder))
            if named is None or not named[2].fullmatch(name):
                return None
            handler, route, _ = named
        token = _token(scope)
        return None if token is None else (handler, route, name, token)


def _token(scope: Scope) -> HTTPAuthorizationCredentials | None:
    """The key that was sent, once and well-formed; None too where an Idempotency-Key is not."""
    token = None
    for header, value in scope["headers"]:
        if header == b"authorization":
            match = BEARER.fullmatch(value)
            if match is None or token is not None:
                return None
            token = HTTPAuthorizationCredentials(scheme="Bearer", credentials=match.group(1).decode())
        elif header == b"idempotency-key" and not KEY.fullmatch(value):
            return None
    return token
