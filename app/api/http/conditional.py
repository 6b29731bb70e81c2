"""Conditional requests (RFC 9110, 13): strong ETags, `If-None-Match` on what is read, `If-Match` on what is changed.

The ETag of a JSON document is a digest of its text, whoever writes it: two texts never share one, and the same text
has the same on every process. A document that says how long something will take says it to the minute, or as of the
last progress, so that its text rests while nothing happens.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import Depends, Header
from pydantic import BaseModel
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import PreconditionFailed

KEPT = {b"etag", b"cache-control", b"vary", b"date", b"x-request-id"}  # of a 304 (RFC 9110, 15.4.5)


def etag_of(text: bytes) -> str:
    return f'"{hashlib.blake2b(text, digest_size=16).hexdigest()}"'


def matches(header: str | None, etag: str) -> bool:
    """If-None-Match by weak comparison (RFC 9110, 13.1.2)."""
    if header is None:
        return False
    return header.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in header.split(","))


class IfMatch:
    """The condition of a change: that the document is still what the client has seen."""

    def __init__(self, wanted: str | None) -> None:
        self._wanted = wanted

    def check(self, shown: BaseModel | None) -> None:
        """Compare with the resource as it is now, under the lock of the change (strong comparison, 13.1.1).

        Raises:
            PreconditionFailed: it has changed meanwhile, or (None) is not there.
        """
        if self._wanted is None or (self._wanted.strip() == "*" and shown is not None):
            return
        etag = None if shown is None else etag_of(shown.model_dump_json().encode())
        if etag not in [tag.strip() for tag in self._wanted.split(",")]:
            raise PreconditionFailed("The resource has changed since it was read. Read it again.")


async def if_match(
    if_match: Annotated[
        str | None,
        Header(max_length=2000, description="do it only if the resource's ETag is (one of) this; else 412"),
    ] = None,
) -> IfMatch:
    return IfMatch(if_match)


IfMatchDep = Annotated[IfMatch, Depends(if_match)]


class Conditional:
    """Gives the JSON documents under `prefix` that have no ETag theirs, and answers 304 to who has them already."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith(self._prefix):
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def tagged(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _taggable(message):
                start = message
            elif start is not None and message["type"] == "http.response.body":
                begun, start = start, None
                await _send_tagged(scope, begun, message, send)
            else:
                await send(message)

        await self._app(scope, receive, tagged)


def _taggable(start: Message) -> bool:
    """Whether it begins a whole JSON document without an ETag, as opposed to a stream."""
    headers = Headers(raw=start["headers"])
    whole = start["status"] == 200 and "content-length" in headers and "etag" not in headers
    return whole and headers.get("content-type", "").startswith("application/json")


async def _send_tagged(scope: Scope, start: Message, body: Message, send: Send) -> None:
    if body.get("more_body"):  # in pieces, with its length: a file, not a document
        await send(start)
        await send(body)
        return
    etag = etag_of(body.get("body", b""))
    MutableHeaders(scope=start)["ETag"] = etag
    if matches(Headers(scope=scope).get("if-none-match"), etag):
        kept = [(name, value) for name, value in start["headers"] if name.lower() in KEPT]
        start, body = {**start, "status": 304, "headers": kept}, {**body, "body": b""}
    await send(start)
    await send(body)


# -- what the OpenAPI document says of it ----------------------------------------------------------

IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "the ETag that the client has: 304 while it is still the document's",
}
ETAG = {"schema": {"type": "string"}, "description": "strong; changes whenever the document does"}


def describe(document: dict[str, Any]) -> None:
    """Add to every operation that reads a JSON document under `/v1/` what holds for all of them."""
    for path, item in document["paths"].items():
        found = item.get("get", {}).get("responses", {}).get("200", {})
        if not path.startswith("/v1/") or "application/json" not in found.get("content", {}):
            continue
        item["get"].setdefault("parameters", []).append(IF_NONE_MATCH)
        found.setdefault("headers", {})["ETag"] = ETAG
        item["get"]["responses"].setdefault("304", {"description": "unchanged: the client has it"})
