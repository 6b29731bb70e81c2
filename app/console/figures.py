"""Register and figures, and the evidence: the log, certificates, receipts, and a file that is checked here."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

from app.console.calls import Document
from app.console.lists import listed
from app.console.visit import HEADERS, PAGES, PageRoute, Visit, VisitDep
from app.core.errors import Forbidden

router = APIRouter(prefix="/console", route_class=PageRoute, include_in_schema=False)
FIRST_YEAR = 2000
LATEST = 50
MANY = 1000  # entries of the log in one file


@router.get("/register")
async def register(visit: VisitDep) -> Response:
    if not visit.can("audit"):
        raise Forbidden("This needs a role with the scope `audit`.", kind="scope-missing")
    this_year = visit.clock.now.year
    summary, figures = await _counted(visit)
    years = range(this_year, this_year - 6, -1)
    return visit.page("register.html.j2", summary=summary, figures=figures, year=_year(visit), years=years)


async def _counted(visit: Visit) -> tuple[Document, Document]:
    year = _year(visit)
    summary, figures = await asyncio.gather(
        visit.api.get("/compliance/summary", year=year), visit.api.get("/compliance/figures", year=year)
    )
    return summary, figures


def _year(visit: Visit) -> int | None:
    given = visit.request.query_params.get("year", "")
    return int(given) if given.isascii() and given.isdigit() and FIRST_YEAR <= int(given) <= 9998 else None


@router.get("/evidence")
async def evidence(visit: VisitDep) -> Response:
    pending, undated, gone, certificates, keys, head, witnessed = await asyncio.gather(
        listed(visit, "/receipts", at="receipts", done=False, dated=True),
        listed(visit, "/receipts", at="undated", done=False, dated=False),
        listed(visit, "/receipts", at="gone", done=True),
        listed(visit, "/certificates"),
        visit.api.get("/log/keys"),
        visit.api.find_text("/log/checkpoint"),
        visit.api.find_text("/log/checkpoint", witnessed=True),
    )
    size = int(head.split("\n")[1]) if head else 0
    end = _end(visit, size)
    start = max(0, end - LATEST)
    entries = await visit.api.get("/log/entries", start=start, limit=end - start) if end else {"entries": []}
    return visit.page(
        "evidence.html.j2",
        pending=pending,
        undated=undated,
        listed=certificates,
        keys=keys["keys"],
        gone=gone,
        head=head,
        witnessed=witnessed,
        size=size,
        start=start,
        end=end,
        latest=LATEST,
        many=MANY,
        entries=list(enumerate(entries["entries"], start))[::-1],
    )


def _end(visit: Visit, size: int) -> int:
    """The leaf before which the entries of the page end."""
    given = visit.request.query_params.get("leaf", "")
    asked = int(given) if given.isascii() and given.isdigit() and len(given) < 16 else size
    return min(asked, size) or size


@router.post("/evidence/check")
async def check(visit: VisitDep) -> Response:
    """A case file or a certificate, as the verifier sees it: a part of the page."""
    content, form = await visit.file(), visit.request.headers.get("content-type", "")
    found = await visit.api.send_file("POST", "/case-files:verify", content, form)
    return HTMLResponse(PAGES.get_template("checked.html.j2").render(found=found), headers=HEADERS)
