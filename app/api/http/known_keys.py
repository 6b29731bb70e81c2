"""Keys that were valid a moment ago: enough to admit a body, without a question to the database for each."""

from __future__ import annotations

import time
from collections.abc import Sequence

from app.api.http.group_commit import Grouped
from app.core import keys
from app.core.db import Database
from app.core.keys import Caller


class KnownKeys:
    """The callers behind keys that were valid a moment ago.

    A body is admitted on this, and nothing else: a key that is revoked meanwhile is refused by the call itself.
    """

    SECONDS = 5.0
    MOST = 10_000

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked: Grouped[str, Caller] = Grouped("keys", self._ask)
        self._known: dict[str, tuple[Caller, float]] = {}

    async def find(self, token: str) -> Caller:
        """Raises Unauthorized, as `keys.authenticate` does."""
        known = self._known.get(token)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        self._known.pop(token, None)
        who = await self._asked.submit(token)
        if len(self._known) >= self.MOST:
            self._known.pop(next(iter(self._known)))
        self._known[token] = (who, time.monotonic() + self.SECONDS)
        return who

    def close(self) -> None:
        self._asked.close()

    def _ask(self, tokens: list[str]) -> Sequence[Caller | Exception]:
        with self._database.read() as session:
            found = keys.authenticate_many(session, set(tokens))
        return [found[token] or keys.refusal() for token in tokens]
