"""Looks at what a part needs, at a bounded rate: a probe writes, and readiness is asked by everybody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from app.blobs.folder import StorageRefusedError, StorageUnavailableError
from app.blobs.open import Blobs
from app.formats import sandbox
from app.jobs.broker import Fault

SECONDS = 10.0  # for which what was found is taken as still true

WAITS = "uploads and downloads are refused and jobs wait until it does"
Found = TypeVar("Found")


def storage_fault(blobs: Blobs) -> Fault | None:
    """Why no bytes can be kept now, or none looked at."""
    try:
        blobs.check()
    except StorageRefusedError as error:
        return Fault("refuses", f"the storage takes nothing in: {error}")
    except StorageUnavailableError as error:
        return Fault("unreachable", f"the storage does not answer ({error}); {WAITS}")
    try:
        sandbox.check()
    except sandbox.SandboxError as error:
        return Fault("refuses", f"uploads are refused and no picture is shown: {error}; mend its folder for them")
    return None


class Probe(Generic[Found]):
    """What `look` found, at most `SECONDS` old. While one caller looks, the others are given what was found before."""

    def __init__(self, look: Callable[[], Found]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._found: tuple[float, Found] | None = None

    def __call__(self) -> Found:
        before = self._found
        if before is not None and (_fresh(before) or self._lock.locked()):
            return before[1]
        with self._lock:
            if self._found is None or not _fresh(self._found):
                self._found = (time.monotonic(), self._look())
            return self._found[1]


def _fresh(found: tuple[float, object]) -> bool:
    return time.monotonic() - found[0] < SECONDS
