"""Plug-ins that the operator installed (`lethe.plugins`), as entries of the catalog.

An entry's JSON Schema becomes a model of parameters like that of any other entry, so that the whole service checks and
shows it alike. What such a model cannot hold is refused when the service starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from app.catalog.base import Entry, Params
from lethe import plugins
from lethe.plugins import PluginError

TYPES: Mapping[str, Any] = {"integer": int, "number": float, "string": str, "boolean": bool}
LIMITS = {
    "minimum": "ge",
    "maximum": "le",
    "exclusiveMinimum": "gt",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
    "minLength": "min_length",
    "maxLength": "max_length",
    "pattern": "pattern",
    "minItems": "min_length",
    "maxItems": "max_length",
}
PLAIN = {"type", "enum", "default", "description", "title", "items"}
FACTS = {"needs_remain", "needs_holdout", "needs_adversarial", "needs_given", "held", "exact"}


def entries(own: Mapping[str, Mapping[str, Entry]]) -> dict[str, dict[str, Entry]]:
    """Entries of the installed plug-ins by kind and name.

    own: the catalog's, whose names no plug-in may have.

    Raises:
        PluginError: one breaks the contract, or has a name of the catalog's.
    """
    found: dict[str, dict[str, Entry]] = {}
    for kind, installed in plugins.installed().items():
        for name, plugin in installed.items():
            if name in own[kind]:
                raise PluginError(f"the plug-in `{name}` of {kind} has a name of the catalog's own; rename it")
            found.setdefault(kind, {})[name] = entry_of(plugin)
    return found


def entry_of(plugin: plugins.Entry) -> Entry:
    """A plug-in as an entry.

    Raises:
        PluginError: its facts or its parameters are not known here.
    """
    if unknown := sorted(plugin.facts.keys() - FACTS):
        raise PluginError(f"the plug-in `{plugin.name}`: unknown facts {', '.join(unknown)}")
    needed = plugin.parameters.get("required", ())
    fields: dict[str, Any] = {}
    for name, schema in plugin.parameters["properties"].items():
        own = _type(plugin.name, name, schema)
        fields[name] = (own, ... if name in needed and "default" not in schema else schema["default"])
    params = create_model(f"{plugin.name}_params", __base__=Params, __doc__=plugin.summary, **fields)
    facts: dict[str, Any] = dict(plugin.facts)
    return Entry(plugin.summary, params, plugin.place, plugin.example, plugin=True, **facts)


def _type(plugin: str, name: str, schema: Mapping[str, Any]) -> Any:
    where = f"the plug-in `{plugin}`: the parameter `{name}`"
    if unknown := sorted(schema.keys() - PLAIN - LIMITS.keys()):
        raise PluginError(f"{where} has {', '.join(unknown)}, which is not known here")
    described: dict[str, Any] = {"description": schema["description"]} if "description" in schema else {}
    limits: dict[str, Any] = {LIMITS[word]: value for word, value in schema.items() if word in LIMITS}
    own: Any
    if "enum" in schema:
        literal: Any = Literal
        own = literal[tuple(schema["enum"])]
        return Annotated[own, Field(**described)]
    kinds = schema.get("type")
    empty = isinstance(kinds, list) and "null" in kinds
    others = [each for each in kinds if each != "null"] if isinstance(kinds, list) else [kinds]
    kind = others[0] if len(others) == 1 else None
    if kind == "array" and isinstance(schema.get("items"), dict):
        several: Any = tuple
        own = Annotated[several[_type(plugin, name, schema["items"]), ...], Field(strict=False, **limits)]
    elif kind in TYPES:
        if kind == "number":
            limits["allow_inf_nan"] = False
        own = Annotated[TYPES[str(kind)], Field(**limits)]
    else:
        raise PluginError(f"{where} has the type {kind}, which is not known here; send integer, number, string, …")
    return Annotated[own | None if empty else own, Field(**described)]
