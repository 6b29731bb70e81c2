"""GET /catalog: every name with the JSON Schema of its parameters."""

from __future__ import annotations

from functools import cache

from fastapi import APIRouter

from app import catalog
from app.api.http.deps import BY_METHOD, CallerDep, problems
from app.api.schemas import CatalogEntry

router = APIRouter(tags=["catalog"], dependencies=[BY_METHOD])


@router.get("/catalog", responses=problems(403))
def read_catalog(_: CallerDep) -> dict[str, dict[str, CatalogEntry]]:
    """Methods, attacks, audits, architectures, recipes and sources by name."""
    return _whole()


@cache
def _whole() -> dict[str, dict[str, CatalogEntry]]:
    """Once a process: its names are fixed when it starts, and their schemas take a tenth of a second to make."""
    return {
        kind: {
            name: CatalogEntry(
                summary=entry.summary,
                params=entry.params.model_json_schema(),
                needs_remain=entry.needs_remain,
                needs_adversarial=entry.needs_adversarial,
                needs_given=entry.needs_given,
                exact=entry.exact,
                plugin=entry.plugin,
                module=entry.module or None,
            )
            for name, entry in entries.items()
        }
        for kind, entries in catalog.KINDS.items()
    }
