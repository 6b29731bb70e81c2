"""The case file: one zip that a regulator gets, with every part named by its digest in a signed manifest.

A client asks for it; the sweeper, which has the signing key, puts it together. `lethe verify case.zip` checks all of
it. Refusals, extensions, holds and cancellations have no certificate: of each there is a signed record, which is its
entry in the log with the proof; so there is of later dates for what is left, and of a revoked certificate.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app import events
from app.cases import certificates, notices, papers, recall
from app.cases.certificates import Standing
from app.cases.recall import Held
from app.core import db
from app.core.db import Database
from app.core.errors import Conflict, NotFound
from app.core.tables import (
    ApiKey,
    AuditEvent,
    AuditRow,
    CaseFile,
    CasePaper,
    CertificateRow,
    DeletionRequest,
    Job,
    Model,
    Notice,
    OutcomeRow,
    Recall,
    Version,
)
from app.deletions import history, views
from app.deletions.views import RequestDetails
from app.evidence import certificate, legal, negative, sealing, signing, transparency_log, witness
from app.evidence.signing import SigningKey, canonical
from app.evidence.transparency_log import Head
from app.formats.audit_report import AuditReport
from app.reports import page
from app.rules.deadlines import clock

VERIFIER = Path(__file__).parents[2] / "lethe" / "verify.py"
CASE_TYPE = "urn:lethe:attestation/case/v2"  # fixed, as the next one: a new form of it gets a new version
DECISION_TYPE = "urn:lethe:attestation/decision/v2"
DECISIONS = (*legal.ANSWERS, legal.REVOKED)
AT_ONCE, SEEN = 5, 1000
WORDING = "These are the parts of this case, as the service had them at this time."
NOT_PROVED = (
    "that the case had no other part: the service put in what it had",
    "that letters and notices are true: they are what people wrote and sent",
    "that the times are right: they are the clock of the service, and the dates of receipt are what a person entered",
    "that a certificate still holds: this file says how it stood when the file was made, and the service how it stands",
)
README = """How to check this case file

You need Python 3.11 or later and one library:

    pip install cryptography
    python verify.py case.zip --trust trust.json

Take verify.py and trust.json from a place that you trust, not from this file: from the package lethe-unlearning, and
from the operator over another channel. Inside this zip they are copies for your convenience.

Every line says which part was checked. "NOT VERIFIED" names the part that is wrong.

case.pdf              the case, to print
case.json             the same, for a program
manifest.json         every part with its digest, signed
certificate.json      the signed statement of the erasure, if there was one
superseded-N.json     earlier certificates, newest first
negative-report.json  the newest signed statement that no deletion is certified, if there was one
decision-N.json       signed records of refusals, extensions, legal holds, cancellations, later dates for what is left,
                      and revoked certificates: as it was decided then
audit-MODEL.json      the audit report whose digest the certificate has; audit-MODEL.html shows it
policy-MODEL.json     the policy as it was
notices/              the letters that were made; what begins with not-sent was not marked as sent. case.json says
                      which were sent, when, how and by whom
papers/               what came, if it was asked for. case.json has the list
head.txt, proof.json  the log's signed head, and the proof that it continues the certificate's
witnessed.txt         the newest head that witnesses have countersigned
trust.json            the public keys

A certificate can be revoked, contested or superseded later. manifest.json says how it stood when this file was made.
Ask the service how it stands now; no key is needed:

    lethe verify FILE --online https://ADDRESS

asks ADDRESS/v1/certificates/DIGEST/status, where DIGEST is the certificate's in manifest.json. A revocation is in the
log, too.
"""


def ask(session: Session, request: DeletionRequest, *, with_papers: bool) -> CaseFile:
    """Have the case file put together anew; it replaces the one before."""
    now = db.now(session)
    row = session.get(CaseFile, request.id, with_for_update=True)
    if row is None:
        row = CaseFile(request_id=request.id, tenant_id=request.tenant_id, asked_at=now, asked_by=db.acting(session))
        session.add(row)
    row.asked_at, row.asked_by, row.with_papers = now, db.acting(session), with_papers
    row.made_at = row.problem = row.content = None
    events.record(session, request.tenant_id, "request.case-file-asked", request.id, with_papers=with_papers)
    return row


def get(session: Session, request: DeletionRequest) -> bytes:
    """The zip.

    Raises:
        NotFound: nobody asked for it.
        Conflict: it is not ready, or could not be made.
    """
    row = session.get(CaseFile, request.id)
    if row is None:
        raise NotFound("Ask for the case file first: `:case-file`.")
    if row.problem:
        raise Conflict(f"The case file could not be made: {row.problem}", kind="case-file-failed")
    if row.content is None:
        raise Conflict(
            "The case file is being made. Ask again.", kind="case-file-not-ready", headers={"Retry-After": "1"}
        )
    return row.content


def make_due(database: Database, key: SigningKey) -> int:
    """Make the case files that were asked for; how many. The sweeper's duty."""
    with database.read() as session:
        asked = select(CaseFile.request_id).where(CaseFile.made_at.is_(None)).order_by(CaseFile.asked_at)
        ids = list(session.scalars(asked.limit(SEEN)))

    def make(request_id: str) -> bool:
        try:
            with database.write() as session:
                return _make(session, request_id, key)
        except DBAPIError:
            raise
        except Exception:
            with database.write() as session:
                row = session.get_one(CaseFile, request_id)
                row.made_at, row.problem = db.now(session), "an error of the service; its log has it"
            raise

    return db.one_by_one(ids, make, "a case file could not be made", most=AT_ONCE)


def _make(session: Session, request_id: str, key: SigningKey) -> bool:
    row = session.get_one(CaseFile, request_id, with_for_update=True)
    request = session.get_one(DeletionRequest, request_id)
    if row.made_at is not None:
        return False
    waits = sealing.is_behind(session, request) or negative.is_waiting(session, request_id)
    unplaced = select(AuditEvent.number).where(AuditEvent.object_id == request_id, AuditEvent.leaf.is_(None))
    if waits or session.scalars(unplaced.limit(1)).first() is not None:
        return False  # the log and the certificate come first, within seconds
    row.content = build(session, request, key, with_papers=row.with_papers)
    row.made_at = db.now(session)
    return True


# -- the parts -------------------------------------------------------------------------------------


@dataclass
class Case:
    """What the case file of one request is made of, at one moment."""

    request: DeletionRequest
    details: RequestDetails
    history: list[dict[str, Any]]
    head: Head
    at: datetime
    models: dict[str, str]
    with_papers: bool
    certificates: Sequence[CertificateRow] = ()
    standings: Sequence[Standing] = ()  # of the certificates
    notices: Sequence[Notice] = ()
    papers: Sequence[CasePaper] = ()
    letter: Sequence[dict[str, Any]] = ()  # the other requests of the same letter
    recalls: Sequence[Recall] = ()
    fetched: Sequence[Held] = ()  # versions that learned from the samples, which somebody has
    keys: Mapping[str, str] = field(default_factory=dict)  # names
    parts: dict[str, bytes] = field(default_factory=dict)


def build(session: Session, request: DeletionRequest, key: SigningKey, *, with_papers: bool) -> bytes:
    """The zip. Its parts are read in one transaction, so that they belong together.

    Raises:
        ValueError: the log has no head yet.
    """
    head = transparency_log.head(session, request.tenant_id)
    if head is None:
        raise ValueError("the log is empty")
    details = views.details(session, [request])[request.id]
    named = select(Model.id, Model.name).where(Model.id.in_([row.model_id for row in details.outcomes]))
    sealed = select(CertificateRow).where(CertificateRow.request_id == request.id)
    newest_first = sealed.order_by(CertificateRow.issued_at.desc(), CertificateRow.receipts_done.desc())
    rows = session.scalars(newest_first).all()
    case = Case(
        request=request,
        details=details,
        history=history.of(session, request),
        head=head,
        at=db.now(session),
        models=dict(session.execute(named).all()),
        with_papers=with_papers,
        certificates=rows,
        standings=[certificates.standing(session, row) for row in rows],
        notices=notices.of(session, request),
        papers=papers.of(session, request),
        letter=_same_letter(session, request),
        recalls=session.scalars(select(Recall).where(Recall.request_id == request.id).order_by(Recall.id)).all(),
        fetched=[each for each in recall.of_request(session, request) if each.downloads],
        keys=dict(session.execute(select(ApiKey.id, ApiKey.name).where(ApiKey.tenant_id == request.tenant_id)).all()),
    )
    _add_evidence(session, case, key)
    _add_audits(session, case)
    for notice in case.notices:
        case.parts[_notice_part(notice)] = notices.print_pdf(notice)
    for paper in case.papers if with_papers else ():
        case.parts[_paper_part(paper)] = paper.content
    case.parts["case.json"] = json.dumps(_document(case), indent=2, ensure_ascii=False).encode()
    case.parts["case.pdf"] = _printed(case)
    case.parts["README.txt"] = README.encode()
    case.parts["verify.py"] = VERIFIER.read_bytes()
    case.parts["manifest.json"] = json.dumps(_manifest(case, key)).encode()
    return _zipped(case)


def _same_letter(session: Session, request: DeletionRequest) -> list[dict[str, Any]]:
    if request.case_id is None:
        return []
    others = (DeletionRequest.case_id == request.case_id, DeletionRequest.id != request.id)
    mine = (DeletionRequest.tenant_id == request.tenant_id, *others)
    rows = session.scalars(select(DeletionRequest).where(*mine).order_by(DeletionRequest.id)).all()
    details = views.details(session, rows)
    return [{"id": row.id, "dataset": row.dataset_id, "status": details[row.id].status(row).value} for row in rows]


def _notice_part(row: Notice) -> str:
    return f"notices/{'' if row.sent_at else 'not-sent-'}{row.kind}-{row.id}.pdf"


def _paper_part(row: CasePaper) -> str:
    """The name that the person gave it stays in the list: it could be that of any program."""
    return f"papers/{row.kind}-{row.id}.bin"


def _add_evidence(session: Session, case: Case, key: SigningKey) -> None:
    tenant = case.request.tenant_id
    case.parts["trust.json"] = json.dumps(signing.trust_document(sealing.known_keys(session)), indent=2).encode()
    case.parts["head.txt"] = case.head.note.encode()
    if (witnessed := witness.cosigned(session, tenant)) is not None:
        case.parts["witnessed.txt"] = witnessed.encode()
    for number, row in enumerate(case.certificates):
        name = "certificate.json" if not number else f"superseded-{number}.json"
        case.parts[name] = row.envelope.encode()
    if found := negative.envelopes(session, case.request.id):
        case.parts["negative-report.json"] = found[0].encode()
    if case.certificates:
        size = certificate.opened(case.certificates[0].envelope)["predicate"]["log"]["tree_size"]
        hashes = transparency_log.prove_consistency(session, tenant, size, case.head.size)
        case.parts["proof.json"] = json.dumps({"hashes": [value.hex() for value in hashes]}).encode()
    decided = select(AuditEvent).where(AuditEvent.object_id == case.request.id, AuditEvent.kind.in_(DECISIONS))
    for number, event in enumerate(session.scalars(decided.order_by(AuditEvent.number)), 1):
        case.parts[f"decision-{number}.json"] = json.dumps(_record(session, case, event, key)).encode()


def _record(session: Session, case: Case, event: AuditEvent, key: SigningKey) -> dict[str, Any]:
    """The signed record of one decision."""
    entry, leaf = transparency_log.entry(event), event.leaf or 0
    path = transparency_log.prove_inclusion(session, case.request.tenant_id, leaf, case.head.size)
    statement = {
        "_type": certificate.STATEMENT_TYPE,
        "subject": [{"name": case.request.id, "digest": {"sha256": _sha256(canonical(entry))}}],
        "predicateType": DECISION_TYPE,
        "predicate": {
            "wording": "The service recorded this decision about this request.",
            "issued_at": _time(case.at),
            "request": {
                "id": case.request.id,
                "received_at": _time(case.request.received_at),
                "jurisdiction": case.request.jurisdiction,
            },
            "log": {
                "entry": entry,
                "leaf_index": leaf,
                "tree_size": case.head.size,
                "root": case.head.root.hex(),
                "inclusion_proof": [value.hex() for value in path],
                "head": case.head.note,
            },
        },
    }
    return certificate.sign(statement, key)


def _add_audits(session: Session, case: Case) -> None:
    """The reports in the bytes whose digest the certificate has, and each model's policy as its job had it."""
    for outcome in case.details.outcomes:
        if not isinstance(outcome, OutcomeRow) or outcome.version is None or outcome.job_id is None:
            continue
        query = select(AuditRow).join(Version, Version.job_id == AuditRow.job_id)
        these = (AuditRow.job_id == outcome.job_id, Version.number == outcome.version)
        row = session.scalars(query.where(*these).order_by(AuditRow.id.desc()).limit(1)).first()
        if row is not None:
            case.parts[f"audit-{outcome.model_id}.json"] = canonical(row.report)
            shown = page.render(AuditReport.model_validate(row.report), name=case.models.get(outcome.model_id, ""))
            case.parts[f"audit-{outcome.model_id}.html"] = shown.encode()
        job, model = session.get_one(Job, outcome.job_id), session.get_one(Model, outcome.model_id)
        policy = job.params.get("policy", model.policy)
        case.parts[f"policy-{outcome.model_id}.json"] = json.dumps(policy, indent=2).encode()


def _document(case: Case) -> dict[str, Any]:
    request, details = case.request, case.details
    place = clock(request.jurisdiction)
    return {
        "made_at": _time(case.at),
        "request": {
            "id": request.id,
            "status": details.status(request).value,
            "decision": request.decision,
            "reference": details.reference,
            "jurisdiction": request.jurisdiction,
            "rule": request.rule,
            "ground": request.ground,
            "basis": request.basis,
            "received_at": _time(request.received_at),
            "received_on": str(place.day(request.received_at)),
            "channel": request.channel,
            "posted_at": _time(request.posted_at or request.received_at),
            "received_reason": request.received_reason,
            "due_at": _time(request.due_at),
            "due_on": str(place.day(request.due_at)),
            "extended_at": _time(request.extended_at),
            "extension_reason": request.extension_reason,
            "extension_sent_at": _time(request.extension_sent_at),
            "answered_at": _time(request.answered_at),
            "answered_how": request.answered_how,
            "confirm_by": _time(request.confirm_by),
            "confirmed_at": _time(request.confirmed_at),
            "identity": request.identity,
            "identity_asked_at": _time(request.identity_asked_at),
            "identity_until": _time(request.identity_until),
            "identity_ended_at": _time(request.identity_ended_at),
            "samples": request.sample_count,
            "samples_refused": request.refused_count,
            "refusal_ground": request.refusal_ground,
            "reason": request.reason,
            "complaint_about": request.complaint_about,
            "case": request.case_id,
            "verdict": details.verdict,
            "model_replaced_at": _time(details.replaced_at),
            "fulfilled_at": _time(request.fulfilled_at),
            "remains_until": _time(request.remains_until),
            "remains_reason": request.remains_reason,
            "erasure_complete_at": _time(details.complete_at(request)),
        },
        "refusals": [
            asdict(each) | {"at": _time(each.at), "letter_sent_at": _time(each.letter_sent_at)}
            for each in details.refusals
        ],
        "same_letter": list(case.letter),
        "models": [
            {
                "id": row.model_id,
                "name": case.models.get(row.model_id),
                "version": row.version,
                "state": row.state,
                "verdict": details.verdicts.get(row.model_id),
            }
            for row in details.outcomes
        ],
        "certificates": _standings(case),
        "receipts": [
            {
                "subject": row.subject,
                "detail": row.detail,
                "due_at": _time(row.due_at),
                "done_at": _time(row.done_at),
            }
            for row in details.receipts
        ],
        "notices": [
            {
                "id": row.id,
                "kind": row.kind,
                "language": row.language,
                "file": _notice_part(row),
                "made_at": _time(row.created_at),
                "sent_at": _time(row.sent_at),
                "sent_how": row.sent_how,
                "sent_by": row.sent_by,
                "sent_by_name": case.keys.get(row.sent_by or ""),
            }
            for row in case.notices
        ],
        "papers": [
            {
                "id": row.id,
                "kind": row.kind,
                "name": row.name,
                "size": row.size,
                "digest": row.digest,
                "attached_at": _time(row.created_at),
                "file": _paper_part(row) if case.with_papers else None,
            }
            for row in case.papers
        ],
        "fetched": [
            {
                "model": each.model,
                "version": each.number,
                "digest": each.digest,
                "by": [
                    {"key": one.key, "name": one.name, "form": one.form, "at": _time(one.at)} for one in each.downloads
                ],
            }
            for each in case.fetched
        ],
        "recalls": [
            {
                "id": row.id,
                "at": _time(row.created_at),
                "versions": row.versions,
                "recipients": [{"key": key, "name": case.keys.get(key)} for key in row.keys],
            }
            for row in case.recalls
        ],
        "history": [entry | {"at": _time(entry["at"])} for entry in case.history],
    }


def _standings(case: Case) -> list[dict[str, Any]]:
    """Of the certificates, newest first."""
    return [
        {
            "digest": each.digest,
            "status": each.status,
            "since": _time(each.since),
            "superseded_by": each.superseded_by,
            "contested_by": each.contested_by,
        }
        for each in case.standings
    ]


def _printed(case: Case) -> bytes:
    from app.cases import pdf  # as in `notices.print_pdf`

    document = _document(case)
    request = {name: value for name, value in document["request"].items() if value is not None}
    blocks: list[pdf.Block] = [
        [(name.replace("_", " "), str(value)) for name, value in request.items()],
        "# Refusals",
        [
            (
                f"{row['samples']} samples{', late' if row['late'] else ''}",
                f"{row['at']}, {row['ground'] or 'no legal ground'}: {row['reason'] or 'no reason is kept'}; "
                + (f"letter sent {row['letter_sent_at']}" if row["letter_sent_at"] else "NO LETTER SENT"),
            )
            for row in document["refusals"]
        ]
        or "None.",
        "# Other requests of the same letter",
        [(row["id"], f"{row['status']}, dataset {row['dataset']}") for row in document["same_letter"]] or "None.",
        "# Models",
        [
            (f"{row['name'] or row['id']}", f"version {row['version'] or '—'}, {row['state']}, {row['verdict'] or '—'}")
            for row in document["models"]
        ]
        or "No model is affected.",
        "# Certificates",
        [
            (
                f"{row['status'].upper()} since {row['since']}",
                row["digest"] + (f", by {', '.join(row['contested_by'])}" if row["status"] == "contested" else ""),
            )
            for row in document["certificates"]
        ]
        or "None.",
        "# Erased, or to be erased",
        [
            (row["subject"], f"{row['detail']}: {row['done_at'] or 'until ' + str(row['due_at'] or 'unknown')}")
            for row in document["receipts"]
        ]
        or "Nothing.",
        "# Letters to the person",
        [(f"{row['kind']} ({row['language']})", f"{_sending(row)}; {row['file']}") for row in document["notices"]]
        or "None were made here.",
        "# Papers that came",
        [
            (f"{row['kind']}: {row['name']}", f"{row['attached_at']}; {row['file'] or 'not in this file'}")
            for row in document["papers"]
        ]
        or "None were attached.",
        "# Who fetched what had learned from the samples",
        [
            (
                f"{case.models.get(row['model']) or row['model']} version {row['version']}",
                ", ".join(f"{one['name'] or one['key']} on {one['at']}" for one in row["by"]),
            )
            for row in document["fetched"]
        ]
        or "Nobody.",
        "# Recalls",
        [
            (
                str(row["at"]),
                ", ".join(one["name"] or one["key"] for one in row["recipients"])
                + ": "
                + ", ".join(f"{each['model']} version {each['number']}" for each in row["versions"]),
            )
            for row in document["recalls"]
        ]
        or "None.",
        "# What happened",
        [(str(entry["at"]), _happened(entry)) for entry in document["history"]],
        "Times are UTC. The signed parts of this case file are beside this page; README.txt says how to check them.",
    ]
    return pdf.pages(f"Case {case.request.id}", blocks, foot=case.request.id, at=case.at)


def _sending(notice: dict[str, Any]) -> str:
    made = f"made {notice['made_at']}"
    if notice["sent_at"] is None:
        return f"{made}, NOT MARKED AS SENT"
    by = notice["sent_by_name"] or notice["sent_by"] or "—"
    return f"{made}, sent {notice['sent_at']}: {notice['sent_how']}; marked by {by}"


def _happened(entry: dict[str, Any]) -> str:
    """An entry of the history, with the data that the log has of it."""
    said = [f"{entry['kind']} · {entry['actor_name'] or entry['actor'] or '—'}"]
    said += [f"{name.replace('_', ' ')}: {value}" for name, value in sorted(entry["data"].items()) if value is not None]
    return " · ".join([*said, *([entry["reason"]] if entry["reason"] else [])])


def _manifest(case: Case, key: SigningKey) -> dict[str, Any]:
    newest = case.certificates[0].digest if case.certificates else None
    statement = {
        "_type": certificate.STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": _sha256(content)}} for name, content in sorted(case.parts.items())
        ],
        "predicateType": CASE_TYPE,
        "predicate": {
            "wording": WORDING,
            "issued_at": _time(case.at),
            "request": case.request.id,
            "status": case.details.status(case.request).value,
            "certificate": newest,
            "certificates": _standings(case),
            "not_proved": list(NOT_PROVED),
        },
    }
    return certificate.sign(statement, key)


def _zipped(case: Case) -> bytes:
    made = io.BytesIO()
    at = case.at.timetuple()[:6]
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(case.parts.items()):
            archive.writestr(zipfile.ZipInfo(name, at), content, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="microseconds") + "Z"
