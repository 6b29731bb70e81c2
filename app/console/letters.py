"""Settings of the controller: the rules of requests and what letters say, and the text of each notice."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, get_args

from fastapi import APIRouter, Path
from fastapi.responses import Response

from app.api.case_schemas import TemplateOut
from app.console.calls import Document, Refused
from app.console.visit import Form, PageRoute, Visit, VisitDep, see_other
from app.core.errors import PreconditionFailed

router = APIRouter(prefix="/console/settings", route_class=PageRoute, include_in_schema=False)
KINDS: tuple[str, ...] = get_args(TemplateOut.model_fields["kind"].annotation)
LANGUAGES = {"en": "English", "de": "German", "fr": "French"}
MEANWHILE = (
    "Somebody has changed this since you opened the page. What you typed is kept here. See in another tab what holds "
    "now; if you then send this, it takes its place."
)
Kind = Annotated[str, Path(pattern=f"^({'|'.join(KINDS)})$")]
Language = Annotated[str, Path(pattern=f"^({'|'.join(LANGUAGES)})$")]


@router.get("/rules")
async def show_rules(visit: VisitDep) -> Response:
    return await _rules(visit, None, None)


async def _rules(visit: Visit, typed: Form | None, problem: Document | None) -> Response:
    (etag, text), remains = await asyncio.gather(
        visit.api.fetch("/compliance/rules"), visit.api.get("/compliance/remains")
    )
    rules = json.loads(text)
    models = list(dict.fromkeys(model for row in remains["pools"] for model in row["models"]))
    named = await asyncio.gather(*(visit.api.find(f"/models/{model}") for model in models))
    return visit.page(
        "rules.html.j2",
        seen=etag,
        status=int(problem["status"]) if problem else 200,
        rules={**rules, **_said(typed)} if typed is not None else rules,
        remains=remains,
        names={each["id"]: each["name"] for each in named if each},
        languages=LANGUAGES,
        kinds=KINDS,
        problem=problem,
        done=visit.request.query_params.get("done", ""),
    )


@router.post("/rules")
async def set_rules(visit: VisitDep) -> Response:
    """What the form has is changed; what it has not stays as it was. Whoever changed them meanwhile is not undone."""
    form = await visit.form()
    now = await visit.api.get("/compliance/rules")
    try:
        await visit.api.send("PUT", "/compliance/rules", {**now, **_said(form)}, seen=form["seen"])
    except Refused as error:
        return await _rules(visit, form, _told(error))
    return see_other("/console/settings/rules?done=rules")


def _told(error: Refused) -> Document:
    return {**error.problem, "detail": MEANWHILE} if error.status == PreconditionFailed.status else error.problem


def _said(form: Form) -> Document:
    said: Document = {"two_people_on_refusal": "two_people_on_refusal" in form}
    said |= {
        name: form[name].strip()
        for name in ("controller", "contact", "authority", "language", "remains")
        if name in form
    }
    months = form["keep_months"].strip()
    return {**said, "keep_months": int(months) if months.isascii() and months.isdigit() and len(months) < 5 else months}


@router.get("/letters/{kind}/{language}")
async def show_letter(visit: VisitDep, kind: Kind, language: Language) -> Response:
    return await _letter(visit, kind, language, None, None)


async def _letter(visit: Visit, kind: str, language: str, typed: Form | None, problem: Document | None) -> Response:
    etag, text = await visit.api.fetch(f"/compliance/templates/{kind}/{language}")
    letter = json.loads(text)
    return visit.page(
        "letter.html.j2",
        seen=etag,
        status=int(problem["status"]) if problem else 200,
        letter=letter if typed is None else {**letter, "subject": typed["subject"], "body": typed["body"]},
        languages=LANGUAGES,
        problem=problem,
        done=visit.request.query_params.get("done", ""),
    )


@router.post("/letters/{kind}/{language}")
async def set_letter(visit: VisitDep, kind: Kind, language: Language) -> Response:
    form = await visit.form()
    body = {"subject": form["subject"].strip(), "body": form["body"].replace("\r\n", "\n")}
    try:
        await visit.api.send("PUT", f"/compliance/templates/{kind}/{language}", body, seen=form["seen"])
    except Refused as error:
        return await _letter(visit, kind, language, form, _told(error))
    return see_other(f"/console/settings/letters/{kind}/{language}?done=letter")


@router.post("/letters/{kind}/{language}/drop")
async def drop_letter(visit: VisitDep, kind: Kind, language: Language) -> Response:
    await visit.form()
    await visit.api.send("DELETE", f"/compliance/templates/{kind}/{language}")
    return see_other(f"/console/settings/letters/{kind}/{language}?done=dropped")
