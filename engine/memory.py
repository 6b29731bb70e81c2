"""Memory: what is free on a device, and computations that are made smaller where it does not suffice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from engine.errors import DeviceMemoryError

T = TypeVar("T")

CONTROL_GROUPS = Path("/sys/fs/cgroup")
NAMES = (("memory.max", "memory.current", "file"), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"))
"""Of both versions of control groups: the limit, what is used, and in `memory.stat` the page cache within that."""


def within_memory(attempt: Callable[[int], T], size: int) -> tuple[T, int]:
    """Return `attempt(size)` and the size; while the device's memory does not suffice, with half the size again.

    Raises:
        DeviceMemoryError: not even size 1 fits.
    """
    while True:
        try:
            return attempt(size), size
        except torch.OutOfMemoryError:
            if size == 1:
                raise DeviceMemoryError("the device's memory does not hold the model and one sample") from None
        # Not in the block above: there the exception's frames still hold what filled the memory.
        torch.cuda.empty_cache()
        size = -(-size // 2)


@contextmanager
def shortage_named() -> Iterator[None]:
    """Where the device's memory does not suffice inside, and nothing could be made smaller, say so.

    Raises:
        DeviceMemoryError: in place of torch's error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            "the device's memory does not hold what this step needs: a smaller batch_size may fit"
        ) from error


def free_bytes(device: torch.device) -> int:
    """Memory that may still be taken on `device`; on the CPU within the limits of the control groups, if any."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
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
