"""Liveness and readiness. Readiness is the database; broker and workers are reported, not required."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import func, select

from app import db, metrics
from app.api.deps import PartsDep
from app.api.schemas import Readiness
from app.errors import Unavailable
from app.tables import Worker

router = APIRouter(tags=["health"])
ALIVE_SECONDS = 30


@router.get("/healthz")
def live() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "the database does not answer"}})
def ready(held: PartsDep) -> Readiness:
    """Requests are accepted while the database answers; what else is missing is named as degraded."""
    try:
        with held.database.read() as session:
            since = db.now(session) - timedelta(seconds=ALIVE_SECONDS)
            workers = session.scalars(select(func.count()).where(Worker.seen_at > since)).one()
    except Exception:
        raise Unavailable("The database does not answer.", kind="database-unavailable") from None
    broker = _broker(held.settings.broker_url)
    degraded = []
    if workers == 0:
        degraded.append("no worker is alive: jobs are accepted and wait")
    if broker == "unreachable":
        degraded.append("the broker is unreachable: jobs start when it returns")
    return Readiness(
        status="degraded" if degraded else "ready",
        database="ok",
        broker=broker,
        workers=workers,
        degraded=degraded,
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus text"}},
)
def read_metrics(held: PartsDep) -> Response:
    """Prometheus: jobs, queue age, deadlines, verdicts, stage seconds, workers. Names no tenant and no sample."""
    return Response(metrics.exposition(held.database), media_type=CONTENT_TYPE_LATEST)


def _broker(url: str) -> str:
    if not url:
        return "none"
    import redis  # only where there is a broker

    try:
        with redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1) as client:
            client.ping()
    except redis.RedisError:
        return "unreachable"
    return "ok"
