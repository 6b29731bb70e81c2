"""Architectures: functions that take parameters, channels, classes and image size to an untrained model."""

from __future__ import annotations

Size = tuple[int, int]
"""Height and width of an image in pixels."""
