"""The contract of a plug-in: an unlearning method, an attack, an audit or another choice of the catalog in a package
of its own.

The package offers one `Entry` for each choice, as an entry point of the group `lethe.plugins`:

    [project.entry-points."lethe.plugins"]
    my_method = "my_package.entry:MY_METHOD"

An entry is data, without torch. It has the place of its function, which only a worker imports. The service lists
what `installed()` returns, and checks parameters against the entry's JSON Schema.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GROUP = "lethe.plugins"
"""Name of the group of entry points."""
KINDS = ("methods", "attacks", "audits", "probes", "architectures", "recipes", "sources")
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
PLACE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


class PluginError(Exception):
    """A plug-in does not follow the contract; the text says which one, and what to change."""


@dataclass(frozen=True)
class Entry:
    """One choice that a plug-in adds to the catalog.

    `kind` is one of `KINDS`. `name` has a lower-case letter first, then up to 39 of a-z, 0-9 and _. `summary` is one
    line for people. `place` is where the function is, as `module:function`. `parameters` is the JSON Schema of an
    object that allows no other members; each has a default or is required. `facts` are what the service has to
    know of the choice, such as `needs_remain`. `example` has parameters with which it runs in a second.

    Raises:
        ValueError: a member breaks these rules; the text says which.
    """

    kind: str
    name: str
    summary: str
    place: str
    parameters: Mapping[str, Any]
    facts: Mapping[str, bool] = field(default_factory=dict)
    example: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if not NAME.fullmatch(self.name):
            raise ValueError(f"`name` must be a lower-case letter, then up to 39 of a-z, 0-9 and _, not {self.name!r}")
        if not self.summary.strip() or "\n" in self.summary:
            raise ValueError("`summary` must be one line of text")
        if not PLACE.fullmatch(self.place):
            raise ValueError(f"`place` must be `module:function`, not {self.place!r}")
        if not all(isinstance(value, bool) for value in self.facts.values()):
            raise ValueError("every member of `facts` must be true or false")
        _check_schema(self.parameters)
        unknown = self.example.keys() - self.parameters["properties"].keys()
        if unknown:
            raise ValueError(f"`example` has members that `parameters` lacks: {', '.join(sorted(unknown))}")


def _check_schema(schema: Mapping[str, Any]) -> None:
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`parameters` is no JSON: {error}") from None
    properties = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(properties, dict):
        raise ValueError("`parameters` must be a JSON Schema with `type` object and with `properties`")
    if schema.get("additionalProperties") is not False:
        raise ValueError("`parameters` must have `additionalProperties` false, so that a misspelt name is refused")
    for name, part in properties.items():
        if not isinstance(part, dict) or ("default" not in part and name not in schema.get("required", ())):
            raise ValueError(f"the parameter `{name}` must have a `default` or be `required`")


def installed() -> dict[str, dict[str, Entry]]:
    """Every plug-in of this environment, by kind and name.

    Raises:
        PluginError: an entry point cannot be imported, is no `Entry`, imports torch, or has a name that another has.
    """
    found: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        entry = _load(point)
        if entry.name in found[entry.kind]:
            raise PluginError(f"{_label(point)}: another plug-in has `{entry.name}` of {entry.kind}; uninstall one")
        found[entry.kind][entry.name] = entry
    return found


def _load(point: EntryPoint) -> Entry:
    before = "torch" in sys.modules
    try:
        found = point.load()
    except Exception as error:  # whatever the module of a plug-in raises
        raise PluginError(f"{_label(point)} cannot be imported: {error}; repair it or uninstall it") from error
    if not before and "torch" in sys.modules:
        raise PluginError(f"{_label(point)} imports torch; its entry must be in a module that does not")
    if not isinstance(found, Entry):
        raise PluginError(f"{_label(point)} must be a `lethe.plugins.Entry`, not {type(found).__name__}")
    return found


def _label(point: EntryPoint) -> str:
    package = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"the plug-in `{point.name}`{package} ({point.value})"
