"""Calls of a page to the API, in this process: with the session's key, so that scopes, tenant, limits and refusals are
the API's own."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from starlette.types import Message

from app.core import logs
from app.core.errors import Unauthorized

Document = dict[str, Any]


class Refused(Exception):
    """The API said no: its problem document."""

    def __init__(self, problem: Document) -> None:
        super().__init__(problem.get("detail", ""))
        self.problem = problem

    @property
    def status(self) -> int:
        return int(self.problem.get("status", 500))

    @property
    def kind(self) -> str:
        return str(self.problem.get("type", "")).rpartition("/")[2]


class Api:
    """The API as the bearer of `token` may use it."""

    def __init__(self, request: Request, token: str) -> None:
        self._scope, self._token = request.scope, token

    async def get(self, path: str, /, **query: Any) -> Any:
        """The document at a path under `/v1`; parameters of None are left out.

        Raises:
            Refused: with the problem document.
            Unauthorized: the session is over.
        """
        return json.loads((await self.fetch(path, **query))[1])

    async def fetch(self, path: str, /, *, accept: str = "", **query: Any) -> tuple[str, bytes]:
        """The ETag of a document, and its bytes in the form that is accepted. Raises as `get`."""
        given = {name: _said(value) for name, value in query.items() if value is not None}
        headers, body = await self._call("GET", path, urlencode(given), b"", {"accept": accept} if accept else {})
        return headers.get("etag", ""), body

    async def find_text(self, path: str, /, **query: Any) -> str:
        """The same of a text; empty where there is none, or the role may not see it."""
        try:
            return (await self.fetch(path, **query))[1].decode()
        except Refused as error:
            if error.status not in (403, 404):
                raise
            return ""

    async def find(self, path: str, /, **query: Any) -> Any:
        """The document, or None where the API has none, or the role may not see it."""
        try:
            return await self.get(path, **query)
        except Refused as error:
            if error.status not in (403, 404, 410):
                raise
            return None

    async def send(self, method: str, path: str, body: Any = None, *, once: str = "", seen: str = "") -> Any:
        """Change something.

        Args:
            once: Idempotency-Key; the same one does it once, however often a form is sent.
            seen: ETag of the document that the decision was made on.
        """
        content = b"" if body is None else json.dumps(body).encode()
        return await self.send_file(method, path, content, "application/json", once=once, seen=seen)

    async def send_lines(self, path: str, content: bytes, *, once: str = "") -> bytes:
        """Send NDJSON; the reply is NDJSON."""
        headers = {"content-type": "application/x-ndjson", "idempotency-key": once or secrets.token_hex(16)}
        return (await self._call("POST", path, "", content, headers))[1]

    async def send_file(
        self, method: str, path: str, content: bytes, media_type: str, *, once: str = "", seen: str = ""
    ) -> Any:
        """The same with a body of any form."""
        headers = {"content-type": media_type}
        if method == "POST":
            headers["idempotency-key"] = once or secrets.token_hex(16)
        if seen:
            headers["if-match"] = seen
        _, text = await self._call(method, path, "", content, headers)
        return json.loads(text) if text else None

    async def _call(
        self, method: str, path: str, query: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[dict[str, str], bytes]:
        target = "/v1" + quote(path, safe="/:@")
        sent = {
            "authorization": f"Bearer {self._token}",
            "content-length": str(len(body)),
            "x-request-id": str(logs.about("request") or ""),
            **headers,
        }
        scope = {
            "type": "http",
            "asgi": self._scope.get("asgi", {}),
            "http_version": "1.1",
            "method": method,
            "scheme": self._scope["scheme"],
            "path": "/v1" + path,
            "raw_path": target.encode(),
            "root_path": self._scope.get("root_path", ""),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in sent.items()],
            "client": self._scope.get("client"),
            "server": self._scope.get("server"),
            "state": self._scope.get("state", {}),
        }
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return messages.pop() if messages else {"type": "http.disconnect"}

        start: Message = {}
        parts: list[bytes] = []

        async def take(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        await self._scope["app"](scope, receive, take)
        reply = b"".join(parts)
        if start["status"] == 401:
            raise Unauthorized("The session has ended.")
        if start["status"] >= 400:
            raise Refused(json.loads(reply))
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}, reply


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
