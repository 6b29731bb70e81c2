"""Deletion requests and the law's verbs on them, the register, and the evidence."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, cast

from lethe import types
from lethe.collection import Collection
from lethe.errors import ProblemError, WaitTimeoutError
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
        self,
        request: str,
        reason: str,
        sample_ids: Sequence[str] | None = None,
        *,
        ground: str | None = None,
        if_match: str | None = None,
    ) -> types.DeletionRequest:
        """Refuse the request, or only these of its samples. Where two people must decide, this proposes it."""
        ids = list(sample_ids) if sample_ids is not None else None
        return self._decide(request, "refuse", if_match, reason=reason, sample_ids=ids, ground=ground)

    def approve(self, request: str, *, if_match: str | None = None) -> types.DeletionRequest:
        """Agree with a proposed refusal, with another key than the one that proposed it."""
        return self._decide(request, "approve", if_match)

    def dismiss(self, request: str, reason: str, *, if_match: str | None = None) -> types.DeletionRequest:
        """A proposed refusal does not happen."""
        return self._decide(request, "dismiss", if_match, reason=reason)

    def confirm(self, request: str, at: str | None = None, *, if_match: str | None = None) -> types.DeletionRequest:
        """Its receipt was confirmed to the person."""
        return self._decide(request, "confirm", if_match, at=at)

    def identity(
        self,
        request: str,
        status: Literal["asked", "confirmed", "refused"],
        *,
        until: str | None = None,
        at: str | None = None,
        note: str | None = None,
        if_match: str | None = None,
    ) -> types.DeletionRequest:
        """A proof of identity was asked for, up to the day `until`; or was shown, or was not."""
        return self._decide(request, "identity", if_match, status=status, until=until, at=at, note=note)

    def keep_remains(
        self, request: str, until: str, reason: str, *, if_match: str | None = None
    ) -> types.DeletionRequest:
        """What was made from the samples goes later. Past its due date the request is `incomplete` until then."""
        return self._decide(request, "keep-remains", if_match, until=until, reason=reason)

    def objects(self, request: str) -> list[str]:
        """Where pictures of the samples lie that their owner must delete; `confirm_objects` ends that."""
        return cast("list[str]", self._calls.get(f"{self.path}/{request}/objects")["addresses"])

    def confirm_objects(self, request: str) -> types.DeletionRequest:
        """The owner has deleted what `objects` lists, with all versions. The service looks where it may."""
        return cast("types.DeletionRequest", self._verb(request, "confirm-objects"))

    def history(self, request: str) -> list[types.HistoryEntry]:
        """What happened to it: when, by whom, why, and what changed; oldest first."""
        found = self._calls.get(f"{self.path}/{request}/history")["entries"]
        return cast("list[types.HistoryEntry]", found)

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

    # -- people, drafts, recalls -------------------------------------------------------------------

    def find(self, subjects: Sequence[str]) -> Json:
        """What is held of some subjects in every dataset, by their place in the list."""
        return cast("Json", self._calls.post(f"{self.path}:find", {"subjects": list(subjects)}))

    def draft(
        self,
        dataset: str,
        sample_ids: Sequence[str] | None = None,
        *,
        subjects: Sequence[str] | None = None,
        **fields: Any,
    ) -> Json:
        """What a request would mean: models, time, what an audit could show, data loss, duplicates that would stay."""
        body = _order(dataset, sample_ids, subjects, fields)
        return cast("Json", self._calls.post(f"{self.path}:draft", body))

    def span(
        self, subjects: Sequence[str], dataset: str, *, idempotency_key: str | None = None, **fields: Any
    ) -> types.Span:
        """One letter about everything that is held of some subjects: a request for each dataset, or none at all.
        `dataset`: one of them, whose request gives the case its name."""
        body = {"subjects": list(subjects), "like": {"dataset": dataset, **fields}}
        found = self._calls.post(f"{self.path}:span", body, idempotency_key=idempotency_key)
        return cast("types.Span", found)

    def draft_span(self, subjects: Sequence[str], dataset: str, **fields: Any) -> Json:
        """What `span` would mean: a draft for each dataset. Nothing is stored."""
        body = {"subjects": list(subjects), "like": {"dataset": dataset, "validate_only": True, **fields}}
        return cast("Json", self._calls.post(f"{self.path}:span", body))

    def blast_radius(self, request: str) -> list[Json]:
        """Every version that was trained on its samples, with aliases, and who fetched it when."""
        return cast("list[Json]", self._calls.get(f"{self.path}/{request}/blast-radius")["versions"])

    def recall(self, request: str, language: types.Language | None = None) -> types.Recall:
        """Recall the fetched versions: a notice to send, and the event `recall.issued`."""
        return cast("types.Recall", self._verb(request, "recall", language=language))

    # -- notices and papers ------------------------------------------------------------------------

    def make_notice(self, request: str, kind: types.NoticeKind, language: types.Language | None = None) -> types.Notice:
        """Render a notice to the person and keep it as it is."""
        body = {"kind": kind, "language": language}
        return cast("types.Notice", self._calls.post(f"{self.path}/{request}/notices", body))

    def notices(self, request: str) -> list[types.Notice]:
        return cast("list[types.Notice]", self._calls.get(f"{self.path}/{request}/notices")["notices"])

    def notice(self, request: str, notice: str) -> types.Notice:
        return cast("types.Notice", self._calls.get(f"{self.path}/{request}/notices/{notice}"))

    def notice_pdf(self, request: str, notice: str) -> bytes:
        """The notice to print."""
        headers = {"Accept": "application/pdf"}
        return self._calls.call("GET", f"{self.path}/{request}/notices/{notice}", headers=headers).content

    def mark_sent(self, request: str, notice: str, how: str, at: str | None = None) -> types.Notice:
        """It went to the person: as a letter, by e-mail …"""
        path = f"{self.path}/{request}/notices/{notice}:sent"
        return cast("types.Notice", self._calls.post(path, {"how": how, "at": at}))

    def attach(
        self, request: str, name: str, content: bytes, kind: Literal["letter", "identity", "other"] = "letter"
    ) -> types.Paper:
        """Attach what came with the case; 4 MiB at most."""
        body = {"kind": kind, "name": name, "content": base64.b64encode(content).decode()}
        return cast("types.Paper", self._calls.post(f"{self.path}/{request}/papers", body))

    def papers(self, request: str) -> list[types.Paper]:
        return cast("list[types.Paper]", self._calls.get(f"{self.path}/{request}/papers")["papers"])

    def paper(self, request: str, paper: str) -> bytes:
        return self._calls.call("GET", f"{self.path}/{request}/papers/{paper}").content

    def remove_paper(self, request: str, paper: str) -> None:
        self._calls.delete(f"{self.path}/{request}/papers/{paper}")

    # -- evidence ----------------------------------------------------------------------------------

    def case_file(self, request: str, *, with_papers: bool = False, timeout: float = 60.0) -> bytes:
        """The case file: one zip that `lethe verify` checks. It is put together anew.

        Raises:
            WaitTimeoutError: it is not ready within `timeout` seconds.
        """
        self._verb(request, "case-file", with_papers=with_papers)
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self._calls.call("GET", f"{self.path}/{request}/case-file").content
            except ProblemError as refused:
                if refused.kind != "case-file-not-ready":
                    raise
            if time.monotonic() > deadline:
                raise WaitTimeoutError(f"the case file of {request} is not ready after {timeout:g} s")
            time.sleep(0.3)

    def check_file(self, content: bytes) -> types.FileReport:
        """Check a case file or a certificate with the service's own keys. `lethe verify` needs no service."""
        headers = {"Content-Type": "application/zip" if content.startswith(b"PK") else "application/json"}
        reply = self._calls.call("POST", "/v1/case-files:verify", content=content, headers=headers)
        return cast("types.FileReport", reply.json())

    def certificate_status(self, digest: str) -> types.CertificateStatus:
        """Whether a certificate is valid, superseded, contested or revoked."""
        return cast("types.CertificateStatus", self._calls.get(f"/v1/certificates/{digest}/status"))

    def revoke_certificate(self, digest: str, reason: str) -> types.CertificateStatus:
        """Say in the log that it is not to be relied on any more."""
        return cast(
            "types.CertificateStatus", self._calls.post(f"/v1/certificates/{digest}:revoke", {"reason": reason})
        )

    def certificate(self, request: str) -> types.Envelope:
        """The newest signed evidence of a fulfilled request; `lethe.verify` checks it offline."""
        return cast("types.Envelope", self._calls.get(f"{self.path}/{request}/certificate"))

    def negative_report(self, request: str) -> types.Envelope:
        """The newest signed statement that no deletion is certified, and why. Raises LetheError: there is none."""
        return cast("types.Envelope", self._calls.get(f"{self.path}/{request}/negative-report"))

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
    """The register of requests, its figures, and the tenant's rules."""

    def __init__(self, calls: Transport) -> None:
        self._calls = calls

    def register(self, year: int | None = None) -> list[types.RegisterEntry]:
        return cast("list[types.RegisterEntry]", self._calls.get("/v1/compliance/register", year=year))

    def register_csv(self, year: int | None = None) -> str:
        params = {} if year is None else {"year": year}
        return self._calls.call("GET", "/v1/compliance/register", params=params, headers={"Accept": "text/csv"}).text

    def register_xlsx(self, year: int | None = None) -> bytes:
        """A workbook with a row for each request; up to 100,000."""
        params: dict[str, Any] = {"form": "xlsx"} | ({} if year is None else {"year": year})
        return self._calls.call("GET", "/v1/compliance/register", params=params).content

    def summary(self, year: int | None = None) -> types.Summary:
        return cast("types.Summary", self._calls.get("/v1/compliance/summary", year=year))

    def figures(self, year: int | None = None) -> types.Figures:
        """Counts by law, ground, outcome, refusal and verdict, and days to the answer."""
        return cast("types.Figures", self._calls.get("/v1/compliance/figures", year=year))

    def rules(self) -> types.Rules:
        return cast("types.Rules", self._calls.get("/v1/compliance/rules"))

    def set_rules(self, rules: types.Rules, *, if_match: str | None = None) -> types.Rules:
        """Replace the rules. if_match: the ETag of those that you have read."""
        return cast("types.Rules", self._calls.put("/v1/compliance/rules", dict(rules), if_match=if_match))

    def remains(self) -> Json:
        """What it costs that reference pools go by the due date, and the alternatives."""
        return cast("Json", self._calls.get("/v1/compliance/remains"))

    def template(self, kind: types.NoticeText, language: types.Language) -> types.Template:
        """The text of a notice, and the fields that it may have."""
        return cast("types.Template", self._calls.get(f"/v1/compliance/templates/{kind}/{language}"))

    def set_template(
        self, kind: types.NoticeText, language: types.Language, subject: str, body: str, *, if_match: str | None = None
    ) -> types.Template:
        path = f"/v1/compliance/templates/{kind}/{language}"
        return cast("types.Template", self._calls.put(path, {"subject": subject, "body": body}, if_match=if_match))

    def drop_template(self, kind: types.NoticeText, language: types.Language, *, if_match: str | None = None) -> None:
        """The text that comes with the service holds again."""
        self._calls.delete(f"/v1/compliance/templates/{kind}/{language}", if_match=if_match)


class Log:
    """The transparency log that certificates are entered in."""

    def __init__(self, calls: Transport) -> None:
        self._calls = calls

    def checkpoint(self, *, witnessed: bool = False) -> str:
        """The signed head; `witnessed`: the newest one that witnesses have countersigned."""
        params = {"witnessed": True} if witnessed else {}
        return self._calls.call("GET", "/v1/log/checkpoint", params=params).text

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
