"""Versions: one with its audits, two audits side by side, promotion, aliases, a checkpoint that is imported."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import Response

from app.console import verdicts
from app.console.calls import Refused
from app.console.models import ModelId, page_of
from app.console.visit import Form, PageRoute, VisitDep, lines_of, number_of, see_other
from app.core.errors import NotFound

router = APIRouter(prefix="/console/models", route_class=PageRoute, include_in_schema=False)
Number = Annotated[int, Path(ge=1, lt=2**31)]
Alias = Annotated[str, Path(max_length=60)]


@router.get("/{model_id}/compare")
async def compare(visit: VisitDep, model_id: ModelId) -> Response:
    """Two audits side by side."""
    query = visit.request.query_params
    given = [query.get(name, "")[:9] for name in ("a", "b")]
    wanted = [int(each) for each in given if each.isascii() and each.isdigit()]
    model, *versions = await asyncio.gather(
        visit.api.get(f"/models/{model_id}"),
        *(visit.api.find(f"/models/{model_id}/versions/{number}") for number in wanted),
    )
    if None in versions:
        raise NotFound("The model has no such version.")
    found = await asyncio.gather(*(verdicts.of_version(visit.api, model_id, number) for number in wanted))
    return visit.page("compare.html.j2", model=model, pairs=list(zip(wanted, found, strict=True)))


@router.get("/{model_id}/versions/{number}")
async def show_version(visit: VisitDep, model_id: ModelId, number: Number) -> Response:
    model, version, audits = await asyncio.gather(
        visit.api.get(f"/models/{model_id}"),
        visit.api.get(f"/models/{model_id}/versions/{number}"),
        visit.api.get(f"/models/{model_id}/versions/{number}/audits", page_size=50),
    )
    found = await visit.api.find(f"/models/{model_id}/versions/{number}/audit") if audits["items"] else None
    return visit.page(
        "version.html.j2",
        model=model,
        version=version,
        audits=audits["items"],
        first=verdicts.read(model_id, number, found) if found else None,
        retrained=found["retrained"] if found else None,
    )


@router.post("/{model_id}/promote")
async def promote(visit: VisitDep, model_id: ModelId) -> Response:
    form = await visit.form()
    number = round(number_of(form, "version", 0))
    await visit.api.send("POST", f"/models/{model_id}/versions/{number}:promote", once=form.get("once", ""))
    return see_other(f"/console/models/{model_id}?done=promoted")


@router.post("/{model_id}/roll-back")
async def roll_back(visit: VisitDep, model_id: ModelId) -> Response:
    form = await visit.form()
    await visit.api.send("POST", f"/models/{model_id}:rollback", once=form.get("once", ""))
    return see_other(f"/console/models/{model_id}?done=rolled-back")


@router.post("/{model_id}/aliases")
async def point(visit: VisitDep, model_id: ModelId) -> Response:
    form = await visit.form()
    name = form["alias"].strip()
    body = {"version": round(number_of(form, "version", 0))}
    try:
        await visit.api.send("PUT", f"/models/{model_id}/aliases/{name or '-'}", body)
    except Refused as error:
        return await page_of(visit, model_id, form, error.problem)
    return see_other(f"/console/models/{model_id}?done=alias#aliases")


@router.post("/{model_id}/aliases/{alias}/drop")
async def unpoint(visit: VisitDep, model_id: ModelId, alias: Alias) -> Response:
    await visit.form()
    await visit.api.send("DELETE", f"/models/{model_id}/aliases/{alias}")
    return see_other(f"/console/models/{model_id}?done=alias#aliases")


@router.post("/{model_id}/import")
async def announce(visit: VisitDep, model_id: ModelId) -> Response:
    """Announce a checkpoint; its page takes the file."""
    form = await visit.form()
    digest = form["digest"].strip().lower()
    body = {
        "digest": digest if ":" in digest else f"sha256:{digest}",
        "trained_on": form["trained_on"] or lines_of(form["samples"]) or "train-split",
    }
    try:
        made = await visit.api.send("POST", f"/models/{model_id}/versions", body, once=form["once"])
    except Refused as error:
        return await page_of(visit, model_id, form, error.problem)
    return see_other(f"/console/models/{model_id}/versions/{made['number']}")


@router.get("/{model_id}/audit-plan")
async def plan(visit: VisitDep, model_id: ModelId) -> Response:
    """What each kind of audit would cost, and what it could say."""
    asked = Form(visit.request.query_params)
    given = {name: number_of(asked, name, 0) for name in ("samples", "people", "margin") if asked[name].strip()}
    counts = {name: value if name == "margin" else round(value) for name, value in given.items()}
    model, found = await asyncio.gather(
        visit.api.get(f"/models/{model_id}"), visit.api.get(f"/models/{model_id}:audit-plan", **counts)
    )
    return visit.page("plan.html.j2", model=model, plan=found)
