"""Group commit: what many requests wait for at the same time is done in one transaction, and each gets its own reply.

No request waits for a time: under little load the groups are of one; under much load they grow, and a durable commit
is shared by all of a group.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Task = TypeVar("Task")
Reply = TypeVar("Reply")


class Grouped(Generic[Task, Reply]):
    """Calls `work` on threads of its own with groups of at most `most` tasks, in the order in which they came.

    The groups of one lane run one after the other. Up to `threads` lanes run at the same time, so that a lane that
    waits for a locked row does not stop the others. A group is closed once its tasks weigh more than `heaviest` by
    `weigh`, because a group that is too much for the database would be refused to all of its clients.

    `work` returns for every task, in their order, a reply or an exception of that task. An exception that it raises is
    the answer to every task. All of this is called on one event loop, which closes a group when one pass brings no
    further task: clients that were answered together call again at about the same time. The first of them alone would
    make a group of its own, which costs half as much as the group of all the others and keeps them waiting.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[Task]], Sequence[Reply | Exception]],
        *,
        threads: int = 1,
        most: int = 256,
        weigh: Callable[[Task], int] = lambda _: 0,
        heaviest: int = 0,
    ) -> None:
        self._work, self._most, self._weigh, self._heaviest = work, most, weigh, heaviest
        self._waiting: dict[str, deque[tuple[Task, asyncio.Future[Reply]]]] = {}  # of lanes at work
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def submit(self, task: Task, lane: str = "") -> asyncio.Future[Reply]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        idle = lane not in self._waiting
        self._waiting.setdefault(lane, deque()).append((task, future))
        if idle:
            loop.call_soon(self._gather, loop, lane, 0)
        return future

    def close(self) -> None:
        """End the threads when they have done what they do."""
        self._threads.shutdown()

    def _gather(self, loop: asyncio.AbstractEventLoop, lane: str, before: int) -> None:
        """Start a group unless tasks have come since there were `before`."""
        now = len(self._waiting[lane])
        if before < now < self._most:
            loop.call_soon(self._gather, loop, lane, now)
        else:
            self._start(loop, lane)

    def _start(self, loop: asyncio.AbstractEventLoop, lane: str) -> None:
        waiting, group, weight = self._waiting[lane], list[tuple[Task, asyncio.Future[Reply]]](), 0
        while waiting and len(group) < self._most and weight <= self._heaviest:
            group.append(waiting.popleft())
            weight += self._weigh(group[-1][0])
        done = loop.run_in_executor(self._threads, self._do, [task for task, _ in group])
        done.add_done_callback(lambda found: self._settle(loop, lane, [future for _, future in group], found))

    def _do(self, tasks: list[Task]) -> Sequence[Reply | Exception]:
        try:
            return self._work(tasks)
        except StopIteration as error:  # which no future takes: clients would wait for ever
            raise RuntimeError("the work ended in StopIteration") from error

    def _settle(
        self,
        loop: asyncio.AbstractEventLoop,
        lane: str,
        group: Sequence[asyncio.Future[Reply]],
        found: asyncio.Future[Sequence[Reply | Exception]],
    ) -> None:
        error = found.exception()
        replies = found.result() if error is None else [error] * len(group)
        for future, reply in zip(group, replies, strict=True):
            if future.done():  # its client has gone
                continue
            if isinstance(reply, BaseException):
                future.set_exception(reply)
            else:
                future.set_result(reply)
        if self._waiting[lane]:
            loop.call_soon(self._gather, loop, lane, 0)
        else:
            del self._waiting[lane]
