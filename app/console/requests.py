"""Deletion requests: the list, a new one, and one request with its dates, its verdict and what can be decided."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from typing import Annotated, Any, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Path
from fastapi.responses import HTMLResponse, Response

from app.api.case_schemas import NoticeCreate
from app.api.http.patterns import id_pattern
from app.console import next_steps, verdicts
from app.console.calls import Document, Refused
from app.console.csv_import import COLUMNS, as_lines
from app.console.lists import listed
from app.console.timeline import timeline
from app.console.visit import HEADERS, PAGES, Form, PageRoute, Visit, VisitDep, lines_of, see_other
from app.core.errors import NotFound, PreconditionFailed
from app.rules.compliance import Channel
from app.rules.grounds import GROUNDS, REASONS, REFUSALS, law_of

router = APIRouter(prefix="/console/requests", route_class=PageRoute, include_in_schema=False)
RequestId = Annotated[str, Path(pattern=id_pattern("del"))]
REMEMBERED = "lethe-requests"
SHOWN = {
    "open": "Open",
    "needs-attention": "Needs attention",
    "held": "On hold",
    "to-confirm": "Receipt to confirm",
    "to-answer": "Answer to send",
    "fulfilled": "Fulfilled",
    "incomplete": "Incomplete",
    "refused": "Refused",
    "cancelled": "Cancelled",
    "all": "All",
}
FLAGS = {"open": "unanswered", "to-confirm": "confirm_pending", "to-answer": "answer_missing"}
LAWS = ("gdpr", "uk-gdpr", "ccpa")
MOST_NAMED = 200
OWED = "source-object"  # of a receipt: pictures in the storage of their owner
CHANGED = "The request has changed since you opened it, perhaps in another tab. Look at it again, and then decide."
NOTICES = get_args(NoticeCreate.model_fields["kind"].annotation)
VERBS = {
    "case-file": "The case file is being put together. Fetch it in a few seconds.",
    "extend": "The law's longer period is taken.",
    "hold": "The request is on hold.",
    "release": "The hold has ended.",
    "refuse": "The request is refused.",
    "cancel": "The request is cancelled.",
    "approve": "The refusal is approved.",
    "dismiss": "The proposed refusal does not happen.",
    "confirm": "The receipt is confirmed.",
    "identity": "The proof of identity is noted.",
    "confirm-objects": "It is noted that the pictures are deleted at their place.",
}

DECISIONS = VERBS.keys() - {"case-file"}


@router.get("")
async def show_list(visit: VisitDep) -> Response:
    if recalled := visit.recalled(REMEMBERED, "/requests"):
        return recalled
    given = visit.request.query_params
    shown = given.get("show", "open")
    shown = shown if shown in SHOWN else "open"
    dataset, reference = given.get("dataset") or None, given.get("reference", "").strip()[:200] or None
    filters: dict[str, Any] = {"dataset": dataset, "reference": reference}
    if shown in FLAGS:
        filters[FLAGS[shown]] = True
    elif shown != "all":
        filters["status"] = shown
    rows, datasets = await asyncio.gather(
        listed(visit, "/deletion-requests", **filters), visit.api.get("/datasets", page_size=MOST_NAMED)
    )
    page = visit.page(
        "requests.html.j2",
        listed=rows,
        shown=shown,
        tabs=SHOWN,
        columns=COLUMNS,
        dataset=dataset,
        reference=reference,
        datasets=datasets["items"],
    )
    kept = urlencode({"show": shown, **({"dataset": dataset} if dataset else {})})
    visit.remember(page, REMEMBERED, kept, "/requests")
    return page


@router.get("/new")
async def new(visit: VisitDep) -> Response:
    return await _new(visit, Form())


@router.post("/import")
async def take_in(visit: VisitDep) -> Response:
    """A table, or lines of JSON. The answer has a line for each."""
    content, form = await visit.file(), visit.request.headers.get("content-type", "")
    lines = as_lines(content) if form.startswith("text/csv") else content
    once = visit.request.headers.get("idempotency-key", "")
    said = await visit.api.send_lines("/deletion-requests:import", lines, once=once)
    return Response(said, media_type="application/x-ndjson", headers=HEADERS)


@router.post("/begin")
async def begin(visit: VisitDep) -> Response:
    """The form of a new request with what was found filled in; nothing is stored."""
    form = await visit.form()
    return await _new(visit, Form({name: form[name] for name in ("dataset", "by", "who")}))


async def _new(visit: Visit, typed: Form, problem: Document | None = None) -> HTMLResponse:
    datasets, models = await asyncio.gather(
        visit.api.get("/datasets", state="ready", page_size=MOST_NAMED), visit.api.get("/models", page_size=MOST_NAMED)
    )
    return visit.page(
        "new_request.html.j2",
        status=int(problem["status"]) if problem else 200,
        datasets=datasets["items"],
        models=models["items"],
        laws=LAWS,
        grounds=GROUNDS,
        channels=get_args(Channel),
        typed=typed,
        problem=problem,
    )


@router.post("/preview")
async def preview(visit: VisitDep) -> Response:
    """What the request would mean: a part of the page, renewed as the form changes."""
    body = _body(await visit.form())
    found = problem = None
    if body["dataset"] and (body.get("sample_ids") or body.get("subjects")):
        try:
            found = await visit.api.send("POST", "/deletion-requests:draft", body)
        except Refused as error:
            problem = error.problem
    made = PAGES.get_template("preview.html.j2").render(
        clock=visit.clock, found=found, problem=problem, law=body["jurisdiction"]
    )
    return HTMLResponse(made, headers=HEADERS)


@router.post("")
async def create(visit: VisitDep) -> Response:
    form = await visit.form()
    try:
        made = await visit.api.send("POST", "/deletion-requests", _body(form), once=form.get("once", ""))
    except Refused as error:
        return await _new(visit, form, error.problem)
    return see_other(f"/console/requests/{made['id']}?done=accepted")


def _body(form: Form) -> Document:
    """The API's body of the form."""
    lines = lines_of(form["who"])
    place = form.get("place", "").strip()
    body: Document = {
        "dataset": form.get("dataset", ""),
        "jurisdiction": form.get("law", "gdpr") + (f":{place}" if place else ""),
        "basis": form.get("basis", "").strip() or "erasure-request",
        "allow_data_loss": "allow_data_loss" in form,
    }
    if lines:
        body["subjects" if form.get("by") == "subjects" else "sample_ids"] = lines
    for name in ("model", "reference", "received_at", "received_reason", "channel", "ground"):
        if form[name].strip():
            body[name] = form[name].strip()
    return body


@router.get("/{request_id}")
async def show(visit: VisitDep, request_id: RequestId) -> Response:
    found = await visit.api.get(f"/deletion-requests/{request_id}")
    models = {row["model"] for row in found["outcomes"]}
    jobs, certificates, negative, history, notices, papers, dataset, *named = await asyncio.gather(
        visit.api.get("/jobs", request=request_id, page_size=50),
        visit.api.find("/certificates", request=request_id, page_size=10),
        visit.api.find(f"/deletion-requests/{request_id}/negative-report"),
        visit.api.get(f"/deletion-requests/{request_id}/history"),
        visit.api.get(f"/deletion-requests/{request_id}/notices"),
        visit.api.get(f"/deletion-requests/{request_id}/papers"),
        visit.api.find(f"/datasets/{found['dataset']}"),
        *(visit.api.find(f"/models/{model}") for model in models),
    )
    audits = await verdicts.of_request(visit.api, found)
    left = [each for each in found["receipts"] if each["done_at"] is None]
    objects = None
    if visit.can("request") and any(each["subject"] == OWED and each["due_at"] for each in left):
        objects = (await visit.api.get(f"/deletion-requests/{request_id}/objects"))["addresses"]
    return visit.page(
        "request.html.j2",
        objects=objects,
        request=found,
        seen=_facts(found),
        jobs=jobs["items"],
        certificates=certificates["items"] if certificates else None,
        negative=negative,
        dataset=dataset,
        history=history["entries"],
        notices=notices["notices"],
        papers=papers["papers"],
        kinds=NOTICES,
        refusals=REFUSALS[law_of(found["jurisdiction"])],
        grounds=GROUNDS[law_of(found["jurisdiction"])],
        reasons=REASONS[law_of(found["jurisdiction"])],
        models={each["id"]: each for each in named if each},
        audits=audits,
        sentence=verdicts.sentence(found, audits),
        next_steps=next_steps.of_request(
            found,
            notices["notices"],
            visit.clock,
            certified=bool(certificates and certificates["items"]),
            owed=len(objects or ()),
        ),
        steps=timeline(found, audits),
        left=left,
        gone=[each for each in found["receipts"] if each["done_at"] is not None],
        verbs=_possible(found) if visit.can("request") else (),
        done=VERBS.get(visit.request.query_params.get("done", ""), ""),
        accepted=visit.request.query_params.get("done") == "accepted",
    )


def _possible(request: Document) -> tuple[str, ...]:
    """What may be decided in this state; the API has the last word."""
    if request["proposal"]:
        return ("approve", "dismiss")
    confirm = ("confirm",) if request["confirm_by"] and not request["confirmed_at"] else ()
    match request["status"]:
        case "held" if request["identity"]["status"] in ("asked", "refused"):
            return (*confirm, "identity", "refuse", "cancel")
        case "held":
            return (*confirm, "release", "refuse", "cancel")
        case "accepted" | "processing" | "published" | "needs-attention":
            extend = () if request["extended_at"] else ("extend",)
            ask = ("identity",) if request["identity"]["status"] == "not-needed" else ()
            return (*confirm, *extend, *ask, "hold", "refuse", "cancel")
    return ()


@router.post("/{request_id}/{verb}")
async def decide(visit: VisitDep, request_id: RequestId, verb: str) -> Response:
    """A decision holds only if the request is still as the page showed it, whoever else decides meanwhile."""
    form = await visit.form()
    if verb not in DECISIONS:
        raise NotFound("There is no such decision.")
    path = f"/deletion-requests/{request_id}"
    body = _said(verb, form)
    for last in (False, True):
        etag, text = await visit.api.fetch(path)
        if not hmac.compare_digest(form.get("seen", "").encode(), _facts(json.loads(text)).encode()):
            raise PreconditionFailed(CHANGED)
        try:
            await visit.api.send("POST", f"{path}:{verb}", body, once=form.get("once", ""), seen=etag)
            break
        except Refused as error:
            if error.status != PreconditionFailed.status or last:  # once more: a forecast changes by the minute
                raise
    return see_other(f"/console/requests/{request_id}?done={verb}")


def _said(verb: str, form: Form) -> Document | None:
    """What the API wants to hear of a decision."""
    if verb in ("release", "approve", "confirm-objects"):
        return None
    if verb in ("confirm", "identity"):
        return {name: form[name].strip() for name in ("status", "until", "note") if form[name].strip()}
    ground = {"ground": form["ground"]} if verb == "refuse" and form["ground"] else {}
    said = [part for part in (form.get("usual", "").strip(), form["reason"].strip()) if part]
    return {"reason": ". ".join(said), **ground}


def _facts(request: Document) -> str:
    """Names the state of a request that a decision rests on: all of it but the forecasts."""
    outcomes = [{**row, "forecast_at": None} for row in request["outcomes"]]
    return hashlib.sha256(json.dumps({**request, "outcomes": outcomes}, sort_keys=True).encode()).hexdigest()[:32]
