"""Signing in and out: by a link that works once, or by an OpenID Connect provider."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from app.api.http.deps import Parts, PartsDep
from app.api.http.session_cookie import SIGN_IN, cookie
from app.console.visit import PageRoute, VisitDep, bare, read_form, root_of, see_other
from app.core import users
from app.core.errors import Forbidden, Unauthorized

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Next = Annotated[str, Query(max_length=2000)]
LINK = f"{SIGN_IN}/link"
HOME = "/console"


def local(path: str) -> str:
    """Where to go on: a path of this service, else the console's first page."""
    given = unquote(path)
    fine = given.startswith((f"{HOME}/", f"{HOME}?", "/v1/")) and "\\" not in given and given.isprintable()
    return path if fine and not given.startswith(SIGN_IN) else HOME


def begin(held: Parts, request: Request, token: str, path: str) -> Response:
    """The session's cookie, and on to the page that was wanted."""
    name, where, secure = cookie(held.settings, request.scope)
    response = see_other(local(path))
    age = int(users.SESSION_LIVES.total_seconds())
    response.set_cookie(name, token, age, path=where, secure=secure, httponly=True, samesite="lax")
    return response


def require_own_page(request: Request) -> None:
    """A form that another site sends would sign its reader in as somebody else."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("Another site has sent this form.", kind="cross-site")


@router.get(SIGN_IN)
async def sign_in(request: Request, held: PartsDep, next: Next = "") -> Response:  # noqa: A002  (as its parameter is called)
    oidc = bool(held.settings.oidc_issuer)
    return bare(request, "sign_in.html.j2", next=local(next), wanted=bool(next), oidc=oidc)


@router.get(LINK + "/{token}")
async def link(request: Request, token: str) -> Response:
    """Only a button: whatever fetches the addresses that it sees does not use the link up."""
    return bare(request, "link.html.j2", token=token, action=root_of(request) + LINK)


@router.post(LINK)
async def follow(request: Request, held: PartsDep) -> Response:
    require_own_page(request)
    fields = await read_form(request, 4096)
    request.state.typed = {}

    def opened() -> str:
        with held.database.write() as session:
            return users.follow_link(session, fields.get("token", ""))

    try:
        token = await run_in_threadpool(opened)
    except Unauthorized as error:
        return bare(request, "link.html.j2", 401, token="", action=root_of(request) + LINK, problem=error.detail)
    return begin(held, request, token, fields.get("next", ""))


@router.post("/console/sign-out")
async def sign_out(visit: VisitDep) -> Response:
    await visit.form()
    held = visit.held
    name, where, secure = cookie(held.settings, visit.request.scope)

    def end() -> None:
        with held.database.write() as session:
            users.end_session(session, visit.token)

    await run_in_threadpool(end)
    response = see_other(SIGN_IN)
    response.delete_cookie(name, path=where, secure=secure, httponly=True, samesite="lax")
    response.headers["Clear-Site-Data"] = '"cache"'
    return response
