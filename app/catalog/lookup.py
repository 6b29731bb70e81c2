"""The catalog: every method, attack, audit, architecture, recipe and source by name, without torch.

A name maps to an `Entry`: the pydantic model of its parameters and facts about it that policy checks
need. `engine/registry.py` binds the same names to functions; a test holds both to the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.catalog.architectures import ARCHITECTURES
from app.catalog.attacks import ATTACKS
from app.catalog.audits import AUDITS, PROBES
from app.catalog.base import Entry, Params
from app.catalog.methods import METHODS
from app.catalog.recipes import RECIPES
from app.catalog.sources import SOURCES

# -- methods ---------------------------------------------------------------------------------------


# -- attacks ---------------------------------------------------------------------------------------


# -- audits ----------------------------------------------------------------------------------------


# -- probes: what an audit may measure beside its verdict, on models instead of logits ------------------


# -- architectures ---------------------------------------------------------------------------------


# -- recipes ---------------------------------------------------------------------------------------


# -- sources ---------------------------------------------------------------------------------------


# -- the tables ------------------------------------------------------------------------------------


KINDS: Mapping[str, Mapping[str, Entry]] = {
    "methods": METHODS,
    "attacks": ATTACKS,
    "audits": AUDITS,
    "probes": PROBES,
    "architectures": ARCHITECTURES,
    "recipes": RECIPES,
    "sources": SOURCES,
}


def parse(kind: str, name: str, params: Mapping[str, Any]) -> Params:
    """Return the typed parameters of entry `name` of `kind`, defaults filled in.

    Raises:
        KeyError: `name` is not in that table.
        pydantic.ValidationError: the parameters do not fit its schema.
    """
    return KINDS[kind][name].params.model_validate(dict(params))
