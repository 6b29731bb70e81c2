"""Notices to a person: rendered from a template, kept as they are, printed as PDF, and marked as sent.

A template is plain text with fields in double braces; its first line is the subject. Nothing in it is evaluated. Where
a law asks for other words, there is a text of its own for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import events
from app.core import db
from app.core.errors import Conflict, NotFound, Unprocessable
from app.core.ids import new_id
from app.core.tables import DeletionRequest, Notice, NoticeTemplate
from app.deletions import compliance_rules, decisions, refusals, views
from app.deletions.refusals import Refused
from app.rules import grounds
from app.rules.compliance import Language
from app.rules.deadlines import clock
from app.rules.states import Decision, Identity

Kind = Literal["acknowledgement", "identity", "extension", "refusal", "completion", "recall"]
Text = Literal[Kind, "extension-ccpa", "refusal-ccpa"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TEXTS: tuple[Text, ...] = get_args(Text)
LANGUAGES: tuple[Language, ...] = get_args(Language)
FIELDS = (
    "authority", "complete_on", "contact", "controller", "due_on", "files", "ground", "identity_until", "reason",
    "received_on", "reference", "refused_part", "replaced_on", "request", "samples", "samples_refused", "today",
)  # fmt: skip
MOST = 100  # notices of one request
LONGEST = 20_000  # characters of a template
TEMPLATES = Path(__file__).parent / "templates"
_FIELD = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_MARKUP = re.compile(r"<\s*[A-Za-z/!?]|\{%|\{#|\$\{|javascript:", re.IGNORECASE)
NONE = "—"
AUTHORITIES = {
    "uk-gdpr": "Information Commissioner, ico.org.uk"
}  # where the law names one, and the tenant's rules none
REFUSED_PART: Mapping[Language, str] = {
    "en": " {} of the items that you asked about stay with us, because your request was refused for them.",
    "de": " {} der Daten, um die es Ihnen ging, bleiben bei uns, weil Ihr Antrag für sie abgelehnt wurde.",
    "fr": " {} des données concernées restent chez nous, car votre demande a été refusée pour elles.",
}


# -- templates -------------------------------------------------------------------------------------


def check(text: str) -> None:
    """Raises ValueError: it is no plain text, or has a field that no notice has; says which fields there are."""
    if _MARKUP.search(text):
        raise ValueError("a template is plain text with fields such as {{due_on}}: it takes no markup and no script")
    if unknown := [name for name in _FIELD.findall(text) if name not in FIELDS]:
        count = "1 field is" if len(unknown) == 1 else f"{len(unknown)} fields are"
        raise ValueError(f"{count} unknown; the fields are {', '.join(FIELDS)}")
    left = _FIELD.sub("", text)
    if "{{" in left or "}}" in left:
        raise ValueError("a field begins with {{ and ends with }}")


def text_of(kind: Kind, jurisdiction: str) -> Text:
    """The text of a notice under that law."""
    own = f"{kind}-{grounds.law_of(jurisdiction)}"
    return next((text for text in TEXTS if text == own), kind)


@cache
def shipped(text: Text, language: Language) -> tuple[str, str]:
    """Subject and body of the text that comes with the service."""
    subject, _, body = (TEMPLATES / f"{text}.{language}.txt").read_text("utf-8").partition("\n")
    return subject, body


def template(session: Session, tenant_id: str, kind: Text, language: Language) -> tuple[str, str, datetime | None]:
    """Subject and body of the tenant's own text, and when it was set; else what is shipped."""
    row = session.get(NoticeTemplate, (tenant_id, kind, language))
    return (*shipped(kind, language), None) if row is None else (row.subject, row.body, row.updated_at)


def set_template(session: Session, tenant_id: str, kind: Text, language: Language, subject: str, body: str) -> None:
    """Replace the text of the notice.

    Raises:
        Unprocessable: it is not one.
    """
    for pointer, text in (("/subject", subject), ("/body", body)):
        try:
            check(text)
        except ValueError as error:
            fault = {"pointer": pointer, "code": "template", "detail": str(error)}
            raise Unprocessable(f"The template cannot be used: {error}.", kind="template", errors=[fault]) from None
    row = NoticeTemplate(
        tenant_id=tenant_id, kind=kind, language=language, subject=subject, body=body, updated_at=db.now(session)
    )
    session.merge(row)
    events.record(session, tenant_id, "compliance.template-changed", tenant_id, notice=kind, language=language)


def drop_template(session: Session, tenant_id: str, kind: Text, language: Language) -> None:
    """The shipped text holds again."""
    row = session.get(NoticeTemplate, (tenant_id, kind, language))
    if row is not None:
        session.delete(row)
        events.record(session, tenant_id, "compliance.template-changed", tenant_id, notice=kind, language=language)


def render(text: str, fields: Mapping[str, str]) -> str:
    """The text with its fields; once, so that a field's value is never taken for a field."""
    return _FIELD.sub(lambda found: fields[found[1]], text)


# -- notices ---------------------------------------------------------------------------------------


def make(session: Session, request: DeletionRequest, kind: Kind, language: Language | None) -> Notice:
    """Render a notice and keep it.

    Raises:
        Conflict: the request is not that far.
    """
    details = views.details(session, [request])[request.id]
    missing = {
        "identity": request.identity != Identity.ASKED and "no proof of identity is waited for",
        "extension": request.extended_at is None and "it has not been extended",
        "refusal": request.decision != Decision.REFUSED and not request.refused_count and "nothing of it is refused",
        "completion": request.fulfilled_at is None and "it is not fulfilled",
    }.get(kind)
    if missing:
        raise Conflict(f"There is nothing to say yet: {missing}.", kind="notice-too-early")
    rules = compliance_rules.of(session, request.tenant_id)
    chosen = language or rules.language
    fields = _fields(session, request, details, chosen) | {
        "controller": rules.controller or NONE,
        "contact": rules.contact or NONE,
        "authority": rules.authority or AUTHORITIES.get(grounds.law_of(request.jurisdiction), NONE),
        "reason": (request.extension_reason if kind == "extension" else request.reason) or NONE,
    }
    if kind == "refusal" and details.refusals:
        fields |= _refused(request, details.refusals)
    if request.refused_count:
        fields["refused_part"] = REFUSED_PART[chosen].format(request.refused_count)
    return keep(session, request, kind, chosen, fields)


def _refused(request: DeletionRequest, all_of_it: Sequence[Refused]) -> dict[str, str]:
    """What a letter says of the refusals that no letter has said yet, or of all. Of several, each is a line."""
    told = [each for each in all_of_it if each.letter_sent_at is None] or all_of_it

    def lines(words: Sequence[str]) -> str:
        if len(told) == 1:
            return words[0]
        return "\n".join(f"{each.samples}: {said}" for each, said in zip(told, words, strict=True) if said)

    return {
        "samples_refused": str(sum(each.samples for each in told)),
        "reason": lines([each.reason or NONE for each in told]),
        "ground": lines([_ground(request, each.ground) for each in told]),
    }


def _ground(request: DeletionRequest, ground: str | None) -> str:
    known = grounds.REFUSALS[grounds.law_of(request.jurisdiction)]
    return f"{ground}: {known.get(ground, '')}" if ground else ""


def keep(
    session: Session, request: DeletionRequest, kind: Kind, language: Language, fields: Mapping[str, str]
) -> Notice:
    """The rendered notice as a row, with an event that does not repeat it."""
    if session.scalars(select(func.count()).where(Notice.request_id == request.id)).one() >= MOST:
        raise Conflict(f"A request may have {MOST} notices.", kind="too-many-notices")
    subject, body, _ = template(session, request.tenant_id, text_of(kind, request.jurisdiction), language)
    row = Notice(
        id=new_id("ntc"),
        tenant_id=request.tenant_id,
        request_id=request.id,
        kind=kind,
        language=language,
        subject=render(subject, fields),
        body=render(body, fields),
        created_at=db.now(session),
    )
    session.add(row)
    session.flush()
    events.record(session, request.tenant_id, "request.notice-made", request.id, notice=row.id, kind_of_notice=kind)
    return row


MONTHS: Mapping[Language, tuple[str, ...]] = {
    "en": (
        "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
        "December",
    ),
    "de": (
        "Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September", "Oktober", "November",
        "Dezember",
    ),
    "fr": (
        "janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre", "novembre",
        "décembre",
    ),
}  # fmt: skip


def written(day: date, language: Language) -> str:
    """A date as letters of that language have it."""
    number = f"{day.day}." if language == "de" else "1er" if language == "fr" and day.day == 1 else str(day.day)
    return f"{number} {MONTHS[language][day.month - 1]} {day.year}"


def _fields(
    session: Session, request: DeletionRequest, details: views.RequestDetails, language: Language
) -> dict[str, str]:
    law = clock(request.jurisdiction)

    def day(moment: datetime | None) -> str:
        return NONE if moment is None else written(law.day(moment), language)

    return {
        "request": request.id,
        "reference": details.reference or NONE,
        "received_on": day(request.received_at),
        "due_on": day(request.due_at),
        "identity_until": day(request.identity_until),
        "today": day(db.now(session)),
        "ground": _ground(request, request.refusal_ground),
        "refused_part": "",
        "samples": str(request.sample_count),
        "samples_refused": str(request.refused_count),
        "replaced_on": day(details.replaced_at),
        "complete_on": day(details.complete_at(request)),
        "files": NONE,
    }


def get(session: Session, request: DeletionRequest, notice_id: str, *, lock: bool = False) -> Notice:
    query = select(Notice).where(Notice.id == notice_id, Notice.request_id == request.id)
    row = session.scalars(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotFound("There is no such notice.")
    return row


def of(session: Session, request: DeletionRequest) -> Sequence[Notice]:
    """Oldest first."""
    return session.scalars(select(Notice).where(Notice.request_id == request.id).order_by(Notice.id)).all()


def mark_sent(session: Session, request: DeletionRequest, row: Notice, how: str, at: datetime | None) -> None:
    """It went to the person. An acknowledgement confirms the receipt. A completion is the answer, and so is the last
    refusal of a request that is refused.

    Raises:
        Conflict: it was marked before.
        Unprocessable: that is no time of the request.
    """
    if row.sent_at is not None:
        raise Conflict("The notice has been sent already.", kind="sent-already")
    row.sent_at = decisions.within(session, request, at)
    row.sent_how, row.sent_by = how, db.acting(session)
    data = {"notice": row.id, "kind_of_notice": row.kind, "at": f"{row.sent_at:%Y-%m-%dT%H:%M:%SZ}"}
    events.record(session, request.tenant_id, "request.notice-sent", request.id, **data)
    if row.kind == "acknowledgement" and request.confirmed_at is None:
        decisions.confirm(session, request, row.sent_at)
    elif row.kind == "extension":
        request.extension_sent_at = request.extension_sent_at or row.sent_at
    answers = row.kind == "completion" and request.fulfilled_at is not None
    if row.kind == "refusal":
        told = refusals.mark_told(session, request, row.created_at, row.sent_at)
        answers = told and request.decision == Decision.REFUSED
    if answers and request.answered_at is None:
        request.answered_at, request.answered_how = row.sent_at, how


def print_pdf(row: Notice) -> bytes:
    """The notice on paper."""
    from app.cases import pdf  # its library takes a fifth of a second to load, and most calls print nothing

    return pdf.pages(row.subject, [row.body], foot=row.request_id, at=row.created_at, language=row.language)
