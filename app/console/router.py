"""Every page of the console, the ones that are asked for most first."""

from __future__ import annotations

from fastapi import APIRouter

from app.console import (
    assets,
    audits,
    cases,
    datasets,
    figures,
    jobs,
    letters,
    models,
    oidc,
    requests,
    settings,
    signing_in,
    today,
    versions,
)
from app.console.visit import PageRoute, VisitDep
from app.core.errors import NotFound

rest = APIRouter(route_class=PageRoute, include_in_schema=False)


@rest.get("/console/{path:path}")
async def nothing(visit: VisitDep, path: str) -> None:  # noqa: ARG001
    raise NotFound("There is no such page.")


ROUTERS = (
    assets.router,
    today.router,
    cases.router,
    requests.router,
    jobs.router,
    models.router,
    versions.router,
    audits.router,
    datasets.router,
    figures.router,
    letters.router,
    settings.router,
    signing_in.router,
    oidc.router,
    rest,
)
