"""Every request gets an id, one line in the log, and its place in the latencies. The outermost layer."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from contextlib import ExitStack

from opentelemetry.trace import INVALID_SPAN, Span, SpanKind
from prometheus_client import Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core import logs, tracing
from app.core.ids import new_id

log = logging.getLogger("lethe.request")

HEADER = "X-Request-Id"
SANE = re.compile(r"[A-Za-z0-9._-]{8,64}")
PREFIX = "/v1"
PROBES = {"/healthz", "/readyz", "/metrics"}
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Observe:
    """Logs and times every request, and answers unexpected exceptions, which nothing below has handled.

    Log line and latency name the route's template, never the path, because a client may put anything into a path.
    """

    def __init__(self, app: ASGIApp, latency: Histogram, unexpected: Callable[[Exception], Response]) -> None:
        self._app, self._latency, self._unexpected = app, latency, unexpected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(HEADER, "")
        request = given if SANE.fullmatch(given) else new_id("req")
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        status, began = 0, time.perf_counter()

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request
            await send(message)

        with ExitStack() as stack:
            span: Span = INVALID_SPAN
            if scope["path"] not in PROBES:
                traced = tracing.continued(method, headers.get(tracing.HEADER), SpanKind.SERVER)
                span = stack.enter_context(traced)
            stack.enter_context(logs.bind(request=request, method=method, **tracing.fields(span)))
            try:
                await self._app(scope, receive, stamped)
            except Exception as error:
                if status:  # nothing can be said any more: the server breaks the connection off
                    log.error("a reply broke off", exc_info=error)
                    raise
                await self._unexpected(error)(scope, receive, stamped)
            finally:
                seconds = time.perf_counter() - began
                route = _template(scope)
                logs.note(route=route, status=status, ms=round(seconds * 1000, 1))
                span.update_name(f"{method} {route}")
                span.set_attributes(
                    {"http.request.method": method, "http.route": route, "http.response.status_code": status}
                )
                self._latency.labels(method, route, str(status)).observe(seconds)
                log.log(_level(route, status), "%s %s %d", method, route, status)


def _level(route: str, status: int) -> int:
    if status >= 500 or status == 0:
        return logging.WARNING
    return logging.DEBUG if route in PROBES else logging.INFO


def _template(scope: Scope) -> str:
    """Of a route that was included under a prefix, FastAPI tells the path without it."""
    path = str(getattr(scope.get("route"), "path_format", ""))
    if not path:
        return "unmatched"
    return PREFIX + path if scope["path"].startswith(f"{PREFIX}/") and not path.startswith(f"{PREFIX}/") else path
