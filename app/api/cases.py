"""Cases as their officer has them: people, drafts, notices, papers, case files, recalls, the status of certificates."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from app.api.case_schemas import (
    BlastRadius,
    CaseFileBody,
    CaseFileOut,
    DatasetDraft,
    DraftOut,
    Figures,
    HeldVersion,
    NoticeCreate,
    NoticeList,
    NoticeOut,
    PaperCreate,
    PaperList,
    PaperOut,
    People,
    PeopleBody,
    PersonHeld,
    RecallBody,
    RecallOut,
    SentBody,
    SpanBody,
    SpanDraft,
    SpanOut,
    StatusOut,
    TemplateBody,
    TemplateOut,
)
from app.api.deletions import RequestId, order_of
from app.api.http.conditional import IfMatchDep
from app.api.http.deps import (
    WITHOUT_A_KEY,
    CallerDep,
    IdempotencyKey,
    IdempotentDep,
    PartsDep,
    Read,
    Write,
    accepted,
    caller_or_stranger,
    needs,
    problems,
)
from app.api.http.patterns import DIGEST, id_pattern
from app.api.http.preferences import prefers
from app.api.schemas import DeletionCreate, ReasonBody, in_place
from app.cases import certificates, draft, file, notices, papers, people, recall
from app.cases.notices import Text
from app.core.errors import AppError, NotFound, Unprocessable
from app.core.ids import new_id
from app.core.keys import Caller
from app.core.tables import CasePaper, Dataset, DeletionRequest, Notice
from app.datasets import records as datasets
from app.deletions import accept, compliance_rules, figures, locking, naming, views
from app.deletions.orders import Accepted, Impact, Order
from app.rules.compliance import Language

router = APIRouter(tags=["cases"])
AT = "/deletion-requests/{request}"
READ, REQUEST, AUDIT = needs("read"), needs("request"), needs("audit")
NoticeId = Annotated[str, Path(pattern=id_pattern("ntc"))]
PaperId = Annotated[str, Path(pattern=id_pattern("pap"))]
Digest = Annotated[str, Path(pattern=DIGEST)]
Year = Annotated[int | None, Query(ge=2000, le=9998, description="of receipt, where the controller acts; absent: all")]
PDF, ZIP = "application/pdf", "application/zip"
FILE = {"schema": {"type": "string", "format": "binary"}}


# -- people and drafts -----------------------------------------------------------------------------


@router.post("/deletion-requests:find", dependencies=[READ], responses=problems(403))
def find_people(body: PeopleBody, who: CallerDep, held: PartsDep, session: Read, _: IdempotencyKey = None) -> People:
    """What is held of some subjects, in every dataset: samples, models, and requests that have taken them."""
    found = people.find(session, held.settings, who.tenant_id, body.subjects)
    return People(
        held=[
            PersonHeld(
                subject=each.subject,
                dataset=each.dataset,
                name=each.name,
                samples=each.samples,
                requested=each.requested,
                models=each.trained,
                requests=each.requests,
            )
            for each in found.held
        ],
        erased=found.erased,
        not_read=found.not_read,
    )


@router.post("/deletion-requests:draft", dependencies=[REQUEST], responses=problems(403, 404, 409))
def draft_request(body: DeletionCreate, who: CallerDep, held: PartsDep, _: IdempotencyKey = None) -> DraftOut:
    """What the request would mean: models, time, what an audit could show, data loss, and duplicates that would stay.
    Nothing is stored."""
    order = order_of(body.model_copy(update={"validate_only": True, "allow_data_loss": True}), who)
    with held.database.write(who.key_id) as session:
        order = naming.with_ids(session, order)
        [found] = _accept(session, held, [order])
        if isinstance(found, Accepted):
            raise TypeError("a draft stores nothing")
        return DraftOut.model_validate(_drafted(draft.of(session, order.dataset_id, found)))


def _drafted(made: draft.Draft) -> dict[str, Any]:
    return asdict(made) | {"versions": _held(made.versions)}


@router.post(
    "/deletion-requests:span",
    status_code=202,
    response_model=SpanOut,
    dependencies=[REQUEST],
    responses={200: {"model": SpanDraft, "description": "`validate_only`"}, **problems(403, 404, 409)},
)
def span(body: SpanBody, who: CallerDep, held: PartsDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """One letter about everything that is held of some subjects: a request for each dataset that has samples of them,
    under one case; all of them, or none. With `validate_only` nothing is stored: the reply says what it would mean."""
    if body.like.sample_ids or body.like.subjects or body.like.model:
        raise Unprocessable("`like` names no samples and no model: `subjects` says whose.")
    where = people.datasets_of(session, who.tenant_id, body.subjects)
    first = datasets.id_of(session, who.tenant_id, body.like.dataset)
    if first not in where:
        raise NotFound("The dataset that `like` names has no sample of these subjects left to request.")
    case = new_id("del")
    looks = body.like.validate_only
    orders: list[Order] = []
    for dataset in sorted(where, key=lambda each: (each != first, each)):
        own = {"dataset": dataset, "subjects": where[dataset]} | ({"allow_data_loss": True} if looks else {})
        one = body.like.model_copy(update=own)
        again = {"id": case} if not orders else {}
        orders.append(order_of(one, who, case_id=case, again=again))
    accepted_ = _accept(session, held, orders)
    left = people.not_read(session, who.tenant_id)
    if looks:
        found = [(order.dataset_id, each) for order, each in zip(orders, accepted_, strict=True)]
        return once.reply(200, _span_draft(session, found, left))
    made = [each.request for each in accepted_ if isinstance(each, Accepted)]
    reply = SpanOut(case=case, requests=[each.id for each in made], due_at=made[0].due_at, not_read=left)
    return once.reply(202, reply, accepted(f"/v1/deletion-requests/{case}"))


def _span_draft(session: Write, found: Sequence[tuple[str, Accepted | Impact]], left: list[str]) -> SpanDraft:
    drafts = []
    for dataset, each in found:
        if isinstance(each, Impact):
            named = {"dataset": dataset, "name": session.get_one(Dataset, dataset).name}
            drafts.append(DatasetDraft.model_validate(_drafted(draft.of(session, dataset, each)) | named))
    return SpanDraft(due_at=drafts[0].due_at, drafts=drafts, not_read=left)


def _accept(session: Write, held: PartsDep, orders: Sequence[Order]) -> list[Accepted | Impact]:
    """All of them; one that is refused refuses all."""
    found = accept.accept_many(session, held.settings, locking.lock(session, orders), orders)
    for each in found:
        if isinstance(each, AppError):
            raise each
    return [each for each in found if not isinstance(each, AppError)]


def _held(versions: Sequence[recall.Held]) -> list[HeldVersion]:
    return [HeldVersion.model_validate(asdict(each)) for each in versions]


# -- notices ---------------------------------------------------------------------------------------


@router.post(
    f"{AT}/notices",
    status_code=201,
    response_model=NoticeOut,
    dependencies=[REQUEST],
    responses=problems(403, 404, 409),
)
def make_notice(
    request: RequestId, body: NoticeCreate, who: CallerDep, session: Write, once: IdempotentDep
) -> JSONResponse:
    """Render a notice to the person and keep it as it is."""
    row = notices.make(session, views.get(session, who.tenant_id, request, lock=True), body.kind, body.language)
    return once.reply(201, _notice(row), {"Location": f"/v1/deletion-requests/{request}/notices/{row.id}"})


@router.get(f"{AT}/notices", dependencies=[READ], responses=problems(403, 404))
def list_notices(request: RequestId, who: CallerDep, session: Read) -> NoticeList:
    """The notices of the request, oldest first."""
    rows = notices.of(session, views.get(session, who.tenant_id, request))
    return NoticeList(notices=[_notice(row) for row in rows])


@router.get(
    f"{AT}/notices/{{notice}}",
    response_model=NoticeOut,
    dependencies=[READ],
    responses={200: {"content": {PDF: FILE}, "description": "JSON, or PDF by `Accept`"}, **problems(403, 404)},
)
def read_notice(request: RequestId, notice: NoticeId, call: Request, who: CallerDep, session: Read) -> Response:
    """One notice: JSON, or to print with `Accept: application/pdf`."""
    row = notices.get(session, views.get(session, who.tenant_id, request), notice)
    headers = {"Vary": "Accept"}
    if prefers(PDF, call.headers.get("accept", "")):
        headers["Content-Disposition"] = f'attachment; filename="{row.id}.pdf"'
        return Response(notices.print_pdf(row), media_type=PDF, headers=headers)
    return JSONResponse(_notice(row).model_dump(mode="json"), headers=headers)


@router.post(
    f"{AT}/notices/{{notice}}:sent",
    response_model=NoticeOut,
    dependencies=[REQUEST],
    responses=problems(403, 404, 409),
)
def mark_sent(
    request: RequestId, notice: NoticeId, body: SentBody, who: CallerDep, session: Write, once: IdempotentDep
) -> JSONResponse:
    """It went to the person. An acknowledgement confirms the receipt of the request."""
    of = views.get(session, who.tenant_id, request, lock=True)
    row = notices.get(session, of, notice, lock=True)
    notices.mark_sent(session, of, row, body.how, in_place(body.at, of.jurisdiction))
    return once.reply(200, _notice(row))


def _notice(row: Notice) -> NoticeOut:
    return NoticeOut(
        id=row.id,
        kind=row.kind,
        language=row.language,
        subject=row.subject,
        body=row.body,
        created_at=row.created_at,
        sent_at=row.sent_at,
        sent_how=row.sent_how,
        sent_by=row.sent_by,
    )


@router.get("/compliance/templates/{kind}/{language}", dependencies=[AUDIT], responses=problems(403, 404))
def read_template(kind: Text, language: Language, who: CallerDep, session: Read) -> TemplateOut:
    """The text of a notice, and the fields that it may have."""
    subject, body, at = notices.template(session, who.tenant_id, kind, language)
    fields = list(notices.FIELDS)
    return TemplateOut(kind=kind, language=language, subject=subject, body=body, updated_at=at, fields=fields)


@router.put("/compliance/templates/{kind}/{language}", dependencies=[needs("admin")], responses=problems(403, 404, 412))
def put_template(
    kind: Text, language: Language, body: TemplateBody, who: CallerDep, session: Write, seen: IfMatchDep
) -> TemplateOut:
    """Replace the text of a notice. It is plain text; nothing in it is evaluated but its fields."""
    compliance_rules.locked(session, who.tenant_id)
    seen.check(read_template(kind, language, who, session))
    notices.set_template(session, who.tenant_id, kind, language, body.subject, body.body)
    session.flush()
    return read_template(kind, language, who, session)


@router.delete(
    "/compliance/templates/{kind}/{language}",
    status_code=204,
    dependencies=[needs("admin")],
    responses=problems(403, 404, 412),
)
def drop_template(kind: Text, language: Language, who: CallerDep, session: Write, seen: IfMatchDep) -> None:
    """The text that comes with the service holds again."""
    compliance_rules.locked(session, who.tenant_id)
    seen.check(read_template(kind, language, who, session))
    notices.drop_template(session, who.tenant_id, kind, language)


# -- papers ----------------------------------------------------------------------------------------


@router.post(
    f"{AT}/papers",
    status_code=201,
    response_model=PaperOut,
    dependencies=[REQUEST],
    responses=problems(403, 404, 409),
)
def attach_paper(
    request: RequestId, body: PaperCreate, who: CallerDep, session: Write, once: IdempotentDep
) -> JSONResponse:
    """Attach what came with the case: a letter, a proof of identity. It is erased with the case's other details."""
    try:
        content = base64.b64decode(body.content, validate=True)
    except (binascii.Error, ValueError):
        fault = {"pointer": "/content", "code": "base64", "detail": "this is not base64"}
        raise Unprocessable("The content is not base64.", kind="not-base64", errors=[fault]) from None
    of = views.get(session, who.tenant_id, request, lock=True)
    row = papers.attach(session, of, body.kind, body.name, content)
    return once.reply(201, _paper(row), {"Location": f"/v1/deletion-requests/{request}/papers/{row.id}"})


@router.get(f"{AT}/papers", dependencies=[READ], responses=problems(403, 404))
def list_papers(request: RequestId, who: CallerDep, session: Read) -> PaperList:
    """The papers of the request, without their content."""
    rows = papers.of(session, views.get(session, who.tenant_id, request))
    return PaperList(papers=[_paper(row) for row in rows])


@router.get(
    f"{AT}/papers/{{paper}}",
    response_class=Response,
    dependencies=[READ],
    responses={200: {"content": {"application/octet-stream": FILE}, "description": "the bytes"}, **problems(403, 404)},
)
def read_paper(request: RequestId, paper: PaperId, who: CallerDep, session: Read) -> Response:
    """The bytes of a paper, to store and never to show: a browser downloads them."""
    row = papers.get(session, views.get(session, who.tenant_id, request), paper)
    headers = {
        "Content-Disposition": f'attachment; filename="{row.id}.bin"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
        "Cache-Control": "no-store",
    }
    return Response(row.content, media_type="application/octet-stream", headers=headers)


@router.delete(f"{AT}/papers/{{paper}}", status_code=204, dependencies=[REQUEST], responses=problems(403, 404))
def remove_paper(request: RequestId, paper: PaperId, who: CallerDep, session: Write) -> None:
    """Erase a paper now."""
    of = views.get(session, who.tenant_id, request, lock=True)
    papers.remove(session, of, papers.get(session, of, paper))


def _paper(row: CasePaper) -> PaperOut:
    return PaperOut(
        id=row.id, kind=row.kind, name=row.name, size=row.size, digest=row.digest, created_at=row.created_at
    )


# -- the case file ---------------------------------------------------------------------------------


@router.post(
    f"{AT}:case-file", status_code=202, response_model=CaseFileOut, dependencies=[AUDIT], responses=problems(403, 404)
)
def ask_case_file(
    request: RequestId, body: CaseFileBody, who: CallerDep, session: Write, once: IdempotentDep
) -> JSONResponse:
    """Have the case file put together and signed; `GET …/case-file` has it within seconds."""
    of = views.get(session, who.tenant_id, request, lock=True)
    row = file.ask(session, of, with_papers=body.with_papers)
    made = CaseFileOut(request=of.id, asked_at=row.asked_at, with_papers=row.with_papers)
    return once.reply(202, made, accepted(f"/v1/deletion-requests/{of.id}/case-file"))


@router.get(
    f"{AT}/case-file",
    response_class=Response,
    dependencies=[AUDIT],
    responses={200: {"content": {ZIP: FILE}, "description": "the zip"}, **problems(403, 404, 409)},
)
def read_case_file(request: RequestId, who: CallerDep, session: Read) -> Response:
    """The case file that was asked for last: one zip that `lethe verify` checks."""
    of = views.get(session, who.tenant_id, request)
    headers = {"Content-Disposition": f'attachment; filename="case-{of.id}.zip"', "Cache-Control": "no-store"}
    return Response(file.get(session, of), media_type=ZIP, headers=headers)


# -- recalls ---------------------------------------------------------------------------------------


@router.get(f"{AT}/blast-radius", dependencies=[AUDIT], responses=problems(403, 404))
def read_blast_radius(request: RequestId, who: CallerDep, session: Read) -> BlastRadius:
    """Every version that was trained on samples of the request, its aliases, and who fetched it when."""
    return BlastRadius(versions=_held(recall.of_request(session, views.get(session, who.tenant_id, request))))


@router.post(
    f"{AT}:recall",
    status_code=201,
    response_model=RecallOut,
    dependencies=[REQUEST],
    responses=problems(403, 404, 409),
)
def issue_recall(
    request: RequestId, body: RecallBody, who: CallerDep, session: Write, once: IdempotentDep
) -> JSONResponse:
    """Recall the fetched versions that were trained on its samples: a notice to send, and the event `recall.issued`."""
    of: DeletionRequest = views.get(session, who.tenant_id, request, lock=True)
    row, notice = recall.issue(session, of, body.language)
    made = RecallOut(
        id=row.id,
        request=of.id,
        versions=row.versions,
        keys=row.keys,
        notice=notice.id,
        created_at=row.created_at,
    )
    return once.reply(201, made)


# -- certificates and figures ----------------------------------------------------------------------


@router.get("/certificates/{digest}/status", responses=problems(401, 403, 404), openapi_extra=WITHOUT_A_KEY)
def read_status(
    digest: Digest, held: PartsDep, who: Annotated[Caller | None, Depends(caller_or_stranger)]
) -> StatusOut:
    """Whether the certificate is valid, superseded, contested or revoked. Its holder needs no key; which requests
    contest it, and what superseded it, is for a key of scope `audit`."""
    with held.database.read() as session:
        if who is None:
            found = certificates.standing(session, certificates.held(session, digest))
            return _status(replace(found, superseded_by=None, contested_by=[]))
        return _status(certificates.standing(session, certificates.get(session, who.tenant_id, digest)))


@router.post(
    "/certificates/{digest}:revoke",
    response_model=StatusOut,
    dependencies=[AUDIT, needs("admin")],
    responses=problems(403, 404, 409),
)
def revoke(digest: Digest, body: ReasonBody, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Say in the log that the certificate is not to be relied on any more."""
    row = certificates.get(session, who.tenant_id, digest, lock=True)
    certificates.revoke(session, row, body.reason)
    session.flush()
    return once.reply(200, _status(certificates.standing(session, row)))


def _status(found: certificates.Standing) -> StatusOut:
    return StatusOut.model_validate(asdict(found))


@router.get("/compliance/figures", dependencies=[AUDIT], responses=problems(403))
def read_figures(who: CallerDep, held: PartsDep, year: Year = None) -> Figures:
    """Counts by law, legal ground, outcome, refusal and verdict, and days to the answer."""
    found: dict[str, Any] = figures.of(held.database, who.tenant_id, year)
    return Figures.model_validate(found)
