"""The negative report: a signed statement that no deletion is certified, and why.

It is no certificate and cannot be taken for one: it has a predicate type of its own, which a verifier of certificates
alone refuses. There is one of a request when a model needs attention or was published without a pass, when its samples
could not be erased, and one of an audit that did not end in a pass. Like a certificate it names nobody, and the log
holds its digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core import db
from app.core.db import Database
from app.core.tables import AuditRow, DeletionRequest, Job, NegativeReport, OutcomeRow
from app.evidence import certificate, legal, transparency_log
from app.evidence.certificate import Statement
from app.evidence.legal import RequestFacts
from app.evidence.signing import SigningKey, canonical
from app.evidence.transparency_log import Proven
from app.rules.states import JobKind, JobState, Outcome

PREDICATE_TYPE = "urn:lethe:attestation/no-deletion/v2"  # fixed: a new form of the statement gets a new version
EVENT_KIND = "negative-report.sealed"
AT_ONCE, SEEN = 20, 1000
WORDING = "No deletion is certified."
NOT_PROVED = (
    "that a later attempt did not succeed: the report says what was so at its date",
    "that the operator ran nothing else: the holder of the signing key states this and is accountable for it",
    "that the times are right: they are the clock of the service",
)
NOT_YET = "not carried out yet"
NOT_AUDITED = "no audit measured it"


@dataclass(frozen=True)
class Finding:
    """What became of one model. state: of the outcome; `audited` where an audit was asked for; `not-erased` of samples.

    why: empty where the audit passed.
    """

    model: str | None
    version: int | None
    job: str | None
    state: str
    method: str | None
    verdict: str
    why: str
    audit: Mapping[str, Any] | None

    @property
    def certified(self) -> bool:
        return self.state in (Outcome.PUBLISHED, Outcome.PURGED) and self.verdict in ("pass", "not audited")


@dataclass(frozen=True)
class NegativeFacts:
    """Everything that a report says. request: None of an audit. about: the id of the request or of the audit."""

    issued_at: datetime
    about: str
    request: RequestFacts | None
    findings: tuple[Finding, ...]
    log: Proven | None = None


def build(facts: NegativeFacts) -> Statement:
    """The in-toto statement. Its subject is what it is about, by the digest of what it says of it.

    Raises:
        ValueError: every finding is certified, so there is nothing negative to say.
    """
    if all(finding.certified for finding in facts.findings):
        raise ValueError("a negative report needs a finding that is no success")
    request = asdict(facts.request) if facts.request else None
    said = {"request": request, "findings": [asdict(finding) for finding in facts.findings]}
    said = certificate.plain(said)
    digest = hashlib.sha256(canonical(said)).hexdigest()
    predicate = {
        "wording": WORDING,
        "issued_at": certificate.plain(facts.issued_at),
        "about": facts.about,
        **said,
        "not_proved": list(NOT_PROVED),
        "log": certificate.log_part(facts.log) if facts.log else None,
    }
    return {
        "_type": certificate.STATEMENT_TYPE,
        "subject": [{"name": facts.about, "digest": {"sha256": digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }


# -- from and to the database ----------------------------------------------------------------------


def ask(session: Session, tenant_id: str, *, request_id: str | None = None, audit_id: str | None = None) -> None:
    """Have a report signed, in the transaction of what made it necessary. The sweeper, which has the key, signs it."""
    waiting = select(NegativeReport.number).where(
        NegativeReport.request_id.is_not_distinct_from(request_id),
        NegativeReport.audit_id.is_not_distinct_from(audit_id),
        NegativeReport.issued_at.is_(None),
    )
    if session.scalars(waiting.limit(1)).first() is None:
        now = db.now(session)
        session.add(NegativeReport(tenant_id=tenant_id, request_id=request_id, audit_id=audit_id, asked_at=now))


def latest(session: Session, *, request_id: str | None = None, audit_id: str | None = None) -> NegativeReport | None:
    """The newest one that is signed."""
    query = select(NegativeReport).where(
        NegativeReport.request_id.is_not_distinct_from(request_id),
        NegativeReport.audit_id.is_not_distinct_from(audit_id),
        NegativeReport.issued_at.is_not(None),
    )
    return session.scalars(query.order_by(NegativeReport.number.desc()).limit(1)).first()


def is_waiting(session: Session, request_id: str) -> bool:
    """Whether a report of the request is asked for and not signed yet."""
    query = select(NegativeReport.number).where(
        NegativeReport.request_id == request_id, NegativeReport.issued_at.is_(None)
    )
    return session.scalars(query.limit(1)).first() is not None


def seal_due(database: Database, key: SigningKey, log_name: str) -> int:
    """Sign the reports that are asked for; how many. One that cannot be signed keeps none of the others from it."""
    with database.read() as session:
        due = select(NegativeReport.number).where(NegativeReport.issued_at.is_(None)).order_by(NegativeReport.number)
        numbers = list(session.scalars(due.limit(SEEN)))

    def seal(number: int) -> bool:
        with database.write() as session:
            return _seal(session, number, key, log_name)

    return db.one_by_one(numbers, seal, "a negative report could not be signed", most=AT_ONCE)


def _seal(session: Session, number: int, key: SigningKey, log_name: str) -> bool:
    row = session.get(NegativeReport, number, with_for_update=True)
    if row is None or row.issued_at is not None:
        return False  # another sweeper was faster
    now = db.now(session)
    facts = _of_request(session, row.request_id, now) if row.request_id else _of_audit(session, row.audit_id or "", now)
    if all(finding.certified for finding in facts.findings):  # it was tried again meanwhile, with success
        session.delete(row)
        return False
    data = {"statement": certificate.binding(build(facts))}
    proven = transparency_log.record_proven(session, row.tenant_id, EVENT_KIND, facts.about, data, key, log_name)
    statement = build(replace(facts, log=proven))
    row.envelope, row.digest = json.dumps(certificate.sign(statement, key)), certificate.digest_of(statement)
    row.issued_at = now
    return True


def _of_request(session: Session, request_id: str, now: datetime) -> NegativeFacts:
    request = session.get_one(DeletionRequest, request_id)
    outcomes = session.scalars(select(OutcomeRow).where(OutcomeRow.request_id == request_id))
    findings = [_of_outcome(session, row) for row in sorted(outcomes, key=lambda row: row.model_id)]
    purges = select(Job).where(Job.request_id == request_id, Job.kind == JobKind.PURGE).order_by(Job.id.desc())
    purge = session.scalars(purges.limit(1)).first()
    if purge is not None and purge.state != JobState.SUCCEEDED and purge.problem:
        why = f"the samples could not be erased: {purge.problem['detail']}"
        findings.append(Finding(None, None, purge.id, "not-erased", None, "not audited", why, None))
    return NegativeFacts(now, request_id, legal.of(session, request), tuple(findings))


def _of_outcome(session: Session, outcome: OutcomeRow) -> Finding:
    published = outcome.state in (Outcome.PUBLISHED, Outcome.PURGED)
    audits = select(AuditRow).where(AuditRow.job_id == outcome.job_id, AuditRow.compares_request.is_(None))
    row = session.scalars(audits.order_by(AuditRow.id.desc()).limit(1)).first()
    if row is not None and published != (row.version is not None):
        row = None  # of an attempt before
    report: dict[str, Any] = row.report if row else {}
    verdict = certificate.verdict(report)
    why = "" if verdict == "pass" else NOT_AUDITED
    if report and verdict != "pass":
        why = str(report["judgement"]["reason"])
    if not published:
        why = outcome.reason or NOT_YET
    return Finding(
        model=outcome.model_id,
        version=outcome.version,
        job=outcome.job_id,
        state=outcome.state,
        method=report.get("method"),
        verdict=verdict,
        why=why,
        audit=certificate.audit_figures(report) if report else None,
    )


def _of_audit(session: Session, audit_id: str, now: datetime) -> NegativeFacts:
    row = session.get_one(AuditRow, audit_id)
    finding = Finding(
        model=row.model_id,
        version=row.version,
        job=row.job_id,
        state="audited",
        method=row.report.get("method"),
        verdict=row.verdict,
        why=str(row.report["judgement"]["reason"]),
        audit=certificate.audit_figures(row.report),
    )
    return NegativeFacts(now, audit_id, None, (finding,))


def envelopes(session: Session, request_id: str) -> Sequence[str]:
    """The signed reports of a request, newest first."""
    query = select(NegativeReport.envelope).where(
        NegativeReport.request_id == request_id, NegativeReport.envelope.is_not(None)
    )
    return [envelope for envelope in session.scalars(query.order_by(NegativeReport.number.desc())) if envelope]
