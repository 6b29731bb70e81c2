"""Devices by name: which there are, which a worker has, and the lock that gives one to one worker of a machine.

Nothing here touches CUDA: what torch sees is asked in a process of its own, since CUDA must not be initialised in
one that starts others.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from app.core.config import Settings

DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # without one there is nothing to ask
ASK_SECONDS = 60.0
MOST_ON_CPU = 8  # workers by default: each takes some 300 MB, and what it keeps of data and models


class DeviceInUseError(Exception):
    """Another worker of this machine holds the device."""


@lru_cache
def found() -> tuple[str, ...]:
    """The CUDA devices of this machine, `cuda:0` and so on."""
    if not any(Path(driver).exists() for driver in DRIVERS):
        return ()
    code = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    asked = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=ASK_SECONDS, check=False
    )
    count = int(asked.stdout) if asked.returncode == 0 else 0
    return tuple(f"cuda:{number}" for number in range(count))


def listed(settings: Settings) -> list[str]:
    """The devices that get a worker each: those of the settings, else every CUDA device, else each core."""
    if settings.device:
        return [own(settings)]
    if settings.devices not in ([], ["auto"]):
        return [_numbered(device) for device in settings.devices]
    return list(found()) or ["cpu"] * min(MOST_ON_CPU, cores())


def cores() -> int:
    """Cores that this process may use: those that it is bound to, within the quota of its control group."""
    import joblib  # which the API's image has not

    return int(joblib.cpu_count())


def own(settings: Settings) -> str:
    """The device of a worker that has these settings."""
    return _numbered(settings.device) if settings.device else (found() or ("cpu",))[0]


def _numbered(device: str) -> str:
    return "cuda:0" if device == "cuda" else device


@contextmanager
def held(device: str) -> Iterator[None]:
    """Hold the device for this process: one job at a time has it. The CPU is shared.

    Raises:
        DeviceInUseError: another worker of this machine has it.
    """
    if device == "cpu":
        yield
        return
    descriptor = _open(Path(tempfile.gettempdir()) / f"lethe-{_physical(device)}.lock")
    try:
        _lock(descriptor, device)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, device: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DeviceInUseError(f"another worker of this machine has {device}; one worker per device") from None


def _open(path: Path) -> int:
    """The lock file; one that another user made can be read, which is enough to lock it."""
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
        os.fchmod(descriptor, 0o644)  # whatever the umask: another user's worker may need it
        return descriptor


def _physical(device: str) -> str:
    """The device behind its number, where CUDA_VISIBLE_DEVICES renames them; a name for a file."""
    kind, _, number = device.partition(":")
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if kind == "cuda" and number.isdigit() and int(number) < len(visible):
        number = visible[int(number)]
    return f"{kind}-{number}".replace("/", "-")
