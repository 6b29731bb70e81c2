"""Named crash points, for the tests that kill a process at every one of them. Nothing in production."""

from __future__ import annotations

import os
import signal

from app.config import get_settings


def point(name: str) -> None:
    """SIGKILL this process when `LETHE_CRASH_AT` names this point."""
    if get_settings().crash_at == name:
        os.kill(os.getpid(), signal.SIGKILL)
