"""Lists of pages: one page of an API list, and the address of the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from app.console.calls import Document
from app.console.visit import Visit, root_of


@dataclass(frozen=True)
class Listed:
    rows: list[Document]
    older: str  # address of the next page; empty at the end
    first: str  # address of the first page; empty on it


async def listed(visit: Visit, path: str, **filters: Any) -> Listed:
    """The page of the list that the address asks for; its rows are as many as the reader has chosen."""
    token = visit.request.query_params.get("page_token")
    found = await visit.api.get(path, page_size=visit.rows, page_token=token, **filters)
    return Listed(
        found["items"],
        _address(visit, page_token=found["next_page_token"]) if found["next_page_token"] else "",
        _address(visit, page_token=None) if token else "",
    )


def _address(visit: Visit, **changed: str | None) -> str:
    query = {**visit.request.query_params, **changed}
    path = root_of(visit.request) + visit.request.url.path
    return f"{path}?{urlencode({name: value for name, value in query.items() if value is not None})}"
