"""Named crash points, for the tests that kill or stop a process at every one of them. Nothing in production."""

from __future__ import annotations

import os
import signal

from app.core.config import get_settings


def point(name: str) -> None:
    """SIGKILL this process when `LETHE_CRASH_AT` is `name`, SIGSTOP it when it is `stop:` and `name`."""
    match get_settings().crash_at.rpartition(":"):
        case ("", _, wanted) if wanted == name:
            os.kill(os.getpid(), signal.SIGKILL)
        case ("stop", _, wanted) if wanted == name:
            os.kill(os.getpid(), signal.SIGSTOP)
