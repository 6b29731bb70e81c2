"""Looking at untrusted bytes in a child process, so that a parser that crashes, hangs or grows ends nothing else.

Whatever the child does, the caller gets its result or a `SourceError`: a child that dies is a refusal of the file.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.formats.child import run
from app.formats.manifest import SourceError

MOST_ANSWER = 2**30  # bytes of JSON
UNREADABLE = "the file cannot be read"
# Children are forked from a small process that has the parsers loaded and nothing else: in milliseconds, and without
# the threads, connections and keys of the service.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["app.formats.uploads", "pyarrow.parquet", "pyarrow.compute"])


@dataclass(frozen=True)
class Limits:
    """memory: bytes of private memory. file_bytes: of any one file that it writes, its answer among them."""

    memory: int = 2 * 2**30
    cpu_seconds: int = 120
    file_bytes: int = MOST_ANSWER
    files: int = 64


def call(place: str, *arguments: Any, limits: Limits | None = None, seconds: float = 300.0) -> Any:
    """`place` ("module:function") of these arguments in a child; its result is JSON. seconds: of the clock.

    Raises:
        SourceError: the function raised it, or the child died, hung, or needed more than its limits.
    """
    allowed = limits or Limits()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer"
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
        if code < 0:
            raise SourceError(_died(-code, allowed))
        if code or not answer.exists():
            raise SourceError(f"{UNREADABLE}: the program that looked at it failed")
        found = json.loads(answer.read_bytes())
    if "memory" in found:
        raise SourceError(_too_much_memory(allowed))
    if "refused" in found:
        raise SourceError(found["refused"], found["errors"])
    return found["result"]


def _died(number: int, limits: Limits) -> str:
    if number == signal.SIGXCPU:
        return f"{UNREADABLE}: looking at it took more than {limits.cpu_seconds} seconds of a processor"
    if number == signal.SIGKILL:
        return f"{UNREADABLE}: the system ended the program that looked at it, as it does when memory runs out"
    return f"{UNREADABLE}: the program that looked at it crashed ({signal.Signals(number).name})"


def _too_much_memory(limits: Limits) -> str:
    return f"{UNREADABLE}: looking at it takes more than {limits.memory / 2**30:.0f} GiB of memory"


def describe_walls() -> str:
    """Which walls are up around the child on this machine, for the log."""
    try:
        found: dict[str, bool] = call("app.formats.child:walls")
    except SourceError as error:
        return f"files cannot be looked at: {error.detail}"
    missing = sorted(name for name, up in found.items() if not up)
    text = "files are looked at in a child process with limits of memory, CPU time and files"
    return f"{text}, without {' and '.join(missing)} limits here" if missing else f"{text}, and without a network"
