"""Audits of a model's canaries, by the version that they measured."""

from __future__ import annotations

import asyncio

from app.console import charts
from app.console.calls import Api, Document


async def by_version(api: Api, model_id: str) -> list[tuple[int, float]]:
    """Version and FT-AUC of its newest audit on canaries, in the order of the versions."""
    jobs = await api.get("/jobs", model=model_id, kind="audit", state="succeeded", page_size=charts.MOST)
    found = await asyncio.gather(*(_audit(api, job) for job in jobs["items"]))
    points: dict[int, float] = {}
    for each in found:  # the newest first
        if each is not None:
            points.setdefault(*each)
    return sorted(points.items())


async def _audit(api: Api, job: Document) -> tuple[int, float] | None:
    found = await api.find(f"/jobs/{job['id']}/audit")
    report = found["report"] if found else {}
    if report.get("of") != "canaries" or report["sham"] or report["version"] is None:
        return None
    auc = report["candidate"]["ft_auc"]
    return (report["version"], auc["value"]) if auc else None
