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


async def listed(visit: Visit, path: str, /, at: str = "page_token", **filters: Any) -> Listed:
    """The page of the list that the address asks for; its rows are as many as the reader has chosen.

    at: the parameter of the address that says which page; a page with several lists has one for each.
    """
    token = visit.request.query_params.get(at)
    found = await visit.api.get(path, page_size=visit.rows, page_token=token, **filters)
    return Listed(
        found["items"],
        _address(visit, **{at: found["next_page_token"]}) if found["next_page_token"] else "",
        _address(visit, **{at: None}) if token else "",
    )


def _address(visit: Visit, **changed: str | None) -> str:
    query = {**visit.request.query_params, **changed}
    path = root_of(visit.request) + visit.request.url.path
    return f"{path}?{urlencode({name: value for name, value in query.items() if value is not None})}"
