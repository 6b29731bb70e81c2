"""A child that ends with its supervisor: it holds the reading end of a pipe that only the supervisor writes to."""

from __future__ import annotations

import os
import signal
import threading

VARIABLE = "LETHE_PARENT_FD"
GRACE_SECONDS = 8.0
_descriptors: list[int] = []


def watch() -> None:
    """When the supervisor has ended for any reason, stop this process, and after a grace its whole group."""
    if number := os.environ.pop(VARIABLE, ""):
        _descriptors.append(int(number))
        threading.Thread(target=_wait, args=(int(number),), name="parent-watch", daemon=True).start()


def pass_on() -> None:
    """Before this process becomes another program: let that one watch, too."""
    if _descriptors:
        os.environ[VARIABLE] = str(_descriptors[0])


def _wait(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE_SECONDS)
    os.killpg(os.getpgid(0), signal.SIGKILL)
