"""What follows from a dataset's source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def awaits_content(source: str, params: Mapping[str, Any]) -> bool:
    """Whether the client sends something: pictures, or a manifest of where they lie."""
    return source == "upload" or (source == "objects" and params.get("prefix") is None)
