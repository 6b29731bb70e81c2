"""Errors of computations. Each text is for the client, and `kind` for its program."""

from __future__ import annotations

from typing import ClassVar


class EngineError(Exception):
    """A computation cannot be done, however often it is tried. kind: of the problem document of its job."""

    kind: ClassVar[str] = "method-failed"


class MethodError(EngineError):
    """The method cannot run on its input."""


class DivergedError(EngineError):
    """A computation left the finite numbers, or is sure to. epoch: which one, from 0, where epochs are counted."""

    def __init__(self, reason: str, epoch: int | None = None) -> None:
        super().__init__(reason)
        self.epoch = epoch


class ProbeError(EngineError):
    """The probe has nothing to measure here; the text is for the report."""

    kind = "probe"


class ArchitectureError(EngineError):
    """The architecture cannot take these images."""

    kind = "architecture"


class DeviceMemoryError(EngineError):
    """The device's memory does not hold what is needed at the least."""

    kind = "device-memory"


class UnknownNameError(EngineError):
    """A name or a parameter that the service has accepted and this process does not know.

    what: what cannot be run, such as "the method 'amun'".
    """

    kind = "unknown-name"

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(
            f"this worker cannot run {what} ({reason}): it is older than the service or lacks a plug-in, so update the "
            "worker or install the plug-in where it runs"
        )
