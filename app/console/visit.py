"""One visit of a page: who it is, the API on their behalf, forms that cannot be forged, refusals in words.

Whatever is refused, the session that has ended included, what was typed stays in the page to be sent again.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote, urlencode

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool

from app.api.http.deps import Parts, PartsDep
from app.api.http.rooms import MOST_OF_STRANGERS
from app.api.http.session_cookie import SIGN_IN
from app.console import words
from app.console.assets import asset
from app.console.calls import Api, Document, Refused
from app.core import logs, users
from app.core.errors import AppError, Forbidden, NotFound, TooLarge, Unauthorized, Unprocessable
from app.core.users import Visitor
from app.reports.numbers import decimal, percent, signed, true_minus
from app.reports.page import NOTHING_TO_DO

MOST_FIELDS = 500
ZONE, ROWS = "lethe-zone", "lethe-rows"
ROWS_OFFERED = (25, 50, 100, 200)
OWN = {"csrf", "once", "seen"}  # fields that forms have for themselves
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    named = (
        words.text,
        words.plain,
        words.status,
        words.state_word,
        words.kind,
        words.law,
        words.number,
        words.prose,
        words.copy,
    )
    further = (
        words.size,
        words.duration,
        words.tone_mark,
        words.points,
        words.labelled,
        words.place,
        decimal,
        percent,
        signed,
        true_minus,
    )
    environment.filters.update({each.__name__: each for each in (*named, *further)})
    environment.globals.update(
        nothing_to_do=NOTHING_TO_DO, count=words.count, asset=asset, new_once=lambda: secrets.token_hex(16)
    )
    return environment


PAGES = _environment()


class Form(dict[str, str]):
    """Fields by name. What was not sent is empty; `in` tells it apart."""

    def __missing__(self, name: str) -> str:
        return ""


class Visit:
    """A call of a page within a session."""

    def __init__(self, request: Request, held: Parts, token: str, who: Visitor) -> None:
        self.request, self.held, self.token, self.who = request, held, token, who
        self.api = Api(request, token)
        self.clock = words.Clock(request.cookies.get(ZONE, ""))

    def can(self, scope: str) -> bool:
        return scope in self.who.scopes

    @property
    def csrf(self) -> str:
        return users.csrf_token(self.held.settings, self.token)

    @property
    def rows(self) -> int:
        """Rows of a list: as chosen, now or earlier."""
        for given in (self.request.query_params.get("rows"), self.request.cookies.get(ROWS)):
            if given is not None and given.isascii() and given.isdigit() and int(given) in ROWS_OFFERED:
                return int(given)
        return ROWS_OFFERED[1]

    def page(self, template: str, *, status: int = 200, **shown: Any) -> HTMLResponse:
        made = PAGES.get_template(template).render(visit=self, clock=self.clock, **_places(self.request), **shown)
        response = HTMLResponse(made, status, HEADERS)
        if "rows" in self.request.query_params:
            self.remember(response, ROWS, str(self.rows))
        return response

    def remember(self, response: Response, name: str, value: str, path: str = "") -> None:
        """Keep a choice of the reader's for a year, for the pages under `/console` and this path."""
        where = f"{root_of(self.request)}/console{path}"
        response.set_cookie(name, value, max_age=31536000, path=where, samesite="lax", httponly=True)

    def recalled(self, name: str, path: str) -> Response | None:
        """The way to a list as it was looked at last, where its address says nothing else."""
        kept = "" if self.request.query_params else self.request.cookies.get(name, "")
        return see_other(f"/console{path}?{urlencode(parse_qsl(kept))}") if kept else None

    async def form(self) -> Form:
        """The fields that were sent.

        Raises:
            Forbidden: the form is not one of this session.
        """
        fields = await read_form(self.request, self.held.settings.max_json_bytes)
        self.request.state.typed = fields
        if not hmac.compare_digest(fields.get("csrf", "").encode(), self.csrf.encode()):
            raise Forbidden("This form is not of your session. Check what is in it, and send it again.", kind="csrf")
        return fields

    async def file(self) -> bytes:
        """A file that the page's script sends as it is, with the session's token in a header.

        Raises:
            Forbidden: not from a page of this session.
            TooLarge: it has more bytes than a body may.
        """
        self.request.state.typed = Form()
        if not hmac.compare_digest(self.request.headers.get("x-csrf-token", "").encode(), self.csrf.encode()):
            raise Forbidden(
                "This page is not of your session. Open it again, and send the file from there.", kind="csrf"
            )
        return await read_body(self.request, self.held.settings.max_json_bytes, "A file")


async def read_form(request: Request, most: int) -> Form:
    body = await read_body(request, most, "A form")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise TooLarge("The form has too many fields, or is not UTF-8.") from None
    return Form(pairs)


async def read_body(request: Request, most: int, what: str) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise TooLarge(f"{what} takes {words.size(most)} at most.")
    return bytes(body)


def lines_of(text: str) -> list[str]:
    """Names, one in each line. Lines end with LF or CRLF, and with no other mark, which a name may have in it. A byte
    order mark before the first, as files have it, is no part of the name."""
    return [line for line in text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n") if line.strip()]


def number_of(form: Form, name: str, usual: float) -> float:
    """A number as people write it; the usual one where nothing is typed.

    Raises:
        Unprocessable: it is none.
    """
    given = form.get(name, "").strip().replace(",", ".").replace("\u2212", "-")
    if not given:
        return usual
    try:
        found = float(given)
    except ValueError:
        found = float("nan")
    if found != found or abs(found) > 1e9:
        fault = {"pointer": f"/{name}", "detail": "must be a number"}
        raise Unprocessable("A number is missing, or is none.", kind="schema", errors=[fault])
    return found


def token_of(request: Request) -> str:
    """As `SessionCookie` put it where keys are."""
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def visit(request: Request, held: PartsDep) -> Visit:
    token = token_of(request)
    with held.database.read() as session:
        who = users.visitor(session, token) if token else None
    if who is None:
        raise Unauthorized("The session has ended.")
    logs.note(session=who.session_id)
    return Visit(request, held, token, who)


VisitDep = Annotated[Visit, Depends(visit)]


def root_of(request: Request) -> str:
    """The proxy's path before every address of ours, such as `/lethe`; empty without one."""
    return str(request.scope.get("root_path", ""))


def _places(request: Request) -> dict[str, str]:
    """What addresses in a page begin with, the page's own address, and the part of the navigation that it is in."""
    root, path = root_of(request), request.url.path
    return {"root": root, "path": root + path, "section": path.split("/")[2] if path.count("/") > 1 else ""}


def bare(request: Request, template: str, status: int = 200, **shown: Any) -> HTMLResponse:
    """A page without a session."""
    clock = words.Clock(request.cookies.get(ZONE, ""))
    made = PAGES.get_template(template).render(visit=None, clock=clock, **_places(request), **shown)
    return HTMLResponse(made, status, HEADERS)


def see_other(path: str) -> RedirectResponse:
    return RedirectResponse(path, 303, {"Cache-Control": "no-store"})


class PageRoute(APIRoute):
    """A route whose refusals are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except Unauthorized as error:
                if request.method == "GET":
                    raise  # `SessionCookie` leads the browser to the sign-in
                return await _refusal(request, error.document())
            except Refused as error:
                return await _refusal(request, error.problem)
            except AppError as error:
                return await _refusal(request, error.document())
            except RequestValidationError:
                return await _refusal(request, NotFound("There is no such page.").document())

        return answer


async def _refusal(request: Request, problem: Document) -> Response:
    """What was refused and why; of a form, with all that was typed."""
    status = int(problem.get("status", 500))
    typed: Form | None = getattr(request.state, "typed", None)
    if request.method == "POST" and typed is None and status != 413:
        try:
            typed = await read_form(request, MOST_OF_STRANGERS)
        except TooLarge:
            problem = {**problem, "detail": f"{problem['detail']} The form was too large to keep."}
        except AppError as error:  # it did not come, or there is no room for it
            if error.status != status:
                problem = {**problem, "detail": f"{problem['detail']} The form was not kept: {error.detail}"}
    if request.headers.get("hx-request"):
        return HTMLResponse(PAGES.get_template("problem.html.j2").render(problem=problem), status, HEADERS)
    held: Parts = request.app.state.parts
    shown = {
        "problem": problem,
        "lines": words.problem_lines(problem),
        "phrase": HTTPStatus(status).phrase,
        "typed": {name: value for name, value in (typed or {}).items() if name not in OWN},
        "own": {name: value for name, value in (typed or {}).items() if name in ("once", "seen")},
        "sign_in": f"{root_of(request)}{SIGN_IN}?next={quote(_back(request))}" if status == 401 else "",
        "back": root_of(request) + _back(request),
    }
    try:
        here = await run_in_threadpool(visit, request, held)
    except Unauthorized:
        return bare(request, "refused.html.j2", status, **shown)
    return here.page("refused.html.j2", status=status, **shown)


def _back(request: Request) -> str:
    """The page that the form was on: of `/console/requests/del_…/cancel` that of the request."""
    path = request.url.path
    return path.rpartition("/")[0] if request.method == "POST" else "/console"
