"""The compliance endpoints: the record of processing and its summary."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from app.api.http.audit_replies import prefers
from app.api.http.deps import CallerDep, PartsDep, needs, problems
from app.api.schemas import RegisterEntry, Summary
from app.deletions import compliance

router = APIRouter(prefix="/compliance", tags=["compliance"], dependencies=[needs("audit")])
Year = Annotated[int | None, Query(ge=2000, le=9998, description="of receipt, UTC; absent: all")]


@router.get(
    "/register",
    response_model=list[RegisterEntry],
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}, **problems(403)},
)
def read_register(
    request: Request,
    who: CallerDep,
    held: PartsDep,
    year: Year = None,
    form: Annotated[
        Literal["csv", "json"] | None, Query(description="instead of `Accept`, where nobody sets it, as in a link")
    ] = None,
) -> Response:
    """One entry per request, oldest first: JSON, or CSV by `Accept: text/csv`. No sample is named."""
    headers = {"Vary": "Accept"}
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
