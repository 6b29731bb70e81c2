"""Jobs: read, follow, wait, cancel, retry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import cast

import httpx

from lethe import types
from lethe.collection import Collection
from lethe.errors import JobFailedError, WaitTimeoutError
from lethe.transport import Attempts, Transport

ENDED = frozenset({"succeeded", "rejected", "failed", "cancelled", "dead"})


class Jobs(Collection[types.Job]):
    path = "/v1/jobs"

    def __init__(self, calls: Transport, retries: int) -> None:
        super().__init__(calls)
        self._retries = retries

    def cancel(self, job: str, *, if_match: str | None = None) -> types.Job:
        return cast("types.Job", self._verb(job, "cancel", if_match=if_match))

    def retry(self, job: str, *, if_match: str | None = None) -> types.Job:
        """Queue a failed or dead job again."""
        return cast("types.Job", self._verb(job, "retry", if_match=if_match))

    def workers(self) -> list[types.Worker]:
        """The live workers: their devices, and which jobs they take."""
        return cast("list[types.Worker]", self._calls.get("/v1/workers")["workers"])

    def audit(self, job: str) -> types.Json:
        """The report that the job made, whether or not its candidate was published."""
        return cast("types.Json", self._calls.get(f"{self._at(job)}/audit"))

    def audit_page(self, job: str) -> str:
        """The same as a self-contained HTML page."""
        return self._calls.call("GET", f"{self._at(job)}/audit", headers={"Accept": "text/html"}).text

    def follow(self, job: str, *, timeout: float | None = None) -> Iterator[types.Progress]:
        """Its progress as it comes, taken up where a dropped stream left off; ends with the job.

        Raises:
            WaitTimeoutError: it has not ended within `timeout` seconds; it goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        seen, attempts = 0, Attempts(self._retries)
        while True:
            try:
                with self._calls.events(f"{self._at(job)}/events", seen) as events:
                    for event in events:
                        if event is not None:
                            seen, attempts = event[0], Attempts(self._retries)
                            yield cast("types.Progress", event[2])
                        if deadline is not None and time.monotonic() > deadline:
                            raise WaitTimeoutError(f"{job} has not ended within {timeout:g} s")
            except httpx.TransportError as error:
                attempts.failed(error)
                continue
            # Where a job was tried again, the stream may end with the end of its first try.
            if self.get(job)["state"] in ENDED:
                return

    def wait(
        self, job: str, *, timeout: float | None = None, progress: Callable[[types.Progress], None] | None = None
    ) -> types.Job:
        """The job once it has succeeded.

        Raises:
            JobFailedError: it ended otherwise.
            WaitTimeoutError: it has not ended within `timeout` seconds; it goes on.
        """
        for data in self.follow(job, timeout=timeout):
            if progress is not None:
                progress(data)
        found = self.get(job)
        if found["state"] != "succeeded":
            raise JobFailedError(found)
        return found
