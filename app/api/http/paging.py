"""Keyset pages: a token holds the last id seen, and is bound to the tenant, the list and its filters. And the filter
that most lists have, a range of times."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import AfterValidator, BaseModel
from sqlalchemy import Select, literal, text, tuple_
from sqlalchemy.orm import Session

from app.api.http.patterns import MOMENT
from app.core.config import Settings
from app.core.errors import Unprocessable

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    items: list[Item]
    next_page_token: str | None


def matching(query: Select[Any], wanted: Mapping[Any, object]) -> Select[Any]:
    """The rows whose columns have these values; a value of None asks for nothing."""
    for column, value in wanted.items():
        if value is not None:
            query = query.where(column == value)
    return query


def _utc(text: str) -> str:
    """Held to RFC 3339 by the pattern; a day that no month has is refused here."""
    moment(text)
    return text


def moment(text: str) -> datetime:
    """UTC without a zone, as the database holds it, of an RFC 3339 time.

    Raises:
        ValueError: there is no such time.
    """
    try:
        return datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        raise ValueError("the time lies outside the years 1 to 9999") from None


Moment = Annotated[
    str,
    Query(
        pattern=MOMENT,
        json_schema_extra={"format": "date-time"},
        description="RFC 3339, as `2026-03-01T00:00:00Z`",
    ),
    AfterValidator(_utc),
]


@dataclass(frozen=True)
class Span:
    """Times from `after`, and before `before`."""

    after: datetime | None
    before: datetime | None

    def __bool__(self) -> bool:
        return self.after is not None or self.before is not None

    def of(self, query: Select[Any], column: Any) -> Select[Any]:
        if self.after is not None:
            query = query.where(column >= self.after)
        return query if self.before is None else query.where(column < self.before)

    def ending(self, before: datetime) -> Span:
        """What of it lies before that, too."""
        return Span(self.after, before if self.before is None else min(before, self.before))


async def created(created_after: Moment | None = None, created_before: Moment | None = None) -> Span:
    """Of a list: created at or after the one, and before the other."""
    return Span(
        None if created_after is None else moment(created_after),
        None if created_before is None else moment(created_before),
    )


Created = Annotated[Span, Depends(created)]


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

    def rows_of_either(
        self, session: Session, column: Any, queries: Mapping[Any, Select[Any]]
    ) -> tuple[list[Any], str | None]:
        """The same of rows that any of `queries` finds, each by the same id in a column of its own: every one walks
        its own index."""
        found: dict[str, Any] = {}
        for own, query in queries.items():
            part = query if self.after is None else query.where(own < self.after, column < self.after)
            with _index_order(session):
                found |= {row.id: row for row in session.scalars(part.order_by(own.desc()).limit(self.size + 1))}
        rows = [found[name] for name in sorted(found, reverse=True)]
        last = rows[: self.size][-1].id if len(rows) > self.size else None
        return rows[: self.size], None if last is None else self._seal(last)

    def rows_by_name(self, session: Session, query: Select[Any], column: Any) -> tuple[list[Any], str | None]:
        """The same, in rising order of the text in `column`."""
        if self.after is not None:
            query = query.where(column > self.after)
        return self._cut(list(session.scalars(query.order_by(column).limit(self.size + 1))), column)

    def rows_by_number(self, session: Session, query: Select[Any], column: Any) -> tuple[list[Any], str | None]:
        """The same, in rising order of the integer in `column`."""
        if self.after is not None:
            query = query.where(column > int(self.after))
        return self._cut(list(session.scalars(query.order_by(column).limit(self.size + 1))), column)

    def rows_by_time(
        self, session: Session, query: Select[Any], time: Any, column: Any, span: Span
    ) -> tuple[list[Any], str | None]:
        """The same, newest first by a `time` within `span`, for rows whose unique `column` does not rise with it."""
        if self.after is not None:
            at, last = self._time_after(self.after)
            query = query.where(tuple_(time, column) < tuple_(literal(at), literal(last)))
            # What comes after the last row is before the span's end anyway. SQLite would take that end for the place
            # to begin at, and walk from there.
            span = Span(span.after, None)
        query = span.of(query, time)
        with _index_order(session):
            found = list(session.scalars(query.order_by(time.desc(), column.desc()).limit(self.size + 1)))
        if len(found) <= self.size:
            return found, None
        end = found[self.size - 1]
        return found[: self.size], self._seal(f"{getattr(end, time.key).isoformat()} {getattr(end, column.key)}")

    def rows_by_time_rising(
        self, session: Session, query: Select[Any], time: Any, column: Any
    ) -> tuple[list[Any], str | None]:
        """The same, the earliest first."""
        if self.after is not None:
            at, last = self._time_after(self.after)
            query = query.where(tuple_(time, column) > tuple_(literal(at), literal(last)))
        with _index_order(session):
            found = list(session.scalars(query.order_by(time, column).limit(self.size + 1)))
        if len(found) <= self.size:
            return found, None
        end = found[self.size - 1]
        return found[: self.size], self._seal(f"{getattr(end, time.key).isoformat()} {getattr(end, column.key)}")

    def _time_after(self, last: str) -> tuple[datetime, str]:
        at, _, name = last.partition(" ")
        try:
            return datetime.fromisoformat(at), name
        except ValueError:  # of an earlier version, where the list had another order
            raise self._refused() from None

    def _cut(self, found: list[Any], column: Any) -> tuple[list[Any], str | None]:
        if len(found) <= self.size:
            return found, None
        return found[: self.size], self._seal(str(getattr(found[self.size - 1], column.key)))


@contextmanager
def _index_order(session: Session) -> Iterator[None]:
    """Have PostgreSQL walk the index that a list of requests has for its order: its guess of how few rows a status
    leaves is wrong by orders of magnitude, and a sort reads all of them."""
    if session.get_bind().dialect.name != "postgresql":
        yield
        return
    session.execute(_NO_SORT)
    yield
    session.execute(_SORT)


_NO_SORT = text("SELECT set_config('enable_sort', 'off', true)")
_SORT = text("SELECT set_config('enable_sort', 'on', true)")
