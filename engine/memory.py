"""Memory: what is free on a device, and computations that are made smaller where it does not suffice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from engine import host
from engine.errors import DeviceMemoryError

T = TypeVar("T")


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
    return host.free_bytes()
