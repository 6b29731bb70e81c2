"""Names of the catalog as cases of a test; those that need a library are marked for it."""

from __future__ import annotations

from typing import Any

import pytest

from app import catalog


def named(kind: str) -> list[Any]:
    """Every name of a kind."""
    return [
        pytest.param(name, marks=pytest.mark.libraries, id=name) if entry.module else name
        for name, entry in catalog.KINDS[kind].items()
    ]


def own(kind: str) -> list[str]:
    """Those that need no library besides Lethe's own."""
    return [name for name, entry in catalog.KINDS[kind].items() if not entry.module]
