"""The process that looks at untrusted bytes, started by `app.formats.sandbox`.

It puts its own walls up before it opens the file: limits of memory, CPU time, files and their size, no core dump, and,
where the kernel allows a filter of system calls, neither network nor other programs. It leaves its answer in a file, as
JSON: nothing that it says is ever unpickled.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import platform
import resource
import struct
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.formats.manifest import SourceError

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS = 2, 0x7FFF0000, 0x00050000, 2**31
# By machine: its audit number, and the numbers of the calls that are denied:
# socket, connect, bind, ptrace, execve, execveat, io_uring_setup (which could connect without them).
SYSTEM_CALLS = {
    "x86_64": (0xC000003E, (41, 42, 49, 101, 59, 322, 425)),
    "aarch64": (0xC00000B7, (198, 203, 200, 117, 221, 281, 425)),
}
MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOENT, errno.EACCES, errno.ESTALE)
X32 = 0x40000000  # calls of the other binary interface of x86_64 have this bit


def put_up_walls(memory: int, cpu_seconds: int, file_bytes: int, files: int) -> dict[str, bool]:
    """Limit this process for good; which walls are up."""
    limits = {
        "memory": (resource.RLIMIT_DATA, memory),
        "cpu": (resource.RLIMIT_CPU, cpu_seconds),
        "file-size": (resource.RLIMIT_FSIZE, file_bytes),
        "files": (resource.RLIMIT_NOFILE, files),
        "core": (resource.RLIMIT_CORE, 0),
    }
    found = {}
    for name, (number, most) in limits.items():
        _, hard = resource.getrlimit(number)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard - (name == "cpu"))
        resource.setrlimit(number, (most, most if name != "cpu" else most + 1))  # first SIGXCPU, then SIGKILL
        found[name] = True
    return found | {"network": _deny_system_calls()}


def _deny_system_calls() -> bool:
    """No sockets and no other programs from now on; False where the kernel has no filter for it."""
    number, denied = SYSTEM_CALLS.get(platform.machine(), (0, ()))
    if not denied or not sys.platform.startswith("linux"):
        return False
    load, jump_equal, jump_above, answer = 0x20, 0x15, 0x35, 0x06
    steps = [(load, 0, 0, 4), (jump_equal, 1, 0, number), (answer, 0, 0, SECCOMP_RET_KILL_PROCESS), (load, 0, 0, 0)]
    if platform.machine() == "x86_64":
        steps += [(jump_above, 0, 1, X32), (answer, 0, 0, SECCOMP_RET_KILL_PROCESS)]
    for call in denied:
        steps += [(jump_equal, 0, 1, call), (answer, 0, 0, SECCOMP_RET_ERRNO | errno.EPERM)]
    steps.append((answer, 0, 0, SECCOMP_RET_ALLOW))
    program = b"".join(struct.pack("HBBI", *step) for step in steps)
    room = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(room)))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero):
        return False
    return bool(libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), header, zero, zero) == 0)


def run(place: str, arguments: Sequence[Any], limits: Mapping[str, int], answer: Path) -> None:
    """Call `place` ("module:function") of `arguments` behind walls; what came of it goes to `answer`."""
    os.environ.clear()
    with suppress(OSError):  # where memory runs out, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")
    with open(os.devnull, "r+b") as nothing:
        for number in (0, 1, 2):  # a parser's complaints may quote the file
            os.dup2(nothing.fileno(), number)
    module, _, name = place.partition(":")
    function = getattr(importlib.import_module(module), name)  # ours: within a limit, loading it could fail
    walls = put_up_walls(**limits)
    try:
        found: dict[str, Any] = {"result": function(*arguments)}
    except MemoryError:
        found = {"memory": True}
    except SourceError as error:
        found = {"refused": error.detail, "errors": error.errors}
    except OSError as error:
        # A decoder raises it about the file and gives no number; the system always does.
        ours = error.errno in MACHINE
        found = {"machine": error.strerror} if ours else {"failed": type(error).__name__}
    except Exception as error:
        found = {"failed": type(error).__name__}
    with answer.open("w") as file:
        json.dump(found | {"walls": walls}, file)
