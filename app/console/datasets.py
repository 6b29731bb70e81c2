"""Datasets: what was taken in, its samples, and sending content from the browser."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import Response

from app.api.http.patterns import id_pattern
from app.console.calls import Document, Refused
from app.console.lists import listed
from app.console.visit import Form, PageRoute, Visit, VisitDep, lines_of, see_other

router = APIRouter(prefix="/console/datasets", route_class=PageRoute, include_in_schema=False)
DatasetId = Annotated[str, Path(pattern=id_pattern("dst"))]


@router.get("")
async def show_list(visit: VisitDep) -> Response:
    return visit.page("datasets.html.j2", listed=await listed(visit, "/datasets"))


@router.get("/new")
async def new(visit: VisitDep) -> Response:
    return await _new(visit, Form())


async def _new(visit: Visit, typed: Form, problem: Document | None = None) -> Response:
    catalog = await visit.api.get("/catalog")
    return visit.page(
        "new_dataset.html.j2",
        status=int(problem["status"]) if problem else 200,
        sources=catalog["sources"],
        typed=typed,
        problem=problem,
    )


@router.post("")
async def create(visit: VisitDep) -> Response:
    form = await visit.form()
    try:
        params = json.loads(form.get("params", "").strip() or "{}")
    except ValueError:
        problem = {"status": 422, "title": "Not JSON", "detail": "The parameters are not a JSON object."}
        return await _new(visit, form, problem)
    body = {"name": form.get("name", "").strip(), "source": {"name": form.get("source", "upload"), "params": params}}
    if form.get("id_namespace", "").strip():
        body["id_namespace"] = form["id_namespace"].strip()
    try:
        made = await visit.api.send("POST", "/datasets", body, once=form.get("once", ""))
    except Refused as error:
        return await _new(visit, form, error.problem)
    return see_other(f"/console/datasets/{made['id']}")


@router.get("/{dataset_id}")
async def show(visit: VisitDep, dataset_id: DatasetId) -> Response:
    found = await visit.api.get(f"/datasets/{dataset_id}")
    ready = found["state"] == "ready"
    models, jobs, samples, report = await asyncio.gather(
        visit.api.get("/models", dataset=dataset_id, page_size=100),
        visit.api.get("/jobs", dataset=dataset_id, kind="ingest", page_size=5),
        visit.api.get(f"/datasets/{dataset_id}/samples", page_size=10) if ready else _nothing(),
        visit.api.find(f"/datasets/{dataset_id}/report") if ready and found["source"]["name"] == "upload" else _none(),
    )
    return visit.page(
        "dataset.html.j2",
        dataset=found,
        models=models["items"],
        jobs=jobs["items"],
        samples=samples["items"],
        report=report,
    )


async def _nothing() -> Document:
    return {"items": []}


async def _none() -> None:
    return None


@router.post("/{dataset_id}/preview")
async def preview(visit: VisitDep, dataset_id: DatasetId) -> Response:
    """Pictures of some samples. The log keeps that they were seen."""
    form = await visit.form()
    who = lines_of(form["samples"])
    dataset = await visit.api.get(f"/datasets/{dataset_id}")
    pictures = await visit.api.send("POST", f"/datasets/{dataset_id}:preview", {"sample_ids": who})
    return visit.page("pictures.html.j2", dataset=dataset, pictures=list(zip(who, pictures, strict=True)))
