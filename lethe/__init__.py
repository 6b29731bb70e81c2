"""Lethe's Python client: `from lethe import Client`."""

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
