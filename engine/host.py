"""Memory and cores of this machine. Without torch: processes that decode data have none."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
NAMES = (("memory.max", "memory.current", "file"), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"))
"""Of both versions of control groups: the limit, what is used, and in `memory.stat` the page cache within that."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BLOCKS = 2**30


def keep_large_blocks() -> None:
    """Let this process keep freed memory for the next tensor, instead of giving it back and asking for it again.

    A network's pass over a batch frees and takes the same large blocks each time. Only glibc's allocator can do it.
    """
    if (set_option := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        set_option(M_MMAP_THRESHOLD, KEPT_BLOCKS)
        set_option(M_TRIM_THRESHOLD, KEPT_BLOCKS)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_bytes() -> int:
    """Memory that may still be taken, within the limits of the control groups, if any."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min([available, *group_room(Path("/proc/self/cgroup").read_text(), CONTROL_GROUPS)])


def group_room(of_process: str, root: Path) -> Iterator[int]:
    """Yield what each control group of a process leaves, from its own up to the root; page cache counts as free.

    of_process: /proc/<pid>/cgroup. root: where control groups are mounted; in a container its own is the root.
    """
    for line in of_process.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        own = top / path.lstrip("/")
        for folder in [own, *own.parents][: len(own.parts) - len(top.parts) + 1]:
            for limit, used, cached in NAMES:
                if (folder / limit).exists() and (most := (folder / limit).read_text().strip()) != "max":
                    statistics = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
                    taken = int((folder / used).read_text()) - int(statistics.get(cached, 0))
                    yield max(0, int(most) - taken)
