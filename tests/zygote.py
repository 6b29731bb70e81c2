"""Parts of the service as processes, forked from one that has everything loaded: a start costs a tenth of a second of
CPU instead of three to ten. What they do is the same, but for the modules in their memory.

`python -m tests.zygote SOCKET` is that process. It ends when its standard input does.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import os
import pickle
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

LOADED = [
    "torch._dynamo", "worker.loop", "worker.run_one", "worker.runtime.run", "celery.bin.worker", "celery.apps.worker",
    "app.main", "app.cli.main", "app.operations.sweeper", "app.operations.supervisor", "uvicorn", "redis",
]  # fmt: skip
MOST = 2**20  # bytes of a request


# -- asked for -------------------------------------------------------------------------------------


class Forked:
    """A running part, to be asked as `subprocess.Popen` is."""

    returncode: int | None = None

    def __init__(self, line: socket.socket) -> None:
        self._line, self._text, self._asking = line, b"", threading.Lock()
        self.pid = int(self._read_line(None) or 0)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        with self._asking:
            if self.returncode is None:
                found = self._read_line(timeout)
                if found is None:
                    raise subprocess.TimeoutExpired("a part", timeout or 0)
                self.returncode = int(found or -signal.SIGKILL)  # nothing: the zygote has ended, and its children, too
                self._line.close()
            return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read_line(self, timeout: float | None) -> bytes | None:
        """None: there was none in time."""
        self._line.settimeout(timeout)
        try:
            while b"\n" not in self._text:
                if not (piece := self._line.recv(100)):
                    return b""
                self._text += piece
        except (TimeoutError, BlockingIOError):
            return None
        found, _, self._text = self._text.partition(b"\n")
        return found


def start(arguments: Sequence[str], env: Mapping[str, str], output: int, passed: Sequence[int] = ()) -> Forked:
    """`python -m app …` in a process group of its own, which has the descriptors `passed` under their numbers."""
    return _asked({"arguments": list(arguments), "environment": dict(env)}, output, passed)


def call(function: Callable[..., None], *arguments: Any) -> Forked:
    """`function(*arguments)` in a process group of its own. It ends with code 1 when the function raises."""
    return _asked({"call": pickle.dumps((function, arguments)).hex()}, 2)


def _asked(what: dict[str, Any], output: int, passed: Sequence[int] = ()) -> Forked:
    line = socket.socket(socket.AF_UNIX)
    line.connect(_place or _zygote())
    asked = {**what, "folder": os.getcwd(), "numbers": [1, 2, *passed]}
    socket.send_fds(line, [json.dumps(asked).encode() + b"\n"], [output, output, *passed])
    return Forked(line)


_place = ""  # of the zygote that this process was forked from


@cache
def _zygote() -> str:
    """Where this process's zygote listens; it ends with this process."""
    place = str(Path(tempfile.mkdtemp(prefix="lethe-zygote-")) / "socket")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LETHE_")}
    command = [sys.executable, "-m", "tests.zygote", place]
    process = subprocess.Popen(command, env=clean, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    atexit.register(_end, process)
    return place


def _end(process: subprocess.Popen[bytes]) -> None:
    with process:
        assert process.stdin is not None
        process.stdin.close()


ROOT = Path(__file__).parents[1]


# -- the zygote ------------------------------------------------------------------------------------


def serve(place: str) -> dict[str, Any]:
    """Fork for every request. Returns in a child, with what it is to become; the parent never returns."""
    for name in LOADED:
        import_module(name)
    gc.freeze()  # what is loaded stays shared: no child's collector touches it
    waking, woken = socket.socketpair()
    for each in (waking, woken):
        each.setblocking(False)
    signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(place)
    listening.listen(64)
    selector = selectors.DefaultSelector()
    for readable in (listening, woken, sys.stdin):
        selector.register(readable, selectors.EVENT_READ)
    print("ready", flush=True)
    running: dict[int, socket.socket] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                os.unlink(place)
                os.rmdir(Path(place).parent)
                os._exit(0)
            if key.fileobj is woken:
                woken.recv(4096)
                _reap(running)
            else:
                line, _ = listening.accept()
                asked = _received(line)
                if (pid := os.fork()) == 0:
                    signal.set_wakeup_fd(-1)
                    selector.close()
                    for each in (listening, waking, woken, line, *running.values()):
                        each.close()  # now: a collector would close what has their numbers by then
                    return asked
                for number in asked["descriptors"]:
                    os.close(number)
                os.setpgid(pid, pid)
                line.sendall(b"%d\n" % pid)
                running[pid] = line


def _reap(running: dict[int, socket.socket]) -> None:
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = found
            if (line := running.pop(pid, None)) is not None:
                with suppress(OSError):  # nobody asks any more
                    line.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
                line.close()


def _received(line: socket.socket) -> dict[str, Any]:
    content, descriptors = b"", list[int]()
    while not content.endswith(b"\n"):
        piece, more, _, _ = socket.recv_fds(line, MOST, 16)
        content, descriptors = content + piece, descriptors + more
    return {**json.loads(content), "descriptors": descriptors}


def _call(given: str) -> NoReturn:
    function, arguments = pickle.loads(bytes.fromhex(given))
    function(*arguments)
    sys.exit(0)


def become(arguments: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """This process is the part from here on, and ends with it."""
    from app.core.config import get_settings

    os.environ.clear()
    os.environ.update(environment)
    get_settings.cache_clear()
    Path("/proc/self/comm").write_text(f"lethe {arguments[0]}")  # its command line is the zygote's
    _fork_what_it_starts()
    sys.argv = ["lethe", *arguments]
    runpy.run_module("app", run_name="__main__", alter_sys=True)
    sys.exit(0)


# -- what parts start themselves -------------------------------------------------------------------


def _fork_what_it_starts() -> None:
    """A supervisor's children are forked, and so is the child of a Celery worker, which is spawned elsewhere since CUDA
    wants a fresh process."""
    from app.operations import supervisor

    names: Any = supervisor
    names.subprocess = SimpleNamespace(Popen=child, TimeoutExpired=subprocess.TimeoutExpired)
    names.become_worker = _become_worker


def _become_worker(device: str) -> NoReturn:
    from app.core.config import get_settings

    os.environ["LETHE_DEVICE"] = device
    get_settings.cache_clear()
    if get_settings().broker_url:
        from worker import celery

        celery.app.conf.worker_pool_start_method = "fork"
    runpy.run_module("worker", run_name="__main__", alter_sys=True)
    sys.exit(0)


def child(command: list[str], env: dict[str, str], pass_fds: list[int], process_group: int) -> Forked:
    """A child of a supervisor, in place of `subprocess.Popen`."""
    assert command[:3] == [sys.executable, "-m", "app"]
    assert process_group == 0
    return start(command[3:], env, 1, pass_fds)


def _take(descriptors: Sequence[int], numbers: Sequence[int]) -> None:
    """Have these descriptors under those numbers, and no others that are open."""
    above = max(256, *numbers) + 1
    high = [fcntl.fcntl(each, fcntl.F_DUPFD, above) for each in descriptors]
    for each, number in zip(high, numbers, strict=True):
        os.dup2(each, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in numbers:
            with suppress(OSError):
                os.close(int(name))


def _end_with(program: Callable[[], NoReturn]) -> NoReturn:
    """Run it and end as an interpreter does, but without the stack of the zygote."""
    code = 1
    try:
        program()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        with suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def main(place: str) -> NoReturn:
    global _place
    asked = serve(place)
    _place = place
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    _take([nothing, *asked["descriptors"]], [0, *asked["numbers"]])
    os.chdir(asked["folder"])
    if "call" in asked:
        _end_with(lambda: _call(asked["call"]))
    _end_with(lambda: become(asked["arguments"], asked["environment"]))


if __name__ == "__main__":
    main(sys.argv[1])
