"""Keyset pages: a token holds the last id seen, and is bound to the tenant, the list and its filters."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from sqlalchemy import Select
from sqlalchemy.orm import Session

from app.config import Settings
from app.errors import Unprocessable

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    items: list[Item]
    next_page_token: str | None


class Pager:
    """Pages of one list for one caller; `scope` names the list, tenant and filters that a token is good for."""

    def __init__(self, settings: Settings, size: int, token: str | None, scope: Sequence[object]) -> None:
        self._key = hmac.new(settings.secret_bytes(), b"page", hashlib.sha256).digest()
        self._scope = "\x00".join("" if part is None else str(part) for part in scope)
        self.size = size
        self.after = self._open(token) if token else None

    def _mac(self, last: str) -> bytes:
        return hmac.new(self._key, f"{self._scope}\x00{last}".encode(), hashlib.sha256).digest()[:16]

    def _seal(self, last: str) -> str:
        return base64.urlsafe_b64encode(self._mac(last) + last.encode()).decode().rstrip("=")

    def _open(self, token: str) -> str:
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
            last = raw[16:].decode()
        except (ValueError, UnicodeDecodeError):
            raise self._refused() from None
        if not hmac.compare_digest(raw[:16], self._mac(last)):
            raise self._refused()
        return last

    @staticmethod
    def _refused() -> Unprocessable:
        return Unprocessable("The page token is not one of this list with these filters.", kind="page-token")

    def rows(self, session: Session, query: Select[Any], column: Any) -> tuple[list[Any], str | None]:
        """One page of `query`, newest first by the id in `column`, and the token of the next."""
        if self.after is not None:
            query = query.where(column < self.after)
        return self._cut(list(session.scalars(query.order_by(column.desc()).limit(self.size + 1))), column)

    def rows_by_number(self, session: Session, query: Select[Any], column: Any) -> tuple[list[Any], str | None]:
        """The same, in rising order of the integer in `column`."""
        if self.after is not None:
            query = query.where(column > int(self.after))
        return self._cut(list(session.scalars(query.order_by(column).limit(self.size + 1))), column)

    def _cut(self, found: list[Any], column: Any) -> tuple[list[Any], str | None]:
        if len(found) <= self.size:
            return found, None
        return found[: self.size], self._seal(str(getattr(found[self.size - 1], column.key)))
