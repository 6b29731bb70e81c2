"""Pages of requests and jobs, and the register's summary, on databases of up to a million requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from app.api import deletions as deletion_api
from app.api import jobs as job_api
from app.api.http.paging import Pager, Span
from app.core import keys
from app.core.config import Settings
from app.core.db import Database
from app.core.keys import Caller
from app.deletions import compliance, figures
from app.rules.states import Decision, JobKind, JobState, RequestStatus
from benchmarks.loaded import loaded, minute
from benchmarks.posting import kinds

SIZES = (1_000, 100_000, 1_000_000)
PAGE = 50
WHO = Caller(keys.FIRST_TENANT, "key", frozenset(keys.SCOPES))
Listing = Callable[[Session, Pager], Any]


def pages() -> dict[str, object]:
    """The slowest of first, middle and last page of every list and filter, and how it grows.

    A page of the smallest size may not be full, so growth is measured between the other two.
    """
    measured: dict[str, object] = {}
    grown: list[float] = []
    for kind in kinds():
        slowest: dict[int, dict[str, float]] = {}
        for size in SIZES:
            with loaded(kind, size) as (settings, database, ids):
                slowest[size] = {name: _slowest(settings, database, size, name, ids) for name in _listings(ids, size)}
                began = time.perf_counter()
                found = compliance.summary(database, WHO.tenant_id)
                measured[f"{kind}_{size}_summary_s"] = time.perf_counter() - began
                began = time.perf_counter()
                counted = figures.of(database, WHO.tenant_id, None)
                measured[f"{kind}_{size}_figures_s"] = time.perf_counter() - began
                if not found["received"] == counted["received"] == size:
                    raise ValueError("not all are counted")
        for name, least in slowest[SIZES[-2]].items():
            most = slowest[SIZES[-1]][name]
            measured[f"{kind} {name}"] = " / ".join(f"{1000 * slowest[size][name]:.1f}" for size in SIZES) + " ms"
            grown.append((most - 0.005) / least)  # so much may be the noise of a busy machine
    return {
        "sizes": " / ".join(str(size) for size in SIZES),
        **measured,
        "worst_growth": max(grown),
        "gate": "no page of a million requests takes over twice the same page of a hundred thousand, and 5 ms",
        "gate_passed": max(grown) <= 2,
    }


def _listings(ids: dict[str, str], size: int) -> dict[str, Listing]:
    everything = Span(None, None)
    middle = minute(size // 2)
    around = Span(minute(size // 2 - 100), middle)

    def requests(session: Session, pager: Pager, received: Span = everything, **filters: Any) -> Any:
        return deletion_api.list_all(WHO, session, pager, received, **filters)

    def jobs(session: Session, pager: Pager, created: Span = everything, **filters: Any) -> Any:
        return job_api.list_all(WHO, session, pager, created, **filters)

    return {
        "requests": requests,
        "requests dataset": partial(requests, dataset=ids["dataset"]),
        "requests rare dataset": partial(requests, dataset=ids["rare_dataset"]),
        "requests model": partial(requests, model=ids["model"]),
        "requests rare model": partial(requests, model=ids["rare_model"]),
        "requests received": partial(requests, received=around),
        "requests due": partial(requests, due_before=f"{middle.isoformat()}Z"),
        "requests unanswered": partial(requests, unanswered=True),
        **{f"requests {status}": partial(requests, status=status) for status in RequestStatus},
        **{f"requests decision {d}": partial(requests, decision=d) for d in (Decision.HELD, Decision.ACCEPTED)},
        "jobs": jobs,
        "jobs request": partial(jobs, request=f"del_{size // 2:026d}"),
        "jobs model": partial(jobs, model=ids["rare_model"]),
        "jobs dataset": partial(jobs, dataset=ids["rare_dataset"]),
        "jobs kind": partial(jobs, kind=JobKind.TRAIN),
        "jobs state": partial(jobs, state=JobState.FAILED),
        "jobs created": partial(jobs, created=around),
    }


def _slowest(settings: Settings, database: Database, size: int, name: str, ids: dict[str, str]) -> float:
    listing = _listings(ids, size)[name]
    noun = "del" if name.startswith("requests") else "job"
    by_time = (noun == "del" and "model" not in name) or name == "jobs created"
    worst = 0.0
    for number in (None, size // 2, 60):
        took = []
        for _ in range(5):
            pager = Pager(settings, PAGE, None, ["bench"])
            if number is not None:
                last = f"{noun}_{number:026d}"
                pager.after = f"{minute(number).isoformat()} {last}" if by_time else last
            with database.read() as session:
                began = time.perf_counter()
                listing(session, pager)
                took.append(time.perf_counter() - began)
        worst = max(worst, min(took))
    return worst
