"""The HTTP application: routers, errors, lifespan. Never imports torch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app import db, keys, logs, metrics, schema
from app.api import (
    audits,
    catalog,
    compliance,
    contract,
    datasets,
    deletions,
    health,
    jobs,
    lineage,
    models,
    versions,
    webhooks,
)
from app.api import keys as api_keys
from app.api import (
    log as log_api,
)
from app.api.conditional import Conditional
from app.api.deps import Parts, Replay
from app.api.follow import Follower
from app.api.limits import BodyLimit
from app.api.observe import Observe
from app.api.shortcut import Shortcut
from app.config import Settings, get_settings
from app.errors import AppError, Conflict, NotFound, TooLarge, Unavailable, Unprocessable
from app.jobs import SupersededError
from app.lifecycle import IllegalMoveError
from app.storage import StorageUnavailableError
from app.web import api

log = logging.getLogger("lethe")
MOST_FAULTS = 100  # that one problem document lists
HUNG_UP = 499  # what logs and metrics call a request whose client did not wait for its end; nobody receives it


def create_app(settings: Settings | None = None) -> FastAPI:
    settings = settings or get_settings()
    parts = Parts(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        schema.check(parts.database)
        keys.bootstrap(parts.database, settings)
        app.state.follower = Follower(parts.database)
        task = asyncio.create_task(app.state.follower.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        parts.close()

    app = FastAPI(
        title="Lethe",
        summary="Unlearning as a service",
        version=version("lethe"),
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it would export bodies and exceptions' texts
        generate_unique_id_function=contract.operation_id,
    )
    contract.install(app)
    usual = {
        ("POST", "/v1/deletion-requests"): (deletions.create_usual, ""),
        ("GET", "/v1/deletion-requests/{request}"): (deletions.read_usual, "del"),
        ("GET", "/v1/jobs/{job}"): (jobs.read_usual, "job"),
    }
    app.add_middleware(Shortcut, parts=parts, routes=usual, handlers=app.exception_handlers)
    app.add_middleware(BodyLimit, limit=settings.max_json_bytes)
    app.add_middleware(Conditional, prefix="/v1/")
    app.add_middleware(Observe, latency=metrics.latency(parts.metrics), unexpected=_unexpected)
    app.state.parts = parts
    nouns = (
        catalog,
        datasets,
        models,
        lineage,
        versions,
        audits,
        compliance,
        webhooks,
        api_keys,
        log_api,
    )
    # A request is held against one route after the other: what is asked most comes first.
    for router in (deletions.router, jobs.polled, jobs.router, *(noun.router for noun in nouns)):
        app.include_router(router, prefix="/v1")
    app.include_router(health.router)
    _install_errors(app)

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    def docs() -> str:
        return api.render(app.openapi(), "/v1/openapi.json")

    return app


# -- errors ----------------------------------------------------------------------------------------


def _problem(error: AppError) -> JSONResponse:
    body = error.document()
    if request := logs.about("request"):
        body["request_id"] = request  # under which the service's log speaks of it
    return JSONResponse(body, error.status, headers=error.headers, media_type="application/problem+json")


def _unexpected(error: Exception) -> Response:
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return _problem(AppError("An unexpected error; it is in the service's log."))


def _install_errors(app: FastAPI) -> None:
    @app.exception_handler(AppError)
    def _app_error(_: Request, error: AppError) -> Response:
        return _problem(error)

    @app.exception_handler(Replay)
    def _replay(_: Request, error: Replay) -> Response:
        return error.response

    @app.exception_handler(IllegalMoveError)
    def _illegal(_: Request, error: IllegalMoveError) -> Response:
        return _problem(Conflict(f"{str(error).capitalize()}.", kind="illegal-move"))

    @app.exception_handler(ClientDisconnect)
    def _hung_up(_: Request, __: Exception) -> Response:
        return Response(status_code=HUNG_UP)

    @app.exception_handler(RequestValidationError)
    def _invalid(_: Request, error: RequestValidationError) -> Response:
        return _problem(
            Unprocessable(
                "The request does not fit its schema.",
                kind="schema",
                errors=[_fault(fault, error.body, app.openapi()) for fault in error.errors()[:MOST_FAULTS]],
            )
        )

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, ClientDisconnect):  # as FastAPI wraps it
            return _hung_up(request, error)
        if error.status_code == 400:  # FastAPI's word for a body that its JSON parser gave up on
            fault = {"in": "body", "pointer": "", "code": "json_invalid", "detail": str(error.detail)}
            return _problem(Unprocessable("The request does not fit its schema.", kind="schema", errors=[fault]))
        if error.status_code == 405:
            refused = AppError("This path does not take that method.", kind="method-not-allowed")
            refused.status, refused.title = 405, "Method not allowed"
            refused.headers = {"Allow": contract.allowed(app, request.scope)}
            return _problem(refused)
        known = {404: NotFound, 413: TooLarge}.get(error.status_code)
        found = known(str(error.detail)) if known else AppError(str(error.detail), kind="http", headers=error.headers)
        if known is None:
            found.status, found.title = error.status_code, str(error.detail)
        return _problem(found)

    @app.exception_handler(SupersededError)
    @app.exception_handler(OperationalError)
    @app.exception_handler(PoolTimeoutError)
    def _busy(_: Request, error: Exception) -> Response:
        if isinstance(error, OperationalError) and db.is_away(error):
            log.error("the database does not answer", exc_info=error)
            away = "The database does not answer, or takes nothing in."
            return _problem(Unavailable(away, kind="database-unavailable", headers={"Retry-After": "10"}))
        if isinstance(error, OperationalError) and not db.is_contention(error):
            return _unexpected(error)
        log.warning("a request met %s and was refused for now", type(error).__name__)
        return _problem(Unavailable("Try again.", kind="busy", headers={"Retry-After": "1"}))

    @app.exception_handler(StorageUnavailableError)
    def _storage(_: Request, error: StorageUnavailableError) -> Response:
        log.warning("a request was refused: %s", error)
        return _problem(
            Unavailable("The storage does not answer.", kind="storage-unavailable", headers={"Retry-After": "10"})
        )


def _fault(error: Any, body: Any, document: dict[str, Any]) -> dict[str, str]:
    """Where and why, without any value that was sent. An unknown key may itself be a sample id: it is named only
    where it is a word of this API, else by the word that it resembles."""
    place, *path = error["loc"]
    detail = error["msg"].removeprefix("Value error, ")
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
