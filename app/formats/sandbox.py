"""Looking at untrusted bytes in a child process, so that a parser that crashes, hangs or grows ends nothing else.

Whatever the child does, the caller gets its result or a `SourceError`: a child that dies is a refusal of the file.
"""

from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from app.formats.child import run
from app.formats.manifest import SourceError

log = logging.getLogger("lethe.sandbox")

LOCK = "lock"
MOST_ANSWER = 2**30  # bytes of JSON
UNREADABLE = "the file cannot be read"
# Children are forked from a small process that has the parsers loaded: in milliseconds, and without the threads and
# connections of the service. They run as its user and can read its files; they cannot send anything anywhere.
_LOADED = [
    "app.formats.uploads", "app.formats.pictures", "pyarrow.parquet", "pyarrow.compute", "PIL.Image",
    "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "simplejpeg",
]  # fmt: skip
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(_LOADED)

CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGXCPU}
SETTLED_SECONDS = 60.0  # a folder that was touched since may be one that is not locked yet
_starting = threading.Lock()
_root: Path | None = None  # where this process makes its folders; None: where the system has temporary files
_told: set[str] = set()  # what this process has said of the walls


def preload(module: str) -> None:
    """Have children forked with this module loaded, from the first one on."""
    if module not in _LOADED:
        _LOADED.append(module)
        _FORKS.set_forkserver_preload(_LOADED)


class SandboxError(Exception):
    """The machine, not the file, kept the child from looking: try again."""


def keep_in(root: Path) -> None:
    """Have this process make its folders in `root`, which `sweep` looks after."""
    global _root
    _root = root


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for what is being looked at, for this user alone, that goes with the block.

    It is locked as long as its process lives, in a container too, so that `sweep` finds those whose process was killed.

    Raises:
        SandboxError: the system refuses a file in it, or anything else within the block.
    """
    try:
        if _root is not None:
            _root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=_root, ignore_cleanup_errors=True) as made,
            (Path(made) / LOCK).open("w") as lock,
        ):
            with suppress(OSError):  # a file system that has no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield Path(made)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise SandboxError(f"the machine refused while a file was looked at: {reason}") from error


def check() -> None:
    """Write a little as `call` does, for readiness. Raises SandboxError."""
    with folder() as path:
        (path / "answer").write_bytes(bytes(4096))


def sweep(root: Path) -> int:
    """Remove the folders of processes that were killed, with the pictures in them; how many."""
    removed, limit = 0, time.time() - SETTLED_SECONDS
    for each in root.glob("*"):
        with suppress(FileNotFoundError):  # its process has just ended it
            if each.lstat().st_mtime < limit and not _is_locked(each / LOCK):
                shutil.rmtree(each, ignore_errors=True)
                removed += 1
    return removed


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock; also where that cannot be said."""
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@dataclass(frozen=True)
class Limits:
    """memory: bytes of private memory. file_bytes: of any one file that it writes, its answer among them."""

    memory: int = 8 * 2**30  # five million rows with ids, splits and subjects take two
    cpu_seconds: int = 120
    file_bytes: int = MOST_ANSWER
    files: int = 64


def call(place: str, *arguments: Any, limits: Limits | None = None, seconds: float = 300.0) -> Any:
    """`place` ("module:function") of these arguments in a child; its result is JSON. seconds: of the clock.

    Raises:
        SourceError: the function raised it, or the child crashed, hung, or needed more than its limits.
        SandboxError: the child could not be started, was ended from outside, could not answer, or met a full disk.
    """
    allowed = limits or Limits()
    with folder() as path:
        answer = path / "answer"
        _start_server()
        child = _FORKS.Process(target=run, args=(place, arguments, asdict(allowed), answer), daemon=True)
        child.start()
        child.join(seconds)
        late = child.is_alive()
        child.kill()
        child.join()
        code = child.exitcode or 0
        child.close()
        if late:
            raise SourceError(f"{UNREADABLE}: looking at it took longer than {seconds:.0f} seconds")
        if -code in CRASHES:
            raise SourceError(_died(-code, allowed))
        if code or not answer.exists():
            raise SandboxError(f"the program that looks at files ended with {code}")
        found = json.loads(answer.read_bytes())
    _tell(found["walls"])
    if "machine" in found:
        raise SandboxError(f"the machine refused while a file was looked at: {found['machine']}")
    if "memory" in found:
        raise SourceError(_too_much_memory(allowed))
    if "failed" in found:
        raise SourceError(f"{UNREADABLE}: the program that looked at it failed ({found['failed']})")
    if "refused" in found:
        raise SourceError(found["refused"], found["errors"])
    return found["result"]


def _start_server() -> None:
    """Start the process that children are forked from, without the settings of the service in its environment."""
    with _starting:
        hidden = {name: value for name, value in os.environ.items() if name.startswith(("LETHE_", "AWS_", "PG"))}
        for name in hidden:
            del os.environ[name]
        try:
            forkserver.ensure_running()
        finally:
            os.environ.update(hidden)


def _died(number: int, limits: Limits) -> str:
    if number == signal.SIGXCPU:
        return f"{UNREADABLE}: looking at it took more than {limits.cpu_seconds} seconds of a processor"
    return f"{UNREADABLE}: the program that looked at it crashed ({signal.Signals(number).name})"


def _too_much_memory(limits: Limits) -> str:
    return f"{UNREADABLE}: looking at it takes more than {limits.memory / 2**30:.0f} GiB of memory"


def _tell(walls: dict[str, bool]) -> None:
    """Once a process: say which walls are up around the child on this machine."""
    missing = sorted(name for name, up in walls.items() if not up)
    text = "files are looked at in a child process with limits of memory, CPU time and files"
    text += f", but this machine has no wall for: {', '.join(missing)}" if missing else ", and without a network"
    if text not in _told:
        _told.add(text)
        log.log(logging.WARNING if missing else logging.INFO, text)
