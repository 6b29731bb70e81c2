"""The catalog's parameters: frozen, closed, finite, and with JSON Schemas that say so."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from app import catalog

ENTRIES = [(kind, name) for kind, entries in catalog.KINDS.items() for name in entries]


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_parameters_are_closed_frozen_and_finite(kind: str, name: str) -> None:
    entry = catalog.KINDS[kind][name]
    assert entry.summary
    params = catalog.parse(kind, name, {})
    with pytest.raises(ValidationError):
        catalog.parse(kind, name, {"unknown": 1})
    for field, info in entry.params.model_fields.items():
        with pytest.raises(ValidationError):
            setattr(params, field, getattr(params, field))
        if info.annotation is float:
            for value in (math.nan, math.inf, -math.inf, 1e308):
                with pytest.raises(ValidationError):
                    catalog.parse(kind, name, {field: value})
        if info.annotation is int:
            for wrong in (10**30, -(10**30), 1.5, "x", None):
                with pytest.raises(ValidationError):
                    catalog.parse(kind, name, {field: wrong})
    schema = entry.params.model_json_schema()
    assert schema["additionalProperties"] is False
    assert schema.get("properties", {}).keys() == entry.params.model_fields.keys()


def test_an_unknown_name_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        catalog.parse("methods", "nothing", {})


@pytest.mark.parametrize(
    "options",
    [
        {"size": math.nan},
        {"size": math.inf},
        {"size": 2**60},
        {"a b": 1},
        {"": 1},
        {"x" * 41: 1},
        {"split": "a\x00"},
        {"split": "a\n"},
        {"split": "x" * 201},
        {"split": ["a"]},
        {"split": None},
    ],
)
def test_options_of_a_torchvision_set_are_plain(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        catalog.parse("sources", "torchvision", {"options": options})


def test_options_keep_their_types() -> None:
    options = {"size": 10, "split": "letters", "download": True, "ratio": 0.5}
    found = catalog.parse("sources", "torchvision", {"options": options}).model_dump()["options"]
    assert found == options
    assert [type(value) for value in found.values()] == [int, str, bool, float]
