"""Deletion requests and the law's verbs on them, the register, and the evidence."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

from lethe import types
from lethe.collection import Collection
from lethe.errors import WaitTimeoutError
from lethe.transport import Transport
from lethe.types import Json

UNDER_WAY = frozenset({"accepted", "processing", "published"})
NDJSON = "application/x-ndjson"
MOST_LINES, MOST_BYTES = 1_000, 8 * 2**20  # of one call of `:import`


class Requests(Collection[types.DeletionRequest]):
    path = "/v1/deletion-requests"

    def create(
        self,
        dataset: str,
        sample_ids: Sequence[str] | None = None,
        *,
        subjects: Sequence[str] | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> types.DeletionRequest:
        """Ask for samples to be forgotten, by id or by whose they are. `fields`: model, jurisdiction, basis …

        With a key of your own (your ticket's number, say) the request is made once however often it is sent.
        """
        body = _order(dataset, sample_ids, subjects, fields)
        return cast("types.DeletionRequest", self._calls.post(self.path, body, idempotency_key=idempotency_key))

    def preview(
        self,
        dataset: str,
        sample_ids: Sequence[str] | None = None,
        *,
        subjects: Sequence[str] | None = None,
        **fields: Any,
    ) -> types.Preview:
        """Check everything and store nothing: what the request would mean."""
        body = _order(dataset, sample_ids, subjects, fields) | {"validate_only": True}
        return cast("types.Preview", self._calls.post(self.path, body))

    def import_lines(self, requests: Iterable[Json]) -> Iterator[types.ImportLine]:
        """Many requests, each a body as of `create`; each is accepted or refused by itself. A result for each, in
        order; `line` counts from 0."""
        first = 0
        for lines in _parts(requests):
            headers = {"Content-Type": NDJSON}
            reply = self._calls.call("POST", f"{self.path}:import", content=b"".join(lines), headers=headers)
            for text in filter(None, reply.text.split("\n")):  # not splitlines: a JSON text may hold other line ends
                result = cast("types.ImportLine", json.loads(text))
                result["line"] += first
                yield result
            first += len(lines)

    def cancel(self, request: str, reason: str, *, if_match: str | None = None) -> types.DeletionRequest:
        return self._decide(request, "cancel", if_match, reason=reason)

    def hold(self, request: str, reason: str, *, if_match: str | None = None) -> types.DeletionRequest:
        return self._decide(request, "hold", if_match, reason=reason)

    def release(self, request: str, *, if_match: str | None = None) -> types.DeletionRequest:
        return self._decide(request, "release", if_match)

    def extend(self, request: str, reason: str, *, if_match: str | None = None) -> types.DeletionRequest:
        return self._decide(request, "extend", if_match, reason=reason)

    def refuse(
        self, request: str, reason: str, sample_ids: Sequence[str] | None = None, *, if_match: str | None = None
    ) -> types.DeletionRequest:
        """Refuse the request, or only these of its samples."""
        ids = list(sample_ids) if sample_ids is not None else None
        return self._decide(request, "refuse", if_match, reason=reason, sample_ids=ids)

    def _decide(self, request: str, verb: str, if_match: str | None, **body: Any) -> types.DeletionRequest:
        return cast("types.DeletionRequest", self._verb(request, verb, if_match=if_match, **body))

    def wait(
        self,
        request: str,
        *,
        timeout: float | None = None,
        progress: Callable[[types.DeletionRequest], None] | None = None,
        poll_seconds: float = 0.5,
    ) -> types.DeletionRequest:
        """The request once nothing more happens to it by itself: fulfilled, held, refused or in need of attention.

        Raises:
            WaitTimeoutError: that is not so within `timeout` seconds; it goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        seen: tuple[types.DeletionRequest, str] | None = None
        while True:
            seen = self._calls.tagged(f"{self.path}/{request}", seen)
            found = seen[0]
            if progress is not None:
                progress(found)
            if found["status"] not in UNDER_WAY:
                return found
            if deadline is not None and time.monotonic() + poll_seconds > deadline:
                raise WaitTimeoutError(f"{request} is {found['status']} after {timeout:g} s")
            time.sleep(poll_seconds)
            poll_seconds = min(1.3 * poll_seconds, max(5.0, poll_seconds))

    # -- evidence ----------------------------------------------------------------------------------

    def certificate(self, request: str) -> types.Envelope:
        """The newest signed evidence of a fulfilled request; `lethe.verify` checks it offline."""
        return cast("types.Envelope", self._calls.get(f"{self.path}/{request}/certificate"))

    def receipts(self, **filters: Any) -> Iterator[types.ReceiptListed]:
        """What was purged for the requests and what will be; `done=False` is what is left."""
        return cast("Iterator[types.ReceiptListed]", self._calls.pages("/v1/receipts", **filters))

    def certificates(self, **filters: Any) -> Iterator[types.Certificate]:
        """Every certificate, superseded ones among them; `certificate_of` fetches one by its digest."""
        return cast("Iterator[types.Certificate]", self._calls.pages("/v1/certificates", **filters))

    def certificate_of(self, digest: str) -> types.Envelope:
        return cast("types.Envelope", self._calls.get(f"/v1/certificates/{digest}"))

    def opening(self, request: str) -> str:
        """The salt (hex) with which an id can be tested against the certificate."""
        return cast("str", self._calls.get(f"{self.path}/{request}/opening")["salt"])

    def shred(self, request: str) -> bool:
        """Delete the salt; whether there was one."""
        return cast("bool", self._verb(request, "shred")["deleted"])


class Compliance:
    """The record of processing."""

    def __init__(self, calls: Transport) -> None:
        self._calls = calls

    def register(self, year: int | None = None) -> list[types.RegisterEntry]:
        return cast("list[types.RegisterEntry]", self._calls.get("/v1/compliance/register", year=year))

    def register_csv(self, year: int | None = None) -> str:
        params = {} if year is None else {"year": year}
        return self._calls.call("GET", "/v1/compliance/register", params=params, headers={"Accept": "text/csv"}).text

    def summary(self, year: int | None = None) -> types.Summary:
        return cast("types.Summary", self._calls.get("/v1/compliance/summary", year=year))


class Log:
    """The transparency log that certificates are entered in."""

    def __init__(self, calls: Transport) -> None:
        self._calls = calls

    def checkpoint(self) -> str:
        """The signed head."""
        return self._calls.call("GET", "/v1/log/checkpoint").text

    def keys(self) -> types.LogKeys:
        """The public keys that sign: the verifier's trust file."""
        return cast("types.LogKeys", self._calls.get("/v1/log/keys"))

    def entries(self, start: int = 0, limit: int = 100) -> list[Json]:
        return cast("list[Json]", self._calls.get("/v1/log/entries", start=start, limit=limit)["entries"])

    def inclusion(self, leaf: int, size: int) -> list[str]:
        """Hashes (hex) that prove a leaf to be in the tree of `size` leaves."""
        return cast("list[str]", self._calls.get("/v1/log/proof", leaf=leaf, size=size)["hashes"])

    def consistency(self, old: int, size: int) -> list[str]:
        """Hashes (hex) that prove the tree of `size` leaves to continue that of `old`."""
        return cast("list[str]", self._calls.get("/v1/log/proof", old=old, size=size)["hashes"])


def _order(dataset: str, ids: Sequence[str] | None, subjects: Sequence[str] | None, fields: Json) -> Json:
    whom = {"sample_ids": ids and list(ids), "subjects": subjects and list(subjects)}
    return {"dataset": dataset, **whom, **fields}


def _parts(requests: Iterable[Json]) -> Iterator[list[bytes]]:
    """Lines of NDJSON, in parts that one call takes."""
    lines: list[bytes] = []
    size = 0
    for request in requests:
        line = json.dumps(request).encode() + b"\n"
        if lines and (len(lines) == MOST_LINES or size + len(line) > MOST_BYTES):
            yield lines
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    if lines:
        yield lines
