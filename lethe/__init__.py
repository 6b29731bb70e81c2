"""Lethe's Python client: `from lethe import Client`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lethe.client import Client
    from lethe.errors import (
        JobFailedError,
        LetheError,
        ProblemError,
        TransferError,
        UnreachableError,
        WaitTimeoutError,
    )

__all__ = [
    "Client",
    "JobFailedError",
    "LetheError",
    "ProblemError",
    "TransferError",
    "UnreachableError",
    "WaitTimeoutError",
]


def __getattr__(name: str) -> Any:
    """Load the client when it is asked for: who needs `lethe.plugins` alone, as the service does, starts sooner."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("lethe.client" if name == "Client" else "lethe.errors"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
