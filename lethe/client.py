"""A synchronous client of the HTTP API, on httpx."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import httpx

Document = dict[str, Any]
ENDED = frozenset({"succeeded", "rejected", "failed", "cancelled", "dead"})
CHUNK = 2**20


class LetheError(Exception):
    """The service refused: `problem` is its problem document (RFC 9457)."""

    def __init__(self, status: int, problem: Document) -> None:
        self.status, self.problem = status, problem
        lines = [problem.get("detail", f"HTTP {status}")]
        for fault in problem.get("errors", [])[:5]:
            words = (fault.get("pointer"), fault.get("detail") or fault.get("code"))
            lines.append("  " + ": ".join(word for word in words if word))
        super().__init__("\n".join(lines))


class JobFailedError(LetheError):
    """A job ended otherwise than `succeeded`."""


class Client:
    """Calls one service with one API key.

    POSTs carry an idempotency key, so that one repeated after a lost reply does nothing twice.
    """

    def __init__(self, url: str, api_key: str, *, timeout: float = 60.0, retries: int = 3) -> None:
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=timeout,
            trust_env=False,
        )
        self._retries = retries

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # -- calls -------------------------------------------------------------------------------------

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request; transport errors and 503 are tried again.

        Raises:
            LetheError: the service answered with a problem document.
            httpx.TransportError: it did not answer.
        """
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError:
                if last:
                    raise
            else:
                if response.status_code != 503 or last:
                    return _checked(response)
            time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")

    def get(self, path: str, **params: Any) -> Document:
        return cast("Document", self.call("GET", path, params=params).json())

    def post(self, path: str, body: Document | None = None, *, idempotency_key: str | None = None) -> Document:
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return cast("Document", self.call("POST", path, json=body or {}, headers=headers).json())

    def pages(self, path: str, **params: Any) -> Iterator[Document]:
        """Every item of a list, newest first, page by page."""
        while True:
            page = self.get(path, **params)
            yield from page["items"]
            if not page["next_page_token"]:
                return
            params["page_token"] = page["next_page_token"]

    # -- verbs -------------------------------------------------------------------------------------

    def request_deletion(self, dataset: str, sample_ids: Sequence[str], **fields: Any) -> Document:
        return self.post("/v1/deletion-requests", {"dataset": dataset, "sample_ids": list(sample_ids), **fields})

    def events(self, job: str, after: int = 0) -> Iterator[tuple[int, str, Document]]:
        """Server-sent events of a job: (number, kind, data), from after `after` until it ends."""
        headers = {"Last-Event-ID": str(after)}
        with self._http.stream("GET", f"/v1/jobs/{job}/events", headers=headers, timeout=None) as response:
            if response.status_code != 200:
                response.read()
                _checked(response)
            fields: dict[str, str] = {}
            for line in response.iter_lines():
                name, _, value = line.partition(":")
                if line and name:
                    fields[name] = value.removeprefix(" ")
                elif not line and "data" in fields:
                    yield int(fields.get("id", 0)), fields.get("event", "message"), json.loads(fields["data"])
                    fields = {}

    def follow(self, job: str) -> Iterator[Document]:
        """A job's progress as it comes, taken up again where a dropped stream left off; ends with the job."""
        seen = 0
        while True:
            try:
                for number, _, data in self.events(job, seen):
                    seen = number
                    yield data
                    if data["state"] in ENDED:
                        return
            except httpx.TransportError:
                time.sleep(0.5)

    def wait(self, job: str) -> Document:
        """The job once it has ended.

        Raises:
            JobFailedError: it ended otherwise than `succeeded`.
        """
        for _ in self.follow(job):
            pass
        return finished(self.get(f"/v1/jobs/{job}"))

    def wait_request(self, request: str, *, poll_seconds: float = 0.5) -> Document:
        """The deletion request once nothing more will happen to it by itself."""
        while True:
            found = self.get(f"/v1/deletion-requests/{request}")
            if found["status"] not in ("accepted", "processing", "published"):
                return found
            time.sleep(poll_seconds)

    def upload(self, path: str, file: Path, content_type: str) -> Document:
        """PUT a file, streamed."""
        headers = {"Content-Type": content_type, "Content-Length": str(file.stat().st_size)}
        with file.open("rb") as body:
            pieces = iter(lambda: body.read(CHUNK), b"")
            return cast("Document", _checked(self._http.put(path, content=pieces, headers=headers)).json())

    def download(
        self, model: str, version: int, target: Path, progress: Callable[[int, int], None] | None = None
    ) -> str:
        """Fetch a checkpoint to `target`, taking up what an interrupted download left; returns its digest.

        `progress` is called with the bytes there and the bytes in all.

        Raises:
            LetheError: refused, or the bytes do not have the digest that the service states.
        """
        found = self.get(f"/v1/models/{model}/versions/{version}")
        digest, size = found["digest"], found["size"]
        partial = target.with_name(target.name + ".part")
        have = partial.stat().st_size if partial.exists() else 0
        headers = {"Range": f"bytes={have}-", "If-Range": f'"{digest}"'} if have else {}
        path = f"/v1/models/{model}/versions/{version}/checkpoint"
        with self._http.stream("GET", path, headers=headers) as response:
            if response.status_code not in (200, 206, 416):
                response.read()
                _checked(response)
            if response.status_code != 416:  # 416: the whole file is here already
                with partial.open("ab" if response.status_code == 206 else "wb") as file:
                    for piece in response.iter_bytes(CHUNK):
                        file.write(piece)
                        if progress is not None:
                            progress(file.tell(), size)
        with partial.open("rb") as file:
            arrived = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if arrived != digest:
            partial.unlink()
            raise LetheError(200, {"detail": "the downloaded bytes do not have the stated digest"})
        partial.replace(target)
        return str(digest)

    def report_page(self, model: str, version: int) -> str:
        """The audit report of a version as a self-contained HTML page."""
        path = f"/v1/models/{model}/versions/{version}/audit"
        return self.call("GET", path, headers={"Accept": "text/html"}).text


def finished(job: Document) -> Document:
    """The job, if it succeeded."""
    if job["state"] != "succeeded":
        raise JobFailedError(200, job["problem"] or {"detail": f"the job is {job['state']}"})
    return job


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    try:
        problem = response.json()
    except ValueError:
        problem = {"detail": f"HTTP {response.status_code}"}
    raise LetheError(response.status_code, problem)
