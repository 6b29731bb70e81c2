"""Register and figures, and the evidence: the log, certificates and receipts."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from fastapi.responses import Response

from app.console.lists import listed
from app.console.visit import PageRoute, Visit, VisitDep
from app.core.errors import Forbidden

router = APIRouter(prefix="/console", route_class=PageRoute, include_in_schema=False)
FIRST_YEAR = 2000
LATEST = 50


@router.get("/register")
async def register(visit: VisitDep) -> Response:
    """The page comes at once, and its figures when what is under way is counted."""
    if not visit.can("audit"):
        raise Forbidden("This needs a role with the scope `audit`.", kind="scope-missing")
    this_year = visit.clock.now.year
    counted = "count" in visit.request.query_params
    summary = await visit.api.get("/compliance/summary", year=_year(visit)) if counted else None
    return visit.page("register.html.j2", summary=summary, year=_year(visit), years=range(this_year, this_year - 6, -1))


@router.get("/register/figures")
async def figures(visit: VisitDep) -> Response:
    """The part of the page with the figures."""
    summary = await visit.api.get("/compliance/summary", year=_year(visit))
    return visit.page("figures.html.j2", summary=summary)


def _year(visit: Visit) -> int | None:
    given = visit.request.query_params.get("year", "")
    return int(given) if given.isascii() and given.isdigit() and FIRST_YEAR <= int(given) <= 9998 else None


@router.get("/evidence")
async def evidence(visit: VisitDep) -> Response:
    pending, certificates, keys, head = await asyncio.gather(
        visit.api.get("/receipts", done=False, page_size=LATEST),
        listed(visit, "/certificates"),
        visit.api.get("/log/keys"),
        visit.api.find_text("/log/checkpoint"),
    )
    size = int(head.split("\n")[1]) if head else 0
    start = max(0, size - LATEST)
    entries = await visit.api.get("/log/entries", start=start, limit=LATEST) if size else {"entries": []}
    return visit.page(
        "evidence.html.j2",
        pending=sorted(pending["items"], key=lambda row: row["due_at"] or ""),
        listed=certificates,
        keys=keys["keys"],
        head=head,
        size=size,
        start=start,
        entries=list(enumerate(entries["entries"], start))[::-1],
    )
