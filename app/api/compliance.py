"""The compliance endpoints: the register of requests, its summary, and the tenant's rules."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from app.api.http.conditional import IfMatchDep
from app.api.http.deps import CallerDep, PartsDep, Read, Write, needs, problems
from app.api.http.preferences import prefers
from app.api.schemas import PoolCost, RegisterEntry, RemainsCost, Summary
from app.cases import register as printed_register
from app.deletions import compliance, compliance_rules, costs
from app.rules.compliance import Rules

router = APIRouter(prefix="/compliance", tags=["compliance"], dependencies=[needs("audit")])
WORKBOOK = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
Year = Annotated[int | None, Query(ge=2000, le=9998, description="of receipt, where the controller acts; absent: all")]


@router.get(
    "/register",
    response_model=list[RegisterEntry],
    responses={
        200: {
            "content": {
                "text/csv": {"schema": {"type": "string"}},
                "application/pdf": {"schema": {"type": "string", "format": "binary"}},
                WORKBOOK: {"schema": {"type": "string", "format": "binary"}},
            }
        },
        **problems(403, 422),
    },
)
def read_register(
    request: Request,
    who: CallerDep,
    held: PartsDep,
    year: Year = None,
    form: Annotated[
        Literal["csv", "json", "pdf", "xlsx"] | None,
        Query(
            description="instead of `Accept`, where nobody sets it, as in a link; a PDF has the figures, and up to "
            "200 entries; a workbook (`xlsx`) has up to 100,000"
        ),
    ] = None,
) -> Response:
    """One entry per request, oldest first: JSON, or CSV by `Accept: text/csv`. No sample is named."""
    headers = {"Vary": "Accept"}
    if form == "pdf":
        headers["Content-Disposition"] = 'attachment; filename="register.pdf"'
        printed = printed_register.print_pdf(held.database, who.tenant_id, year)
        return Response(printed, media_type="application/pdf", headers=headers)
    if form == "xlsx":
        headers["Content-Disposition"] = 'attachment; filename="register.xlsx"'
        book = printed_register.workbook(held.database, who.tenant_id, year)
        return Response(book, media_type=WORKBOOK, headers=headers)
    pages = compliance.register(held.database, who.tenant_id, year)
    if form == "csv" or (form is None and prefers("text/csv", request.headers.get("accept", ""))):
        lines = compliance.as_csv(pages)
        headers["Content-Disposition"] = 'attachment; filename="register.csv"'
        return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)
    if form is not None:
        headers["Content-Disposition"] = 'attachment; filename="register.json"'
    return StreamingResponse(compliance.as_json(pages), media_type="application/json", headers=headers)


@router.get("/summary", responses=problems(403))
def read_summary(who: CallerDep, held: PartsDep, year: Year = None) -> Summary:
    """Counts by status, what is overdue and due within a week, mean and median days to the answer."""
    return Summary.model_validate(compliance.summary(held.database, who.tenant_id, year))


@router.get("/rules", responses=problems(403))
def read_rules(who: CallerDep, session: Read) -> Rules:
    """Who refuses, how long people are named, when remains go, and what letters say."""
    return compliance_rules.of(session, who.tenant_id)


@router.put("/rules", dependencies=[needs("admin")], responses=problems(403, 412))
def put_rules(body: Rules, who: CallerDep, session: Write, seen: IfMatchDep) -> Rules:
    """Replace the rules. Requests keep the dates that they have."""
    seen.check(compliance_rules.locked(session, who.tenant_id))
    compliance_rules.replace(session, who.tenant_id, body)
    return body


ALTERNATIVES = (
    "`by-due-date`: a pool goes by the due date of the first request that erased of its samples, and is built again.",
    "`by-grace`: a pool stays up to 90 days; requests are `incomplete` past their due date until it has gone.",
    "References that never saw the samples keep their columns, and only the others are trained again: of one sample "
    "that is half of a pool in `halves`, and one of k in `folds`.",
    "`folds` of k models, each on (k - 1) / k of the data: a pool of k - 1 trainings, such as 4, instead of 8 for "
    "sixteen halves. Its verdict holds for these models.",
    "`:keep-remains` of a request: a later date for that one, with a reason.",
    "Fewer references, or canaries alone: less to build, and audits that show less.",
)


@router.get("/remains", responses=problems(403))
def read_remains(who: CallerDep, session: Read) -> RemainsCost:
    """What it costs that reference pools go by the due date, and the alternatives."""
    rule = compliance_rules.of(session, who.tenant_id).remains
    pools = [PoolCost.model_validate(each) for each in costs.of_pools(session, who.tenant_id)]
    return RemainsCost(rule=rule, pools=pools, alternatives=list(ALTERNATIVES))
