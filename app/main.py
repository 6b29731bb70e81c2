"""The HTTP application: routers, middleware, lifespan. Never imports torch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from importlib.metadata import version

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from app.api import (
    aliases,
    audits,
    cases,
    catalog,
    compliance,
    datasets,
    deletions,
    health,
    jobs,
    models,
    shards,
    verifying,
    versions,
    webhooks,
)
from app.api import keys as api_keys
from app.api import log as log_api
from app.api.http import contract, docs_page, failures, session_cookie
from app.api.http.admission import Admission, Routes
from app.api.http.conditional import Conditional
from app.api.http.connections import Crowd
from app.api.http.deps import Parts, known_query
from app.api.http.event_stream import Follower
from app.api.http.fast_path import Shortcut
from app.api.http.head import Head
from app.api.http.observe import Observe
from app.api.http.preferences import prefers
from app.api.http.prefix import Prefix
from app.api.http.session_cookie import SessionCookie
from app.console import router as console
from app.console.assets import asset
from app.core import keys, users
from app.core.causes import cause
from app.core.config import Settings, get_settings
from app.formats import sandbox
from app.operations import agreement, metrics, migrate

log = logging.getLogger("lethe.api")
SWEEP_SECONDS = 60.0


def create_app(settings: Settings | None = None) -> FastAPI:
    settings = settings or get_settings()
    parts = Parts(settings)
    sandbox.keep_in(settings.looking_dir)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Crowd]]:
        migrate.check(parts.database)
        agreement.check(parts.database, settings)
        keys.bootstrap(parts.database, settings)
        app.state.follower = Follower(parts.database, settings.event_stream_seconds)
        crowd = Crowd(settings)
        tasks = [asyncio.create_task(app.state.follower.run()), asyncio.create_task(crowd.watch())]
        tasks.append(asyncio.create_task(_sweep(parts)))
        yield {"crowd": crowd}
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        parts.close()

    app = FastAPI(
        title="Lethe",
        summary="Unlearning as a service",
        version=version("lethe-unlearning"),
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it would export bodies and exceptions' texts
        generate_unique_id_function=contract.operation_id,
        routes=list(_routes()),
    )
    contract.install(app)
    usual = {
        ("POST", "/v1/deletion-requests"): (deletions.create_usual, ""),
        ("GET", "/v1/deletion-requests/{request}"): (deletions.read_usual, "del"),
        ("GET", "/v1/jobs/{job}"): (jobs.read_usual, "job"),
    }
    app.add_middleware(Shortcut, parts=parts, routes=usual, handlers=app.exception_handlers)
    app.add_middleware(Admission, parts=parts, routes=_guarded(), handlers=app.exception_handlers)
    app.add_middleware(Conditional, prefix="/v1/")
    app.add_middleware(SessionCookie, settings=settings)
    app.add_middleware(Head)
    app.add_middleware(Observe, latency=metrics.latency(parts.metrics), unexpected=failures.unexpected)
    app.add_middleware(Prefix, root_path=settings.root_path)
    app.state.parts = parts
    app.include_router(health.router)
    for router in console.ROUTERS:
        app.include_router(router)
    failures.install(app)

    app.get("/", include_in_schema=False)(_first)
    app.get("/docs", include_in_schema=False, response_class=HTMLResponse)(_docs)
    app.get("/docs/all", include_in_schema=False, response_class=HTMLResponse)(_whole_docs)
    app.get("/docs/parts/{name}", include_in_schema=False, response_class=HTMLResponse)(_docs_part)
    return app


async def _sweep(parts: Parts) -> None:
    """Remove what other processes of this machine left when they were killed, and copies of what was erased."""
    while True:
        for sweep in (partial(sandbox.sweep, parts.settings.looking_dir), parts.blobs.sweep_copies):
            try:
                await run_in_threadpool(sweep)
            except Exception as error:
                log.warning("what is left on this machine could not be removed: %s", cause(error))
        await asyncio.sleep(SWEEP_SECONDS)


# A request is held against one route after the other: what is asked most comes first.
ROUTERS = (
    deletions.router,
    jobs.polled,
    jobs.router,
    jobs.workers,
    catalog.router,
    datasets.router,
    datasets.seeing,
    shards.router,
    models.router,
    aliases.router,
    versions.router,
    audits.router,
    compliance.router,
    cases.router,
    verifying.router,
    webhooks.router,
    api_keys.router,
    log_api.router,
    versions.by_id,
)


@cache
def _routes() -> Sequence[BaseRoute]:
    """What is served under `/v1`. Once a process: who includes a router reads the signatures of its endpoints anew."""
    served = APIRouter(generate_unique_id_function=contract.operation_id)
    for router in ROUTERS:
        served.include_router(router, prefix="/v1", dependencies=[Depends(known_query)])
    return served.routes


@cache
def _guarded() -> Routes:
    return Routes(ROUTERS, "/v1")


def _first(request: Request) -> Response:
    """A browser is led to the console; to other clients there is nothing here."""
    if prefers("text/html", request.headers.get("accept", "")):
        return RedirectResponse("/console", 303)
    raise HTTPException(404)


def _docs(request: Request, response: Response) -> str:
    return _page(request, response, brief=True)


def _page(request: Request, response: Response, *, brief: bool) -> str:
    """With what calls need beside the cookie, where the browser is in a session of the console."""
    settings: Settings = request.app.state.parts.settings
    token = session_cookie.of(settings, request.scope)
    csrf = users.csrf_token(settings, token) if token else ""
    root = request.scope.get("root_path", "")
    response.headers["Cache-Control"] = "no-store" if csrf else "no-cache"
    script = f"{root}/console/assets/{asset('docs').name}"
    return docs_page.render(request.app.openapi(), f"{root}/v1/openapi.json", script, csrf, brief=brief)


def _whole_docs(request: Request, response: Response) -> str:
    return _page(request, response, brief=False)


def _docs_part(request: Request, name: str) -> str:
    if (found := docs_page.part(request.app.openapi(), name)) is None:
        raise HTTPException(404)
    return found
