"""Today: what wants somebody now."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from app.api.health import ready
from app.console.visit import PageRoute, Visit, VisitDep
from app.console.words import parse

router = APIRouter(route_class=PageRoute, include_in_schema=False)
MOST = 50
SOON = timedelta(days=7)


@router.get("/console")
async def today(visit: VisitDep) -> Response:
    soon = f"{visit.clock.now + SOON:%Y-%m-%dT%H:%M:%SZ}"
    api = visit.api
    due, confirm, attention, held, letters, unsaid, unanswered, running, ended, health = await asyncio.gather(
        api.get("/deletion-requests", unanswered=True, due_before=soon, page_size=MOST),
        api.get("/deletion-requests", confirm_pending=True, page_size=MOST),
        api.get("/deletion-requests", status="needs-attention", page_size=MOST),
        api.get("/deletion-requests", status="held", page_size=MOST),
        api.get("/deletion-requests", notice_unsent=True, page_size=MOST),
        api.get("/deletion-requests", letter_missing=True, page_size=MOST),
        api.get("/deletion-requests", answer_missing=True, page_size=MOST),
        api.get("/jobs", state="running", page_size=MOST),
        api.get("/jobs", state="dead", page_size=10),
        _health(visit),
    )
    late = [row for row in due["items"] if visit.clock.days_until(row["due_at"], row["jurisdiction"]) < 0]
    asked = [row for row in held["items"] if row["identity"]["status"] == "asked"]
    over = [row for row in asked if parse(row["identity"]["until"]) < visit.clock.now]
    return visit.page(
        "today.html.j2",
        late=late,
        soon=[row for row in due["items"] if row not in late],
        more_due=due["next_page_token"] is not None,
        attention=attention["items"],
        confirm=confirm["items"],
        more_confirm=confirm["next_page_token"] is not None,
        asked=[row for row in asked if row not in over],
        over=over,
        held=[row for row in held["items"] if row["identity"]["status"] != "asked"],
        letters=letters["items"],
        unsaid=unsaid["items"],
        unanswered=unanswered["items"],
        more_unanswered=unanswered["next_page_token"] is not None,
        to_write=len({row["id"] for row in [*letters["items"], *unsaid["items"], *unanswered["items"]]}),
        running=running["items"],
        given_up=ended["items"],
        health=health,
        most=MOST,
    )


async def _health(visit: Visit) -> tuple[str, list[str]]:
    """How the service is, and what is missing, in words."""
    found = await run_in_threadpool(ready, visit.held)
    return found.status, found.degraded
