"""Models: the list, a new one, lineage and figures by version, policy, what can be started."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import HTMLResponse, Response

from app.api.http.patterns import id_pattern
from app.console import canaries, charts
from app.console.calls import Document, Refused
from app.console.lists import listed
from app.console.policy_meaning import meaning
from app.console.visit import HEADERS, PAGES, Form, PageRoute, Visit, VisitDep, number_of, see_other
from app.core.errors import NotFound, Unprocessable

router = APIRouter(prefix="/console/models", route_class=PageRoute, include_in_schema=False)
ModelId = Annotated[str, Path(pattern=id_pattern("mdl"))]
MOST_VERSIONS = 50
MOST_WAITING = 20  # that are counted
DAY = 86400
STARTED = {"train": "train", "references": "references", "audit": "audit", "precompute": "precompute"}


@router.get("")
async def show_list(visit: VisitDep) -> Response:
    found, datasets = await asyncio.gather(listed(visit, "/models"), visit.api.get("/datasets", page_size=200))
    return visit.page("models.html.j2", listed=found, datasets={row["id"]: row for row in datasets["items"]})


@router.get("/new")
async def new(visit: VisitDep) -> Response:
    return await _new(visit, Form())


async def _new(visit: Visit, typed: Form, problem: Document | None = None) -> Response:
    catalog, datasets = await asyncio.gather(
        visit.api.get("/catalog"), visit.api.get("/datasets", state="ready", page_size=200)
    )
    return visit.page(
        "new_model.html.j2",
        status=int(problem["status"]) if problem else 200,
        catalog=catalog,
        datasets=datasets["items"],
        typed=typed,
        problem=problem,
    )


@router.post("")
async def create(visit: VisitDep) -> Response:
    form = await visit.form()
    body: Document = {
        "name": form.get("name", "").strip(),
        "dataset": form.get("dataset", ""),
        "architecture": {"name": form.get("architecture", "")},
        "recipe": {"name": form.get("recipe", "sgd")},
        "policy": {"method": {"name": form.get("method", "amun")}},
    }
    try:
        if form["input"].strip():
            body["input"] = _json(form["input"])
        made = await visit.api.send("POST", "/models", body, once=form.get("once", ""))
    except Refused as error:
        return await _new(visit, form, error.problem)
    except Unprocessable as error:
        return await _new(visit, form, error.document())
    return see_other(f"/console/models/{made['id']}")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Unprocessable(f"The input contract is not JSON: {error}.", kind="schema") from None


@router.get("/{model_id}")
async def show(visit: VisitDep, model_id: ModelId) -> Response:
    return await page_of(visit, model_id, None, None)


async def page_of(visit: Visit, model_id: str, typed: Form | None, problem: Document | None) -> Response:
    seen, text = await visit.api.fetch(f"/models/{model_id}")
    model = json.loads(text)
    dataset, versions, jobs, aliases, catalog, measured, *affected = await asyncio.gather(
        visit.api.get(f"/datasets/{model['dataset']}"),
        visit.api.get(f"/models/{model_id}/versions", page_size=MOST_VERSIONS),
        visit.api.get("/jobs", model=model_id, page_size=30),
        visit.api.get(f"/models/{model_id}/aliases"),
        visit.api.get("/catalog"),
        canaries.by_version(visit.api, model_id),
        *_open(visit, model_id),
    )
    rows = versions["items"]
    return visit.page(
        "model.html.j2",
        status=int(problem["status"]) if problem else 200,
        model=model,
        seen=seen,
        dataset=dataset,
        versions=rows,
        more=versions["next_page_token"] is not None,
        jobs=jobs["items"],
        running=[row for row in jobs["items"] if row["state"] == "running"],
        aliases=aliases["items"],
        catalog=catalog,
        waiting=sum(len(each["items"]) for each in affected),
        more_wait=any(each["next_page_token"] for each in affected),
        lineage=charts.lineage(rows),
        canaries=charts.canaries(measured),
        charts=charts.by_version(rows, model["policy"]),
        bars=charts.history(jobs["items"]),
        typed=typed or Form(),
        problem=problem,
        input_shown=_pretty(model["input"]),
        done=visit.request.query_params.get("done", ""),
    )


def _pretty(value: Any) -> str:
    """JSON to read; empty where nothing in it is set."""
    if not value or not any(value.values()):
        return ""
    return json.dumps({name: each for name, each in value.items() if each is not None}, indent=2, ensure_ascii=False)


def _open(visit: Visit, model_id: str) -> list[Any]:
    """The calls for the model's open requests, by status."""
    return [
        visit.api.get("/deletion-requests", model=model_id, status=status, page_size=MOST_WAITING)
        for status in ("accepted", "processing")
    ]


@router.post("/{model_id}/policy/meaning")
async def say_meaning(visit: VisitDep, model_id: ModelId) -> Response:
    """What the policy in the form would mean for open requests: a part of the page, renewed as the form changes."""
    form = await visit.form()
    model, *found = await asyncio.gather(visit.api.get(f"/models/{model_id}"), *_open(visit, model_id))
    try:
        then = _policy(model["policy"], form)
        rows = [row for each in found for row in each["items"]]
        lines: list[Any] = list(meaning(model["policy"], then, model_id, rows, visit.clock))
    except Unprocessable as error:
        lines = [error.detail]
    return HTMLResponse(PAGES.get_template("meaning.html.j2").render(lines=lines), headers=HEADERS)


@router.post("/{model_id}/policy")
async def set_policy(visit: VisitDep, model_id: ModelId) -> Response:
    """What the form has is changed; what it has not stays as it was. Refused if the model has changed since its page
    was opened, in another tab perhaps."""
    form = await visit.form()
    model = await visit.api.get(f"/models/{model_id}")
    try:
        policy = _policy(model["policy"], form)
        await visit.api.send("PUT", f"/models/{model_id}/policy", policy, seen=form["seen"] or "none")
    except Refused as error:
        return await page_of(visit, model_id, form, error.problem)
    except Unprocessable as error:
        return await page_of(visit, model_id, form, error.document())
    return see_other(f"/console/models/{model_id}?done=policy")


def _policy(now: Document, form: Form) -> Document:
    def chosen(kind: str) -> Document:
        """The same choice keeps its parameters, another has its defaults."""
        name = form.get(kind, now[kind]["name"])
        kept: Document = now[kind]
        return kept if kept["name"] == name else {"name": name}

    when: Document = {"mode": "each"}
    if form.get("when") == "batch":
        when = {
            "mode": "batch",
            "max_requests": round(number_of(form, "max_requests", 100)),
            "max_age_seconds": DAY * number_of(form, "max_age_days", 7),
        }
        if now["when"]["mode"] == "batch":
            when |= {name: now["when"][name] for name in ("max_samples", "crowd") if name in now["when"]}
    escalation = now["escalation"]
    remain = form.get("remain", now["remain"])
    if (form.get("last_step") == "retrain") != any(step["name"] == "retrain" for step in escalation):
        escalation = [step for step in escalation if step["name"] != "retrain"]
        escalation += [{"name": "retrain"}] if form.get("last_step") == "retrain" else []
    return {
        **now,
        "when": when,
        "method": chosen("method"),
        "attack": chosen("attack"),
        "audit": chosen("audit"),
        "remain": remain,
        "escalation": escalation,
        "on_inconclusive": form.get("on_inconclusive", now["on_inconclusive"]),
        "utility_floor": round(number_of(form, "utility_floor", 100 * now["utility_floor"]) / 100, 6),
        "canaries": round(number_of(form, "canaries", now["canaries"])),
        "grace_seconds": round(DAY * number_of(form, "grace_days", now["grace_seconds"] / DAY)),
    }


@router.post("/{model_id}/start/{what}")
async def start(visit: VisitDep, model_id: ModelId, what: str) -> Response:
    """Start a job on the model, and go to it."""
    form = await visit.form()
    if what not in STARTED:
        raise NotFound("There is no such job.")
    body: dict[str, Any] = {}
    if what == "audit" and form.get("version"):
        body |= {"version": int(number_of(form, "version", 1)), "canaries": "canaries" in form}
    if what == "references":
        body["count"] = round(number_of(form, "count", 16))
    if what == "train" and form.get("exclude_request"):
        body |= {"exclude_request": form["exclude_request"], "compare_only": True}
    job = await visit.api.send("POST", f"/models/{model_id}:{what}", body, once=form.get("once", ""))
    return see_other(f"/console/jobs/{job['id']}")
