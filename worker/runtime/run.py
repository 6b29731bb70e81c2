"""One attempt at one job: its claim, its heartbeat, its progress, and what its stages have stored."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from app import jobs
from app.blobs import usage
from app.blobs.folder import BlobMissingError, StorageUnavailableError, Stored
from app.blobs.open import Blobs, open_blobs
from app.core import crash_points, logs, tracing
from app.core.config import LEASE_BEATS, Settings
from app.core.db import Database
from app.jobs import Claim, LeaseLostError, devices, routing
from app.jobs.routing import Takes
from engine import host
from worker.runtime.cache import Cache

log = logging.getLogger("lethe.worker")

SECONDS_BETWEEN_REPORTS = 0.25
SECONDS_BETWEEN_COPY_CHECKS = 30.0
SECONDS_BETWEEN_WAY_CHECKS = 2.0


class CancelledError(Exception):
    """Somebody asked for this job to be cancelled."""


class GaveWayError(Exception):
    """A deletion goes first: the job goes back to the queue, with what is kept, and no attempt is counted."""

    def __init__(self, why: str = "a deletion with a near deadline goes first") -> None:
        super().__init__(why)


class JobError(Exception):
    """The job cannot be done; `detail` is for the client, `kind` for its program."""

    def __init__(self, kind: str, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.members = kind, detail, members


@dataclass(frozen=True)
class Resources:
    """What a worker keeps between jobs: its connections, its device, and what stays loaded."""

    settings: Settings
    database: Database
    blobs: Blobs
    device: torch.device
    takes: Takes
    cache: Cache
    closing: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def open(cls, settings: Settings) -> Resources:
        host.keep_large_blocks()
        torch.set_num_threads(settings.torch_threads)
        database, blobs = Database(settings), open_blobs(settings)
        cache = Cache(database, settings.warm_bytes)
        found = cls(settings, database, blobs, torch.device(devices.own(settings)), routing.own(settings), cache)
        if settings.blob_url:  # a folder is the storage itself
            threading.Thread(target=_drop_copies, args=(blobs, found.closing), name="copies", daemon=True).start()
        return found

    def close(self) -> None:
        self.closing.set()
        self.cache.close()
        self.database.close()

    def tensors(self, digest: str) -> dict[str, Tensor]:
        """The stored tensors of that digest, on the device."""
        return load_file(self.blobs.fetch(digest), device=str(self.device))

    def adopt(self, claim: Claim, path: Path) -> Stored:
        """Make a file of the job's scratch a blob, which is the job's until a row points at it."""

        def announce(digest: str) -> None:
            with self.database.write() as session:
                jobs.announce(session, claim, digest)

        return self.blobs.adopt(path, announce)


def _drop_copies(blobs: Blobs, closing: threading.Event) -> None:
    """Local copies of what another machine has erased must go too."""
    while not closing.is_set():
        try:
            blobs.sweep_copies()
        except StorageUnavailableError as error:
            log.warning("local copies could not be checked: %s", error)
        closing.wait(SECONDS_BETWEEN_COPY_CHECKS)


HUNG = 70  # exit status of a worker whose computation hung
end_process: Callable[[int], Any] = os._exit  # a thread that hangs in native code cannot be ended otherwise


class Heartbeat:
    """Renews a lease from a thread, and remembers why the work should stop.

    It does not renew it for ever: where the work has reported no progress for `stall_seconds`, it hands the job back as
    a failed attempt and ends the process. Whatever keeps workers running starts another one.
    """

    _moved = 0.0  # when any job of this process last made progress: a pool's job waits while its part is computed

    def __init__(self, database: Database, claim: Claim, settings: Settings) -> None:
        self._database, self._claim, self._lease = database, claim, settings.lease_seconds
        self._stall = settings.stall_seconds
        self._beat = min(self._lease / LEASE_BEATS, self._stall)
        self._stage = "start"
        self.moved()
        self._done = threading.Event()
        self._stop: Exception | None = None
        context = copy_context()  # so that its log lines are about the job, too
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(self._beat):
            if time.monotonic() - Heartbeat._moved > self._stall:
                self._end_hung()
                return
            try:
                if jobs.beat(self._database, self._claim, self._lease):
                    self._stop = CancelledError(self._claim.id)
            except LeaseLostError as error:
                self._stop = error
                return
            except Exception:
                log.exception("a heartbeat of %s failed; trying again", self._claim.id)

    def moved(self, stage: str = "") -> None:
        """The work has made progress, in that stage."""
        Heartbeat._moved = time.monotonic()
        self._stage = stage or self._stage

    def _end_hung(self) -> None:
        reason = f"its computation hung: no progress for {self._stall:g} s in stage {self._stage}"
        log.error("job %s: %s; this process ends, and was %s", self._claim.id, reason, _whereabouts())
        try:
            with self._database.write() as session:
                jobs.requeue(session, jobs.fenced(session, self._claim), reason)
        except Exception:  # its lease ends without us
            log.exception("the hung attempt could not be handed back")
        finally:
            end_process(HUNG)

    def check(self) -> None:
        """Raise if the lease is lost or the job cancelled."""
        if self._stop is not None:
            raise self._stop


def _whereabouts() -> str:
    """Where the main thread is: places in the code only."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    places = traceback.extract_stack(frame)[-3:]
    return "at " + ", ".join(f"{Path(place.filename).name}:{place.lineno}" for place in places)


@dataclass
class Run:
    """A claimed job being worked on."""

    resources: Resources
    claim: Claim
    heartbeat: Heartbeat
    stage_seconds: dict[str, float] = field(default_factory=dict)
    _way_checked: float = field(default_factory=time.monotonic)

    def must_give_way(self) -> bool:
        """Whether another job needs this worker more; asked of the database every few seconds."""
        if time.monotonic() - self._way_checked < SECONDS_BETWEEN_WAY_CHECKS:
            return False
        self._way_checked = time.monotonic()
        with self.resources.database.read() as session:
            return jobs.gives_way(session, self.claim, self.resources.takes)

    def give_way(self) -> None:
        """To be called where all that was computed is kept.

        Raises:
            GaveWayError: another job needs this worker more.
        """
        if self.must_give_way():
            raise GaveWayError

    @contextmanager
    def stage(self, name: str, start: float, stop: float) -> Iterator[StageProgress]:
        """A stage that moves the job's fraction from `start` to `stop`."""
        self.heartbeat.check()
        self.heartbeat.moved(name)
        logs.note(stage=name)
        with self.resources.database.write() as session:
            jobs.advance(session, self.claim, name, start)
        crash_points.point(f"{self.claim.kind}.{name}.begin")
        began = time.perf_counter()
        with tracing.part(name):
            yield StageProgress(self, name, start, stop)
        self.stage_seconds[name] = round(self.stage_seconds.get(name, 0.0) + time.perf_counter() - began, 3)
        crash_points.point(f"{self.claim.kind}.{name}.end")

    def stored(self, name: str, base: str) -> tuple[str, dict[str, Any]] | None:
        """Digest and facts of what an earlier attempt made from the same `base`, if it is still there."""
        with self.resources.database.read() as session:
            row = jobs.artifacts(session, self.claim.id).get(name)
        if row is None or row.facts.get("base") != base:
            return None
        try:
            self.resources.blobs.size(row.digest)
        except BlobMissingError:
            return None
        return row.digest, row.facts

    def keep(self, name: str, base: str, stored: Stored, **facts: Any) -> None:
        """Record an artefact under the fence, and remove the bytes that it replaces."""
        self.heartbeat.moved()
        crash_points.point(f"{self.claim.kind}.{name}.stored")
        with self.resources.database.write() as session:
            facts = {**facts, "base": base, "size": stored.size}
            usage.pin(session, self.resources.blobs, stored.digest)
            replaced = jobs.keep(session, self.claim, name, stored.digest, facts)
        crash_points.point(f"{self.claim.kind}.{name}.kept")
        if replaced:
            usage.remove(self.resources.database, self.resources.blobs, replaced)

    def put(self, write: Callable[[Path], None]) -> Stored:
        """Store the file that `write` makes."""
        with self.resources.blobs.scratch(self.claim.id) as path:
            write(path)
            crash_points.point(f"{self.claim.kind}.written")
            return self.resources.adopt(self.claim, path)

    def put_tensors(self, tensors: dict[str, Tensor]) -> Stored:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return self.put(lambda path: save_file(plain, path))


class StageProgress:
    """`engine.training.Progress` of one stage: reports to the job's row, keeps resume files, stops on a lost lease.

    `base` names what is being computed from what; a resume file of another base is not taken up.
    """

    def __init__(self, run: Run, stage: str, start: float, stop: float, base: str = "") -> None:
        self._run, self._stage, self._start, self._stop, self._base = run, stage, start, stop, base
        self._reported = self._saved = time.monotonic()

    def part(self, start: float, stop: float, base: str) -> StageProgress:
        """A part of this stage, from fraction `start` to `stop` of it, that resumes by itself."""
        width = self._stop - self._start
        return StageProgress(self._run, self._stage, self._start + start * width, self._start + stop * width, base)

    def update(self, fraction: float) -> None:
        self._run.heartbeat.check()
        self._run.heartbeat.moved(self._stage)
        if time.monotonic() - self._reported < SECONDS_BETWEEN_REPORTS:
            return
        self._reported = time.monotonic()
        with self._run.resources.database.write() as session:
            whole = self._start + fraction * (self._stop - self._start)
            jobs.advance(session, self._run.claim, self._stage, whole)

    def load(self) -> dict[str, Tensor] | None:
        kept = self._run.stored("resume", self._base)
        return None if kept is None else load_file(self._run.resources.blobs.fetch(kept[0]))

    def save(self, state: Callable[[], dict[str, Tensor]]) -> None:
        give_way = self._run.must_give_way()
        if not give_way and time.monotonic() - self._saved < self._run.resources.settings.resume_seconds:
            return
        self._run.keep("resume", self._base, self._run.put_tensors(state()))
        self._saved = time.monotonic()
        if give_way:
            raise GaveWayError
