"""Liveness and readiness. Readiness is the database; broker and workers are reported, not required."""

from __future__ import annotations

import time

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from app.api.http.deps import Parts, PartsDep
from app.api.schemas import Readiness
from app.core.errors import Unavailable
from app.jobs import routing
from app.operations import metrics, sweepers

router = APIRouter(tags=["health"])
MOST_NAMED = 5
WITHOUT = {
    "worker": "no worker is alive: jobs are accepted and wait",
    "sweeper": "no sweeper is alive, and its log says why: webhooks, receipts, certificates and hints wait",
}


@router.get("/healthz")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "the database does not answer"}})
def ready(held: PartsDep) -> Readiness:
    """Requests are accepted while the database answers; what else is missing is named as degraded.

    A service that has just started is `starting` while all that it lacks is the first sign of life of a worker.
    """
    try:
        with held.database.read() as session:
            workers, unserved = len(routing.live(session)), routing.unserved(session)
            swept = sweepers.live(session) > 0
    except Exception:
        raise Unavailable("The database does not answer.", kind="database-unavailable") from None
    broker, storage = held.broker(), held.storage()
    missing = [part for part, is_there in (("worker", workers), ("sweeper", swept)) if not is_there]
    starting = bool(missing) and time.monotonic() - held.since < routing.ALIVE.total_seconds()
    if starting:
        degraded = [f"no {' and no '.join(missing)} has said yet that it is alive: jobs are accepted and wait"]
    else:
        degraded = [WITHOUT[part] for part in missing]
    if workers:
        degraded += [
            f"{count} wait for {routing.wanted(kind, device)}" for kind, device, count in unserved[:MOST_NAMED]
        ]
    degraded += [fault.words for fault in (broker, storage) if fault is not None]
    if storage is None and (left := _left(held)) < 0:
        short = -(left // 2**20)
        degraded.append(f"the disk is {short} MiB short of its reserve and the uploads under way: others are refused")
    return Readiness(
        status="starting" if starting and len(degraded) == 1 else "degraded" if degraded else "ready",
        database="ok",
        broker=broker.kind if broker else "ok" if held.settings.broker_url else "none",
        workers=workers,
        storage=storage.kind if storage else "ok",
        degraded=degraded,
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus text"}},
)
def read_metrics(held: PartsDep) -> Response:
    """Prometheus: jobs, queue age, deadlines, verdicts, stage seconds, workers. Names no tenant and no sample."""
    return Response(metrics.exposition(held.metrics), media_type=CONTENT_TYPE_LATEST)


def _left(held: Parts) -> int:
    """Bytes of the disk beside its reserve and what uploads claim; below 0 these are too many."""
    space = held.blobs.space()
    return space.free - space.claimed - held.settings.disk_reserve_bytes
