"""The officer's case beside a request: notices, the case file, whom the service holds samples of."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import Response

from app.api.http.patterns import id_pattern
from app.console.calls import Document
from app.console.visit import PageRoute, VisitDep, lines_of, see_other
from app.console.words import plain

router = APIRouter(prefix="/console/requests", route_class=PageRoute, include_in_schema=False)
RequestId = Annotated[str, Path(pattern=id_pattern("del"))]
NoticeId = Annotated[str, Path(pattern=id_pattern("ntc"))]
PaperId = Annotated[str, Path(pattern=id_pattern("pap"))]


@router.post("/find")
async def find(visit: VisitDep) -> Response:
    """What is held of some people, over all datasets."""
    form = await visit.form()
    who = lines_of(form["subjects"])
    found = (
        await visit.api.send("POST", "/deletion-requests:find", {"subjects": who}, once=form["once"]) if who else None
    )
    return visit.page("people.html.j2", who=who, found=found, typed=form["subjects"], held_in=_by_dataset(who, found))


@router.get("/find")
async def ask(visit: VisitDep) -> Response:
    return visit.page("people.html.j2", who=[], found=None, typed="", held_in=[])


def _by_dataset(who: list[str], found: Document | None) -> list[tuple[str, str, list[str]]]:
    """Dataset, its name, and the people of whom it holds something that no request has taken."""
    held: dict[str, tuple[str, dict[str, None]]] = {}
    for row in found["held"] if found else ():
        if row["requested"] < row["samples"]:
            held.setdefault(row["dataset"], (row["name"], {}))[1][who[row["subject"]]] = None
    return [(dataset, name, list(people)) for dataset, (name, people) in held.items()]


@router.post("/{request_id}/notices")
async def make_notice(visit: VisitDep, request_id: RequestId) -> Response:
    form = await visit.form()
    body = {"kind": form["kind"], **({"language": form["language"]} if form["language"] else {})}
    await visit.api.send("POST", f"/deletion-requests/{request_id}/notices", body, once=form["once"])
    return see_other(f"/console/requests/{request_id}#notices")


@router.get("/{request_id}/notices/{notice_id}")
async def show_notice(visit: VisitDep, request_id: RequestId, notice_id: NoticeId) -> Response:
    notice, rules = await asyncio.gather(
        visit.api.get(f"/deletion-requests/{request_id}/notices/{notice_id}"), visit.api.find("/compliance/rules")
    )
    unnamed = rules is not None and not (rules["controller"] and rules["contact"])
    return visit.page("notice.html.j2", request_id=request_id, notice=notice, unnamed=unnamed)


@router.get("/{request_id}/notices/{notice_id}/pdf")
async def print_notice(visit: VisitDep, request_id: RequestId, notice_id: NoticeId) -> Response:
    path = f"/deletion-requests/{request_id}/notices/{notice_id}"
    _, content = await visit.api.fetch(path, accept="application/pdf")
    named = {"Content-Disposition": f'attachment; filename="{notice_id}.pdf"', "Cache-Control": "no-store"}
    return Response(content, media_type="application/pdf", headers=named)


@router.post("/{request_id}/notices/{notice_id}/sent")
async def mark_sent(visit: VisitDep, request_id: RequestId, notice_id: NoticeId) -> Response:
    form = await visit.form()
    path = f"/deletion-requests/{request_id}/notices/{notice_id}:sent"
    await visit.api.send("POST", path, {"how": form["how"].strip() or "post"}, once=form["once"])
    return see_other(f"/console/requests/{request_id}#notices")


@router.post("/{request_id}/case-file")
async def case_file(visit: VisitDep, request_id: RequestId) -> Response:
    form = await visit.form()
    body = {"with_papers": "with_papers" in form}
    await visit.api.send("POST", f"/deletion-requests/{request_id}:case-file", body, once=form["once"])
    return see_other(f"/console/requests/{request_id}?done=case-file#evidence")


@router.get("/{request_id}/case-file")
async def fetch_case_file(visit: VisitDep, request_id: RequestId) -> Response:
    """The zip; a page in words while there is none."""
    _, content = await visit.api.fetch(f"/deletion-requests/{request_id}/case-file")
    named = {"Content-Disposition": f'attachment; filename="case-{request_id}.zip"', "Cache-Control": "no-store"}
    return Response(content, media_type="application/zip", headers=named)


@router.post("/{request_id}/papers")
async def attach(visit: VisitDep, request_id: RequestId) -> Response:
    """What came with the case. The page's script sends the bytes; kind and name are in the address."""
    content, query = await visit.file(), visit.request.query_params
    name = plain(query.get("name", ""), 200).strip() or "paper"
    body = {"kind": query.get("kind", "other"), "name": name, "content": base64.b64encode(content).decode()}
    await visit.api.send("POST", f"/deletion-requests/{request_id}/papers", body, once=query.get("once", ""))
    return Response(status_code=204)


@router.post("/{request_id}/papers/{paper_id}/remove")
async def remove(visit: VisitDep, request_id: RequestId, paper_id: PaperId) -> Response:
    await visit.form()
    await visit.api.send("DELETE", f"/deletion-requests/{request_id}/papers/{paper_id}")
    return see_other(f"/console/requests/{request_id}#papers")
