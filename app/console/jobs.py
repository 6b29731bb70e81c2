"""Jobs as they wait, run and have ended, and the workers that run them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Path
from fastapi.responses import Response

from app.api.http.patterns import id_pattern
from app.console.charts import history
from app.console.lists import listed
from app.console.visit import PageRoute, VisitDep, see_other
from app.core.errors import NotFound

router = APIRouter(prefix="/console/jobs", route_class=PageRoute, include_in_schema=False)
JobId = Annotated[str, Path(pattern=id_pattern("job"))]
REMEMBERED = "lethe-jobs"
SHOWN = {
    "all": "All",
    "running": "Running",
    "queued": "Waiting",
    "succeeded": "Succeeded",
    "rejected": "Rejected",
    "failed": "Failed",
    "dead": "Given up",
    "cancelled": "Cancelled",
}


@router.get("")
async def show_list(visit: VisitDep) -> Response:
    if recalled := visit.recalled(REMEMBERED, "/jobs"):
        return recalled
    shown = visit.request.query_params.get("show", "all")
    shown = shown if shown in SHOWN else "all"
    model = visit.request.query_params.get("model") or None
    waiting = shown == "queued"  # as workers take them: what is due first, first
    found, undated, running, workers = await asyncio.gather(
        listed(visit, "/jobs", state=None if shown == "all" else shown, model=model, dated=waiting or None),
        listed(visit, "/jobs", at="undated", state=shown, model=model) if waiting else _nothing(),
        visit.api.get("/jobs", state="running", page_size=50),
        visit.api.find("/workers"),
    )
    if undated is not None:
        undated = replace(undated, rows=[row for row in undated.rows if row["due_at"] is None])
    page = visit.page(
        "jobs.html.j2",
        listed=found,
        undated=undated,
        shown=shown,
        tabs=SHOWN,
        model=model,
        running=running["items"],
        workers=workers["workers"] if workers else None,
        bars=history(found.rows),
    )
    visit.remember(page, REMEMBERED, urlencode({"show": shown}), "/jobs")
    return page


@router.get("/{job_id}")
async def show(visit: VisitDep, job_id: JobId) -> Response:
    found = await visit.api.get(f"/jobs/{job_id}")
    parts, model, dataset = await asyncio.gather(
        visit.api.get("/jobs", parent=job_id, page_size=100),
        visit.api.find(f"/models/{found['model']}") if found["model"] else _nothing(),
        visit.api.find(f"/datasets/{found['dataset']}") if found["dataset"] else _nothing(),
    )
    return visit.page(
        "job.html.j2",
        job=found,
        model=model,
        dataset=dataset,
        parts_=parts["items"],
        audited=(found["result"] or {}).get("verdict") is not None,
    )


async def _nothing() -> Any:
    return None


@router.post("/{job_id}/{verb}")
async def change(visit: VisitDep, job_id: JobId, verb: str) -> Response:
    form = await visit.form()
    if verb not in ("cancel", "retry"):
        raise NotFound("A job can be cancelled, or tried again.")
    await visit.api.send("POST", f"/jobs/{job_id}:{verb}", once=form.get("once", ""))
    return see_other(f"/console/jobs/{job_id}")
