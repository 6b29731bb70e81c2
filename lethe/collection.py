"""What every noun of the API has: an object by its id, and the list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote

from lethe.transport import Transport

Item = TypeVar("Item")


class Collection(Generic[Item]):
    """Objects of one kind under `path`."""

    path: str

    def __init__(self, calls: Transport) -> None:
        self._calls = calls

    def get(self, thing: str) -> Item:
        return cast("Item", self._calls.get(self._at(thing)))

    def tagged(self, thing: str) -> tuple[Item, str]:
        """It and its ETag: `if_match` of a change, which is refused (412) if the document has changed since."""
        return self._calls.tagged(self._at(thing))

    def _at(self, thing: str) -> str:
        """Its address. thing: an id, or a name, whose characters may mean something else in an address."""
        return f"{self.path}/{quote(thing, safe='')}"

    def list(self, **filters: Any) -> Iterator[Item]:
        """Newest first; `filters` are the query parameters of the API."""
        return cast("Iterator[Item]", self._calls.pages(self.path, **filters))

    def _create(self, **body: Any) -> Item:
        return cast("Item", self._calls.post(self.path, body))

    def _verb(self, thing: str, verb: str, *, if_match: str | None = None, **body: Any) -> Any:
        return self._calls.post(f"{self._at(thing)}:{verb}", body, if_match=if_match)
