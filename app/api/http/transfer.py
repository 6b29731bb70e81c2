"""Bytes in and out: streamed uploads with a digest, downloads with strong ETag, Range, HEAD and Repr-Digest."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app.api.http.conditional import matches
from app.api.http.deps import ONE_TRANSFER, Parts, problems
from app.blobs import usage
from app.blobs.folder import CHUNK, BlobMissingError, Folder, Writer
from app.blobs.open import Blobs
from app.core.config import Settings
from app.core.errors import Gone, InsufficientStorage, RangeNotSatisfiable, TooLarge, Unprocessable

TENANT_SHARE = 0.75  # of the free room, so that one upload does not take all of it
AHEAD = 2**26  # bytes that are reserved at a time for a body of undeclared length


async def receive(
    request: Request, held: Parts, tenant_id: str, *, whole: bool = True
) -> tuple[AbstractContextManager[Writer], Writer]:
    """Stream the body into a writer, 1 MiB at a time in the thread pool; memory stays flat.

    whole: all of it or nothing; else what came before the connection broke is there, and `request.state.broken_off`.

    The room for a body is reserved before it is read. The caller holds the returned context until the bytes are
    committed or refused.

    Raises:
        TooLarge: more than `max_upload_bytes` came, or were declared.
        InsufficientStorage: the disk has no room for it beside the reserve and other uploads, or it is more than the
            tenant may store.
        Unprocessable: nothing came.
    """
    blobs, settings = held.blobs, held.settings
    declared, limit = request.headers.get("content-length", ""), settings.max_upload_bytes
    length = int(declared) if declared.isdecimal() else None
    _require_within(limit, length or 0)
    await run_in_threadpool(_require_quota, held, tenant_id, length or 0)
    context = blobs.writer(AHEAD if length is None else length, tenant_id)
    writer = await run_in_threadpool(context.__enter__)
    try:
        await run_in_threadpool(_require_room, blobs, settings, tenant_id)
        pending = bytearray()
        try:
            async for piece in request.stream():
                pending += piece
                _require_within(limit, writer.size + len(pending))
                if len(pending) >= CHUNK:
                    if writer.size + len(pending) > writer.expected:
                        await run_in_threadpool(writer.expect, writer.expected + AHEAD)
                        await run_in_threadpool(_require_room, blobs, settings, tenant_id)
                    await run_in_threadpool(writer.write, bytes(pending))
                    pending.clear()
        except ClientDisconnect:
            if whole:
                raise
            request.state.broken_off = True
        await run_in_threadpool(writer.write, bytes(pending))
        if writer.size == 0:
            raise Unprocessable("The body is empty.", kind="empty-body")
        if length is None:
            await run_in_threadpool(_require_quota, held, tenant_id, writer.size)
    except BaseException:
        await run_in_threadpool(context.__exit__, None, None, None)
        raise
    return context, writer


def _require_within(limit: int, size: int) -> None:
    if size > limit:
        raise TooLarge(f"The body is over {limit} bytes.")


def _require_quota(held: Parts, tenant_id: str, size: int) -> None:
    if not (most := held.settings.tenant_bytes):
        return
    with held.database.read() as session:
        stored = usage.stored_bytes(session, held.blobs, tenant_id)
    if stored + size > most:
        full = (
            f"This tenant may store {most} bytes in datasets and versions, and has {stored}. Ask the operator for more."
        )
        raise InsufficientStorage(full, kind="quota-exceeded")


def _require_room(blobs: Blobs, settings: Settings, tenant_id: str) -> None:
    """Refuse an upload, which has claimed its room, where that is too much."""
    space = blobs.space(tenant_id)
    free, wait = space.free - settings.disk_reserve_bytes, {"Retry-After": "60"}
    if space.claimed > free:
        full = "The disk has no room for this beside its reserve and other uploads. Try it again later."
        raise InsufficientStorage(full, headers=wait)
    if space.own > TENANT_SHARE * free:
        share = "This tenant's uploads under way claim more than three quarters of the free room. Try it again later."
        raise InsufficientStorage(share, headers=wait)


@contextmanager
def room_for(held: Parts, tenant_id: str, size: int) -> Iterator[None]:
    """Claim room for a file that is made for a download, as long as the block lasts.

    Raises:
        InsufficientStorage: the disk has none beside its reserve and what others claim.
    """
    with held.blobs.writer(size, tenant_id):
        _require_room(held.blobs, held.settings, tenant_id)
        yield


ANY_SIZE = 2**62  # of a route's body: `receive` counts by itself, up to the limit of the settings
FILE = {"type": "string", "format": "binary"}


def takes_file(*forms: str) -> dict[str, Any]:
    """Of a route whose body is a file of one of these media types, streamed to storage."""
    body = {"required": True, "content": {form: {"schema": FILE} for form in forms}}
    return {
        "responses": problems(403, 404, 409, 415, 507),
        "max_body_size": ANY_SIZE,
        "dependencies": [ONE_TRANSFER],
        "openapi_extra": {"requestBody": body},
    }


def download(request: Request, blobs: Blobs, digest: str, filename: str, media_type: str) -> Response:
    """Serve a blob: 200, 206, 304 or 416 by the request's conditions."""
    try:
        size = blobs.size(digest)
    except BlobMissingError:
        raise Gone("These bytes have been removed.") from None
    etag = f'"{digest}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",  # what may be withheld or erased later is asked for each time
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(digest.removeprefix('sha256:'))).decode()}:",
        "Content-Disposition": f'attachment; filename="{filename}"',
    }
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    start, stop, status = 0, size, 200
    wanted = request.headers.get("range") if request.method == "GET" else None  # defined for GET only (14.2)
    if wanted and request.headers.get("if-range", etag) == etag and (span := _span(wanted, size)):
        start, stop, status = *span, 206
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    if isinstance(blobs, Folder):
        return FilePart(blobs.open(digest), start, stop, status, headers, media_type)
    return StreamingResponse(blobs.read(digest, start, stop), status, headers, media_type)


PIECE = 2**20  # what is read and sent at once: a smaller piece's way through the layers takes as long as its sending
TURN = 2**21  # after this number of bytes other downloads have their turn


class FilePart(Response):
    """A part of an open file. What the system has in memory is read at once, the rest in a thread: handing each piece
    from thread to thread takes as long as sending it."""

    def __init__(
        self, file: BinaryIO, start: int, stop: int, status: int, headers: Mapping[str, str], media_type: str
    ) -> None:
        self._file, self._start, self._stop = file, start, stop
        super().__init__(status_code=status, headers=headers, media_type=media_type)

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_hang_up(receive))
        try:
            await self._send(send, gone)
        finally:
            gone.cancel()

    async def _send(self, send: Send, gone: asyncio.Task[None]) -> None:
        """Until all is sent, or the client has gone: the server then takes bytes without an error and drops them."""
        with self._file:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            descriptor, at, turn = self._file.fileno(), self._start, TURN
            while at < self._stop:
                data: bytes | memoryview | None = _in_memory(descriptor, at, min(PIECE, self._stop - at))
                if data is None:
                    data = await run_in_threadpool(os.pread, descriptor, min(CHUNK, self._stop - at), at)
                if not data:
                    raise OSError("the file has become shorter")
                at += len(data)
                await send({"type": "http.response.body", "body": data, "more_body": at < self._stop})
                turn -= len(data)
                if turn <= 0:
                    turn = TURN
                    await asyncio.sleep(0)
                    if gone.done():
                        return
            if self._start == self._stop:
                await send({"type": "http.response.body", "body": b""})


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _in_memory(descriptor: int, at: int, size: int) -> memoryview | None:
    """Bytes from the system's cache; None where it would have to read them first, or cannot say."""
    buffer = bytearray(size)
    try:
        got = os.preadv(descriptor, [buffer], at, os.RWF_NOWAIT)
    except (OSError, AttributeError):  # not there yet; a system or a file system that knows no such reading
        return None
    return memoryview(buffer)[:got]


def _span(header: str, size: int) -> tuple[int, int] | None:
    """(start, stop) of a single byte range; None where the header is to be ignored (RFC 9110, 14.2).

    Raises:
        RangeNotSatisfiable: well-formed, but outside the file.
    """
    match = re.fullmatch(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", header)
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    start = size - min(int(last), size) if first == "" else int(first)
    stop = size if first == "" or last == "" else min(int(last) + 1, size)
    if first and last and int(last) < int(first):
        return None
    if start >= stop:
        raise RangeNotSatisfiable(f"The file has {size} bytes.", headers={"Content-Range": f"bytes */{size}"})
    return start, stop
