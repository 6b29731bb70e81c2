"""The compliance endpoints: the record of processing and its summary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from app import compliance
from app.api.deps import CallerDep, PartsDep, needs, problems
from app.api.schemas import RegisterEntry, Summary
from app.web.audits import prefers

router = APIRouter(prefix="/compliance", tags=["compliance"], dependencies=[needs("audit")])
Year = Annotated[int | None, Query(ge=2000, le=9998, description="of receipt, UTC; absent: all")]


@router.get(
    "/register",
    response_model=list[RegisterEntry],
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}, **problems(403)},
)
def read_register(request: Request, who: CallerDep, held: PartsDep, year: Year = None) -> Response:
    """One entry per request, oldest first: JSON, or CSV by `Accept: text/csv`. No sample is named."""
    headers = {"Vary": "Accept"}
    if prefers("text/csv", request.headers.get("accept", "")):
        lines = compliance.as_csv(_entries(held, who.tenant_id, year))
        headers["Content-Disposition"] = 'attachment; filename="register.csv"'
        return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)
    return JSONResponse(list(_entries(held, who.tenant_id, year)), headers=headers)


def _entries(held: PartsDep, tenant_id: str, year: int | None) -> Iterator[dict[str, Any]]:
    return compliance.register(held.database, tenant_id, year)


@router.get("/summary", responses=problems(403))
def read_summary(who: CallerDep, held: PartsDep, year: Year = None) -> Summary:
    """Counts by status, what is overdue and due within a week, mean and median days to the answer."""
    return Summary.model_validate(compliance.summary(held.database, who.tenant_id, year))
