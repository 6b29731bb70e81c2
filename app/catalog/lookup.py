"""The one look-up of a name, whichever kind it is and wherever it comes from."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from app.catalog.architectures import ARCHITECTURES
from app.catalog.attacks import ATTACKS
from app.catalog.audits import AUDITS, PROBES
from app.catalog.base import Entry, Params
from app.catalog.methods import METHODS
from app.catalog.plugins import entries
from app.catalog.recipes import RECIPES
from app.catalog.sources import SOURCES

KINDS: Mapping[str, dict[str, Entry]] = {
    "methods": METHODS,
    "attacks": ATTACKS,
    "audits": AUDITS,
    "probes": PROBES,
    "architectures": ARCHITECTURES,
    "recipes": RECIPES,
    "sources": SOURCES,
}
"""A name that is added to one of these tables is in the whole service. Plug-ins are added once, when it starts."""

for _kind, _entries in entries(KINDS).items():
    KINDS[_kind].update(_entries)


def special(kind: str, name: str) -> str | None:
    """The name by which a worker says that it has the entry, where not every worker has it; else None."""
    entry = KINDS[kind].get(name)
    return f"{kind}/{name}" if entry is not None and (entry.plugin or entry.module) else None


def offers() -> frozenset[str]:
    """What of that this process has."""
    return frozenset(
        f"{kind}/{name}"
        for kind, table in KINDS.items()
        for name, entry in table.items()
        if (entry.plugin or entry.module) and (not entry.module or importlib.util.find_spec(entry.module) is not None)
    )


def find(kind: str, name: str) -> Entry:
    """Return entry `name` of `kind`.

    Raises:
        KeyError: `name` is not in that table.
    """
    return KINDS[kind][name]


def parse(kind: str, name: str, params: Mapping[str, Any]) -> Params:
    """Return the typed parameters of entry `name` of `kind`, defaults filled in.

    Raises:
        KeyError: `name` is not in that table.
        pydantic.ValidationError: the parameters do not fit its schema.
    """
    return find(kind, name).params.model_validate(dict(params))
