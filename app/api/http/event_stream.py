"""One task reads new job events for everybody who follows one; nobody holds a thread or a session while waiting.

It also ends streams: those that are old enough, whose clients continue by `Last-Event-ID`, and those whose key is no
longer valid.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from app.core import keys
from app.core.db import Database
from app.core.tables import JobEvent

log = logging.getLogger("lethe.follow")


@dataclass(frozen=True)
class Event:
    number: int
    job_id: str
    kind: str
    data: dict[str, Any]


Events = asyncio.Queue[Event | None]
"""What a subscriber gets; None is the end of the stream."""
CHECK_SECONDS = 20.0  # between two looks at the keys of streams


class Follower:
    """The broadcaster: per job one position, per subscriber one queue. `oldest`: seconds after which a stream ends."""

    def __init__(
        self, database: Database, oldest: float, poll_seconds: float = 0.2, check_seconds: float = CHECK_SECONDS
    ) -> None:
        self._database = database
        self._poll, self._oldest, self._check = poll_seconds, oldest, check_seconds
        self._followed: dict[str, list[_Stream]] = defaultdict(list)
        self._seen: dict[str, int] = {}

    @asynccontextmanager
    async def subscribe(self, job_id: str, after: int, token: str) -> AsyncIterator[Events]:
        """Events of `job_id` numbered above `after`: first what is stored, then what comes, while the key is valid."""
        stored = await run_in_threadpool(self._load, {job_id: after})
        stream = _Stream(token, after)
        stream.put(stored)
        # A job is read from the position of its slowest subscriber; the others skip what they have had.
        self._seen[job_id] = min(self._seen.get(job_id, stream.last), stream.last)
        self._followed[job_id].append(stream)
        try:
            yield stream.events
        finally:
            self._followed[job_id].remove(stream)
            if not self._followed[job_id]:
                del self._followed[job_id], self._seen[job_id]

    async def run(self) -> None:
        """Poll for as long as the application lives."""
        checked = time.monotonic()
        while True:
            await asyncio.sleep(self._poll)
            if not self._seen:
                continue
            try:
                asked = dict(self._seen)
                self._deliver(asked, await run_in_threadpool(self._load, asked))
                if time.monotonic() - checked >= min(self._check, self._oldest):
                    checked = time.monotonic()
                    await self._end_some(checked)
            except Exception:
                log.exception("reading job events failed; trying again")

    async def _end_some(self, now: float) -> None:
        streams = [stream for followers in self._followed.values() for stream in followers]
        valid = await run_in_threadpool(self._valid, {stream.token for stream in streams})
        for stream in streams:
            if stream.token not in valid or now - stream.since >= self._oldest:
                stream.events.put_nowait(None)

    def _valid(self, tokens: set[str]) -> set[str]:
        with self._database.read() as session:
            return {token for token, who in keys.authenticate_many(session, tokens).items() if who is not None}

    def _deliver(self, asked: dict[str, int], found: list[Event]) -> None:
        """Hand out the events read after the positions `asked`. Jobs whose position a new subscriber has set back are
        left to the next round, which reads the earlier events too."""
        unmoved = {job_id for job_id, position in asked.items() if self._seen.get(job_id) == position}
        for event in found:
            if event.job_id in unmoved:
                self._seen[event.job_id] = event.number
                for stream in self._followed[event.job_id]:
                    stream.put([event])

    def _load(self, positions: dict[str, int]) -> list[Event]:
        with self._database.read() as session:
            query = (
                select(JobEvent)
                .where(JobEvent.job_id.in_(positions), JobEvent.number > min(positions.values()))
                .order_by(JobEvent.number)
            )
            return [
                Event(row.number, row.job_id, row.kind, row.data)
                for row in session.scalars(query)
                if row.number > positions[row.job_id]
            ]


class _Stream:
    """One subscriber: whose it is, since when, and the number of the last event that it has had."""

    def __init__(self, token: str, last: int) -> None:
        self.token, self.last = token, last
        self.since = time.monotonic()
        self.events: Events = asyncio.Queue()

    def put(self, events: Sequence[Event]) -> None:
        """Hand over what is newer than it has had."""
        for event in events:
            if event.number > self.last:
                self.last = event.number
                self.events.put_nowait(event)
