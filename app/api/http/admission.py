"""Which bodies are taken in: whose, how long, how many bytes at once, and how slowly.

A key and its scopes are checked on the headers, before a byte of the body is read. That alone admits the body: what
the call does is checked again in the transaction that does it.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import Request
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.http import failures
from app.api.http.connections import CONNECTION
from app.api.http.deps import BY_METHOD_SCOPE, WITHOUT_A_KEY, Parts, token_of
from app.api.http.rooms import MOST_OF_STRANGERS, Room
from app.core import keys, logs
from app.core.errors import RequestTimeout, TooLarge, Unauthorized
from app.core.keys import Caller

FILES = re.compile(r"/v1/(datasets/[^/]+/(content|shards/\d+)|models/[^/]+/versions/[^/]+/checkpoint)")
LEAST_HELD = 2**16  # bytes that the server may hold of any body
SLOWEST = 2**14  # bytes a second that a body must bring on average, once the patience of the settings is used up
UNDECLARED = -1


@dataclass(frozen=True)
class Guarded:
    """What a route asks of a key. `route`: by which log and metrics name it. `without_key`: that may be left out."""

    scopes: frozenset[str]
    route: SimpleNamespace
    without_key: bool = False


class Routes:
    """The routes under `prefix` that need a key, by method and path."""

    def __init__(self, routers: Iterable[APIRouter], prefix: str) -> None:
        self._plain: dict[tuple[str, str], Guarded] = {}
        self._formed: dict[str, list[tuple[re.Pattern[str], Guarded]]] = {}
        for route in (route for router in routers for route in router.routes):
            if not isinstance(route, APIRoute):
                continue
            path = prefix + route.path
            pattern, template, converters = compile_path(path)
            for method in route.methods or ():
                scopes = frozenset(
                    _by_method(method) if scope == BY_METHOD_SCOPE else scope for scope in _scopes(route.dependant)
                )
                without_key = route.openapi_extra == WITHOUT_A_KEY
                found = Guarded(scopes, SimpleNamespace(path_format=template), without_key)
                if converters:
                    self._formed.setdefault(method, []).append((pattern, found))
                else:
                    self._plain[method, path] = found

    def find(self, method: str, path: str) -> Guarded | None:
        if (plain := self._plain.get((method, path))) is not None:
            return plain
        return next((found for pattern, found in self._formed.get(method, ()) if pattern.match(path)), None)


def _by_method(method: str) -> str:
    return "read" if method in ("GET", "HEAD") else "operate"


def _scopes(dependant: Dependant) -> set[str]:
    return set(dependant.own_oauth_scopes or ()).union(*(_scopes(each) for each in dependant.dependencies))


class Admission:
    """Reads no body of a call without a valid key, with a scope missing, or beyond what the process can hold.

    Files have a limit of their own, kept while they are streamed to disk (`transfer.receive`); here they must only
    come fast enough. The forms of the console need no key to be read. One that comes without a session must come as
    fast, is small, and makes room for others while it has not come.
    """

    def __init__(
        self, app: ASGIApp, parts: Parts, routes: Routes, handlers: Mapping[Any, Callable[[Any, Any], Any]]
    ) -> None:
        self._app, self._parts, self._routes, self._handlers = app, parts, routes, handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = _length(scope["headers"]) if scope["type"] == "http" else 0
        if scope["type"] != "http" or (length == 0 and not self._parts.rates):
            await self._app(scope, receive, send)
            return
        guarded = self._routes.find(scope["method"], scope["path"])
        if guarded is None or (guarded.without_key and not _has_key(scope["headers"])):
            await (self._form(scope, receive, send) if length else self._app(scope, receive, send))
            return
        parts, held = self._parts, 0
        is_file = scope["method"] == "PUT" and FILES.fullmatch(scope["path"]) is not None
        try:
            who = await parts.known.find(_token(scope["headers"]))
            logs.note(tenant=who.tenant_id)
            for needed in guarded.scopes:
                keys.require(who, needed)
            if parts.rates:
                parts.rates.take(who)
            if length and not is_file:
                if length > parts.settings.max_json_bytes:
                    raise _too_large(parts.settings.max_json_bytes)
                held = max(length, LEAST_HELD)
                parts.bodies.take(who, held)
        except Exception as error:
            scope["route"] = guarded.route
            response = failures.reply(error, Request(scope, receive), self._handlers)
            await response(scope, receive, send)
            return
        if length == 0:
            await self._app(scope, receive, send)
            return
        room = None if is_file else parts.bodies
        body = _Body(receive, parts.settings.body_seconds, room, who, held, parts.settings.max_json_bytes)
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.give_back()

    async def _form(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts, who, whole = self._parts, None, _nothing
        try:
            who = await parts.known.find(_token(scope["headers"]))
        except Unauthorized:
            if connection := scope.get(CONNECTION):
                connection.sends_unknown()
                whole = connection.has_sent
        except Exception as error:
            response = failures.reply(error, Request(scope, receive), self._handlers)
            await response(scope, receive, send)
            return
        room, most = (
            (parts.strangers, MOST_OF_STRANGERS) if who is None else (parts.bodies, parts.settings.max_json_bytes)
        )
        body = _Body(receive, parts.settings.body_seconds, room, who, 0, most, free=LEAST_HELD, whole=whole)
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.give_back()


def _nothing() -> None:
    pass


def _length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Of the body in bytes, as it is declared; the server refuses one that is declared twice, or with both headers."""
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value)
        if name == b"transfer-encoding":
            return UNDECLARED
    return 0


def _has_key(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name == b"authorization" for name, _ in headers)


def _token(headers: Iterable[tuple[bytes, bytes]]) -> str:
    sent = next((value.decode("latin-1") for name, value in headers if name == b"authorization"), "")
    scheme, token = get_authorization_scheme_param(sent)
    return token if scheme.lower() == "bearer" and token else token_of(None)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is over {limit} bytes.")


class _Body:
    """One body on its way in. `room`: where its bytes, but for the first `free` ones, count as long as the call lasts;
    None where it is streamed. `whole` is told when all of it has come."""

    def __init__(
        self,
        receive: Receive,
        patience: float,
        room: Room | None,
        who: Caller | None,
        held: int,
        limit: int,
        free: int = 0,
        whole: Callable[[], None] = _nothing,
    ) -> None:
        self._receive, self._patience = receive, patience
        self._room, self._who, self._held, self._limit, self._free = room, who, held, limit, free
        self._waited, self._received, self._whole, self._tell = 0.0, 0, False, whole

    async def receive(self) -> Message:
        """The next piece.

        Raises:
            RequestTimeout: it comes too slowly, or not at all.
            TooLarge: it is longer than a body may be that is held in memory.
            TooManyRequests, Unavailable: no memory is left to this caller, or to any.
        """
        if self._whole:  # what comes now is that the client hangs up
            return await self._receive()
        began = time.monotonic()
        left = min(self._patience, self._patience + self._received / SLOWEST - self._waited)
        try:
            async with asyncio.timeout(left):
                message = await self._receive()
        except TimeoutError:
            self._waited = math.inf  # whoever asks again waits no more
            slow = f"The body stopped for {self._patience:g} s, or came with less than {SLOWEST} bytes a second."
            raise RequestTimeout(f"{slow} Send it again.") from None
        self._waited += time.monotonic() - began
        self._received += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._whole:
            self._tell()
        if self._room is not None and self._received > self._limit:
            raise _too_large(self._limit)
        if self._room is not None and (more := self._received - self._free - self._held) > 0:
            self._room.take(self._who, more)
            self._held += more
        return message

    def give_back(self) -> None:
        self._tell()
        if self._room is not None:
            self._room.give_back(self._who, self._held)
