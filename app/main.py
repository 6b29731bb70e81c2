"""The HTTP application: routers, errors, lifespan. Never imports torch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from app import keys, schema
from app.api import catalog, datasets, deletions, health, jobs, models, versions
from app.api.deps import Parts, Replay
from app.api.follow import Follower
from app.config import Settings, get_settings
from app.errors import AppError, Conflict, NotFound, TooLarge, Unprocessable
from app.lifecycle import IllegalMoveError

log = logging.getLogger("lethe")
UPLOADS = ("/v1/datasets/{dataset}/content", "/v1/models/{model}/versions/{number}/checkpoint")


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
        parts.database.close()

    app = FastAPI(
        title="Lethe",
        summary="Unlearning as a service",
        version=version("lethe"),
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url="/docs",
        redoc_url=None,
        max_body_size=settings.max_json_bytes,
    )
    app.state.parts = parts
    for noun in (catalog, datasets, models, versions, deletions, jobs):
        app.include_router(noun.router, prefix="/v1")
    app.include_router(health.router)
    _install_errors(app)
    return app


# -- errors ----------------------------------------------------------------------------------------


def _problem(error: AppError) -> JSONResponse:
    return JSONResponse(
        error.document(), error.status, headers=error.headers, media_type="application/problem+json"
    )


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

    @app.exception_handler(RequestValidationError)
    def _invalid(_: Request, error: RequestValidationError) -> Response:
        return _problem(
            Unprocessable("The request does not fit its schema.", kind="schema", errors=map(_fault, error.errors()))
        )

    @app.exception_handler(HTTPException)
    def _http(_: Request, error: HTTPException) -> Response:
        known = {404: NotFound, 413: TooLarge}.get(error.status_code)
        found = (
            known(str(error.detail)) if known else AppError(str(error.detail), kind="http", headers=error.headers)
        )
        if known is None:
            found.status, found.title = error.status_code, str(error.detail)
        return _problem(found)

    @app.exception_handler(Exception)
    def _unexpected(_: Request, error: Exception) -> Response:
        log.error("unexpected %s", type(error).__name__, exc_info=error)
        return _problem(AppError("An unexpected error; it is in the service's log."))


def _fault(error: Any) -> dict[str, str]:
    """Where and why, without any value that was sent: an unknown key may itself be a sample id."""
    place, *path = error["loc"]
    if error["type"] == "extra_forbidden":
        path = path[:-1]
    pointer = "".join(f"/{part}" for part in path)
    return {"in": str(place), "pointer": pointer, "detail": error["msg"]}
