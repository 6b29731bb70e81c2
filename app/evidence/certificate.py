"""The certificate of one deletion request: an in-toto Statement v1 in a DSSE envelope.

It says that this procedure ran and that these tests gave this, whatever they gave: a negative or inconclusive
verdict is certified as such. It names nobody. The ids stand behind salted tags, the salt stays outside, and
deleting the salt leaves tags that nobody can tell from noise. The log holds the digest of the statement
without its own place in the log (`binding`), so that neither can be exchanged afterwards.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.tables import AuditRow, Job, OutcomeRow, Receipt, Version
from app.evidence import transparency_log
from app.evidence.legal import RequestFacts
from app.evidence.signing import SigningKey, canonical
from app.evidence.transparency_log import Proven

Statement = dict[str, Any]

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:lethe:attestation/deletion/v2"  # fixed: a new form of the statement gets a new version
PAYLOAD_TYPE = "application/vnd.in-toto+json"
EVENT_KIND = "certificate.sealed"
TAG_BYTES = 16
TAG_DOMAIN = b"lethe sample id v1\x00"
CURVES = ("roc_ft", "confidence")  # of a measurement: drawings of the figures beside them
FIGURES = (
    "audit", "audit_params", "canaries", "forget_samples", "retain_samples", "test_samples", "candidate", "parent",
    "balance", "judgement", "references", "adversarial", "gate", "probes", "not_shown",
)  # fmt: skip

WORDING = "This procedure ran and these tests gave this."
NOT_PROVED = (
    "that nothing about the samples is left in a model: an audit says what its tests could and could not detect",
    "that no copy exists outside this service: downloads, exports and backups are not seen here",
    "that the operator ran nothing else: the holder of the signing key states this and is accountable for it",
    "that everybody is shown the same log: compare its signed heads with those that others were given",
    "that the times are right: they are the clock of the service",
    "whose samples these were: the tags mean nothing without the ids and the salt",
    "that this is the latest certificate of the request: a later one would name this one as superseded",
    "that it still holds: ask the service, at /v1/certificates/{digest}/status, whether it was revoked or is contested",
)


# -- facts -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelFacts:
    """What was done to one affected model. Digests are `sha256:<hex>`; `lineage`: result first, root last.

    `audit`: the figures of the report (`audit_figures`); None where nothing was audited.
    """

    model: str
    version: int
    base_digest: str | None
    result_digest: str
    lineage: tuple[dict[str, Any], ...]
    method: str
    method_params: Mapping[str, Any]
    remain_access: str
    seed: int
    software: Mapping[str, str]
    audit: Mapping[str, Any] | None


@dataclass(frozen=True)
class ReceiptFacts:
    """One thing purged (`done_at`), or to be purged at a date (`due_at`)."""

    subject: str
    detail: str
    model: str | None
    done_at: datetime | None
    due_at: datetime | None


@dataclass(frozen=True)
class CertificateFacts:
    """Everything a certificate says. `tags`: of the ids, from `id_tags`. `supersedes`: an earlier `digest_of`."""

    issued_at: datetime
    request: RequestFacts
    dataset: str
    dataset_digest: str | None
    tags: tuple[bytes, ...]
    models: tuple[ModelFacts, ...]
    receipts: tuple[ReceiptFacts, ...]
    supersedes: str | None = None
    log: Proven | None = None


# -- the commitment to the ids ---------------------------------------------------------------------


def new_salt() -> bytes:
    """Of one request. It is kept beside the tags. Deleting it cuts the link to the ids."""
    return secrets.token_bytes(32)


def id_tags(salt: bytes, ids: Iterable[str]) -> tuple[bytes, ...]:
    """HMAC-SHA-256 of every id under the salt, cut to 16 bytes (RFC 2104, section 5) and sorted."""
    tags = (hmac.digest(salt, TAG_DOMAIN + sample_id.encode(), "sha256")[:TAG_BYTES] for sample_id in ids)
    return tuple(sorted(tags))


# -- the statement ---------------------------------------------------------------------------------


def build(facts: CertificateFacts) -> Statement:
    """The in-toto statement of the facts; its subjects are the new checkpoints.

    Raises:
        ValueError: the request is not fulfilled yet, or neither a model nor the dataset's content was changed, so there
            is nothing to certify.
    """
    if facts.request.fulfilled_at is None:
        raise ValueError("a certificate is sealed once its request is fulfilled")
    subjects = {f"{m.model}/versions/{m.version}": m.result_digest for m in facts.models}
    if not subjects and facts.dataset_digest:
        subjects = {facts.dataset: facts.dataset_digest}
    if not subjects:
        raise ValueError("a certificate needs a result to speak of")
    predicate = {
        "wording": WORDING,
        "issued_at": facts.issued_at,
        "request": asdict(facts.request),
        "samples": {
            "count": len(facts.tags),
            "scheme": "hmac-sha256-128",
            "tags": base64.b64encode(b"".join(facts.tags)).decode(),
        },
        "dataset": {"id": facts.dataset, "digest": facts.dataset_digest},
        "models": [asdict(m) | {"verdict": verdict(m.audit)} for m in facts.models],
        "receipts": _receipts(facts.receipts),
        "not_proved": list(NOT_PROVED),
        "supersedes": facts.supersedes,
        "log": log_part(facts.log) if facts.log else None,
    }
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": _hex(digest)}} for name, digest in subjects.items()],
        "predicateType": PREDICATE_TYPE,
        "predicate": plain(predicate),
    }


def _receipts(facts: Iterable[ReceiptFacts]) -> list[dict[str, Any]]:
    return [asdict(each) | {"state": "done" if each.done_at else "pending"} for each in facts]


def has_receipts(statement: Statement, facts: Iterable[ReceiptFacts]) -> bool:
    """Whether the statement has these receipts, as they are."""
    return bool(statement["predicate"]["receipts"] == plain(_receipts(facts)))


def verdict(audit: Mapping[str, Any] | None) -> str:
    return str(audit["judgement"]["verdict"]) if audit else "not audited"


def log_part(proven: Proven) -> dict[str, Any]:
    return {
        "entry": proven.entry,
        "leaf_index": proven.index,
        "tree_size": proven.head.size,
        "root": proven.head.root.hex(),
        "inclusion_proof": [value.hex() for value in proven.path],
        "head": proven.head.note,
    }


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def plain(value: Any) -> Any:
    """The value with its times in RFC 3339, as JSON has it."""
    match value:
        case datetime():
            return value.isoformat(timespec="microseconds") + "Z"
        case Mapping():
            return {name: plain(member) for name, member in value.items()}
        case list() | tuple():
            return [plain(member) for member in value]
    return value


def digest_of(value: Any) -> str:
    """`sha256:<hex>` of the canonical bytes."""
    return "sha256:" + hashlib.sha256(canonical(value)).hexdigest()


def binding(statement: Statement) -> str:
    """Digest of the statement without its place in the log: what the log holds."""
    return digest_of(statement | {"predicate": statement["predicate"] | {"log": None}})


# -- the envelope (DSSE v1) ------------------------------------------------------------------------


def pae(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def sign(statement: Statement, key: SigningKey) -> dict[str, Any]:
    """The statement's canonical bytes in a DSSE envelope with one signature."""
    payload = canonical(statement)
    signature = {"keyid": key.id, "sig": base64.b64encode(key.sign(pae(payload))).decode()}
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [signature],
    }


def opened(envelope: str) -> Statement:
    """The statement in an envelope of the service's own."""
    statement: Statement = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    return statement


# -- from and to the database ----------------------------------------------------------------------


@dataclass(frozen=True)
class Sealed:
    """A certificate as it is kept. `digest`: of its payload, what a later one supersedes."""

    envelope: dict[str, Any]
    digest: str


def seal(session: Session, tenant_id: str, facts: CertificateFacts, key: SigningKey, log_name: str) -> Sealed:
    """Log the statement, prove its place and sign it, in the caller's write transaction."""
    data = {"statement": binding(build(facts))}
    proven = transparency_log.record_proven(session, tenant_id, EVENT_KIND, facts.request.id, data, key, log_name)
    statement = build(replace(facts, log=proven))
    return Sealed(sign(statement, key), digest_of(statement))


def audit_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report's figures with their intervals, and the digest of the whole report; without the curves."""
    figures = {name: report.get(name) for name in FIGURES}
    for name in ("candidate", "parent"):
        if measured := figures[name]:
            figures[name] = {what: value for what, value in measured.items() if what not in CURVES}
    return figures | {"report": digest_of(report)}


def model_facts(session: Session, outcome: OutcomeRow) -> ModelFacts:
    """What became of one request in one model, once it has published."""
    versions = select(Version).where(Version.model_id == outcome.model_id)
    by_number = {row.number: row for row in session.scalars(versions)}
    result = by_number[outcome.version or 0]
    report = _report(session, result)
    job = session.get_one(Job, outcome.job_id)
    lineage: list[dict[str, Any]] = []
    at = result
    while True:
        lineage.append({"version": at.number, "digest": at.digest, "origin": at.origin})
        if at.parent is None:
            break
        at = by_number[at.parent]
    return ModelFacts(
        model=outcome.model_id,
        version=result.number,
        base_digest=lineage[1]["digest"] if len(lineage) > 1 else None,
        result_digest=result.digest,
        lineage=tuple(lineage),
        method=report.get("method", job.kind),
        method_params=report.get("method_params", {}),
        remain_access=report.get("remain_access", "unknown"),
        seed=job.seed,
        software=report.get("environment", {}),
        audit=audit_figures(report) if report else None,
    )


def _report(session: Session, version: Version) -> dict[str, Any]:
    """The report that the version was published with; what was measured later is another statement."""
    query = select(AuditRow).where(
        AuditRow.model_id == version.model_id, AuditRow.version == version.number, AuditRow.job_id == version.job_id
    )
    row = session.scalars(query.order_by(AuditRow.id.desc()).limit(1)).first()
    return row.report if row else {}


def receipt_facts(rows: Sequence[Receipt]) -> tuple[ReceiptFacts, ...]:
    """Receipts as a certificate tells them: without the digests of what was purged, which could be guessed at."""
    return tuple(ReceiptFacts(row.subject, row.detail, row.model_id, row.done_at, row.due_at) for row in rows)
