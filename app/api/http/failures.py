"""What goes wrong, as problem documents (RFC 9457): one handler for each kind of exception."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.api.http import contract, patterns
from app.api.http.deps import Replay
from app.blobs.folder import StorageRefusedError, StorageUnavailableError
from app.core import db, logs
from app.core.errors import AppError, Conflict, NotFound, SupersededError, TooLarge, Unavailable, Unprocessable
from app.rules.states import IllegalMoveError

log = logging.getLogger("lethe")
MOST_FAULTS = 100  # that one problem document lists
HUNG_UP = 499  # what logs and metrics call a request whose client did not wait for its end; nobody receives it


def problem(error: AppError) -> JSONResponse:
    body = error.document()
    if request := logs.about("request"):
        body["request_id"] = request  # under which the service's log speaks of it
    return JSONResponse(body, error.status, headers=error.headers, media_type="application/problem+json")


def unexpected(error: Exception) -> Response:
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return problem(AppError("An unexpected error; it is in the service's log."))


def reply(error: Exception, request: Request, handlers: Mapping[Any, Callable[[Any, Any], Any]]) -> Response:
    """What the handler of its kind says. Raises `error` where there is none: `Observe` answers it."""
    handle = next((handlers[kind] for kind in type(error).__mro__ if kind in handlers), None)
    if handle is None:
        raise error
    response: Response = handle(request, error)
    return response


def install(app: FastAPI) -> None:
    @app.exception_handler(AppError)
    def _app_error(_: Request, error: AppError) -> Response:
        return problem(error)

    @app.exception_handler(Replay)
    def _replay(_: Request, error: Replay) -> Response:
        return error.response

    @app.exception_handler(IllegalMoveError)
    def _illegal(_: Request, error: IllegalMoveError) -> Response:
        return problem(Conflict(f"{str(error).capitalize()}.", kind="illegal-move"))

    @app.exception_handler(ClientDisconnect)
    def _hung_up(_: Request, __: Exception) -> Response:
        return Response(status_code=HUNG_UP)

    @app.exception_handler(RequestValidationError)
    def _invalid(_: Request, error: RequestValidationError) -> Response:
        return problem(
            Unprocessable(
                "The request does not fit its schema.",
                kind="schema",
                errors=[_fault(fault, error.body, app.openapi()) for fault in _faults(error)[:MOST_FAULTS]],
            )
        )

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, ClientDisconnect):  # as FastAPI wraps it
            return _hung_up(request, error)
        if isinstance(error.__cause__, AppError):  # of a body that was refused while it came
            return problem(error.__cause__)
        if error.status_code == 400:  # FastAPI's word for a body that its JSON parser gave up on
            fault = {"in": "body", "pointer": "", "code": "json_invalid", "detail": str(error.detail)}
            return problem(Unprocessable("The request does not fit its schema.", kind="schema", errors=[fault]))
        if error.status_code == 405:
            refused = AppError("This path does not take that method.", kind="method-not-allowed")
            refused.status, refused.title = 405, "Method not allowed"
            refused.headers = {"Allow": contract.allowed(app, request.scope)}
            return problem(refused)
        if error.status_code == 404:  # of the router alone: what is missing behind a path is an AppError
            return problem(NotFound("There is nothing at this path; /docs lists every path."))
        if error.status_code == 413:
            return problem(TooLarge(str(error.detail)))
        found = AppError(str(error.detail), kind="http", headers=error.headers)
        found.status, found.title = error.status_code, str(error.detail)
        return problem(found)

    @app.exception_handler(SupersededError)
    @app.exception_handler(OperationalError)
    @app.exception_handler(PoolTimeoutError)
    def _busy(_: Request, error: Exception) -> Response:
        if isinstance(error, OperationalError) and db.is_away(error):
            log.error("the database does not answer", exc_info=error)
            away = "The database does not answer, or takes nothing in."
            return problem(Unavailable(away, kind="database-unavailable", headers={"Retry-After": "10"}))
        if isinstance(error, OperationalError) and not db.is_contention(error):
            return unexpected(error)
        log.warning("a request met %s and was refused for now", type(error).__name__)
        return problem(Unavailable("Try again.", kind="busy", headers={"Retry-After": "1"}))

    @app.exception_handler(StorageUnavailableError)
    def _storage(_: Request, error: StorageUnavailableError) -> Response:
        log.warning("a request was refused: %s", error)
        said, pause = "The storage does not answer.", "10"
        if isinstance(error, StorageRefusedError):
            said, pause = "The storage refuses until its operator changes something; /readyz says what.", "60"
        return problem(Unavailable(said, kind="storage-unavailable", headers={"Retry-After": pause}))


def _faults(error: RequestValidationError) -> list[Any]:
    """But for those that only repeat that another member is wrong, from which a default would have followed."""
    return [fault for fault in error.errors() if fault["type"] != "default_factory_not_called"]


def _fault(error: Any, body: Any, document: dict[str, Any]) -> dict[str, str]:
    """Where and why, without any value that was sent. An unknown key may itself be a sample id: it is named only
    where it is a word of this API, else by the word that it resembles."""
    place, *path = error["loc"]
    detail = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_pattern_mismatch" and (form := patterns.WORDS.get(error["ctx"]["pattern"])):
        detail = f"must be {form}"
    if error["type"] in ("model_attributes_type", "model_type", "dict_type"):  # whose messages speak of Python
        detail = "must be an object: `{…}`"
    if error["type"] == "union_tag_invalid":  # its message repeats the tag
        detail = f"{error['ctx']['discriminator']} must be one of {error['ctx']['expected_tags']}"
    if error["type"] == "extra_forbidden" and path[-1] not in (words := contract.words(document)):
        near = get_close_matches(str(path.pop())[:64], words, 1, 0.75)
        detail += f"; did you mean `{near[0]}`?" if near else ""
    if place == "body":
        path = _steps(path, body)
    pointer = "".join(f"/{part}" for part in path)
    return {"in": str(place), "pointer": pointer, "code": error["type"], "detail": detail}


def _steps(path: list[Any], at: Any) -> list[Any]:
    """Those steps of a validation path that lead into the body; pydantic adds names of union members."""
    steps = []
    for number, part in enumerate(path, 1):
        if (isinstance(at, dict) and part in at) or (isinstance(at, list) and isinstance(part, int)):
            at = at[part]
            steps.append(part)
        elif number == len(path) and isinstance(at, dict):  # a field that is missing
            steps.append(part)
    return steps
