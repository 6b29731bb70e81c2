"""One task reads new job events for everybody who follows one; nobody holds a thread or a session while waiting."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from app.core.db import Database
from app.core.tables import JobEvent

log = logging.getLogger("lethe.follow")


@dataclass(frozen=True)
class Event:
    number: int
    job_id: str
    kind: str
    data: dict[str, Any]


class Follower:
    """The broadcaster: per job one position, per subscriber one queue."""

    def __init__(self, database: Database, poll_seconds: float = 0.2) -> None:
        self._database = database
        self._poll = poll_seconds
        self._queues: dict[str, list[asyncio.Queue[Event]]] = defaultdict(list)
        self._seen: dict[str, int] = {}

    @asynccontextmanager
    async def subscribe(self, job_id: str, after: int) -> AsyncIterator[asyncio.Queue[Event]]:
        """Events of `job_id` numbered above `after`: first what is stored, then what comes."""
        queue: asyncio.Queue[Event] = asyncio.Queue()
        stored = await run_in_threadpool(self._load, {job_id: after})
        for event in stored:
            queue.put_nowait(event)
        last = max((event.number for event in stored), default=after)
        # A job is read from the position of its slowest subscriber; the others skip what they have had.
        self._seen[job_id] = min(self._seen.get(job_id, last), last)
        watch = _Skipping(queue, last)
        self._queues[job_id].append(watch)
        try:
            yield queue
        finally:
            self._queues[job_id].remove(watch)
            if not self._queues[job_id]:
                del self._queues[job_id], self._seen[job_id]

    async def run(self) -> None:
        """Poll for as long as the application lives."""
        while True:
            await asyncio.sleep(self._poll)
            if not self._seen:
                continue
            try:
                asked = dict(self._seen)
                self._deliver(asked, await run_in_threadpool(self._load, asked))
            except Exception:
                log.exception("reading job events failed; trying again")

    def _deliver(self, asked: dict[str, int], found: list[Event]) -> None:
        """Hand out the events read after the positions `asked`. Jobs whose position a new subscriber has set back are
        left to the next round, which reads the earlier events too."""
        unmoved = {job_id for job_id, position in asked.items() if self._seen.get(job_id) == position}
        for event in found:
            if event.job_id in unmoved:
                self._seen[event.job_id] = event.number
                for queue in self._queues[event.job_id]:
                    queue.put_nowait(event)

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


class _Skipping(asyncio.Queue[Event]):
    """Forwards to a subscriber's queue what is newer than it has had."""

    def __init__(self, target: asyncio.Queue[Event], last: int) -> None:
        super().__init__()
        self._target, self._last = target, last

    def put_nowait(self, event: Event) -> None:
        if event.number > self._last:
            self._last = event.number
            self._target.put_nowait(event)
