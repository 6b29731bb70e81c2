"""Every entry of the catalog names a function that exists and has the shape of its kind; a wrong one is told apart."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType, UnionType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app import catalog
from engine import places
from engine.errors import UnknownNameError
from tests.catalog_cases import own

ENTRIES = [(kind, name) for kind, entries in catalog.KINDS.items() for name in entries]


def faults(kind: str, name: str) -> Iterator[str]:
    """Where the function of an entry differs from the contract of its kind."""
    entry, function, contract = catalog.find(kind, name), places.function(kind, name), places.CONTRACTS[kind]
    wanted = dict(list(inspect.signature(contract.__call__).parameters.items())[1:])
    if entry.needs_given:
        wanted["given"] = wanted["given"].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    else:
        wanted.pop("given", None)
    found = inspect.signature(function).parameters
    for place, (each, parameter) in enumerate(found.items()):
        if each not in wanted and parameter.default is inspect.Parameter.empty:
            yield f"nobody gives it {each}"
        elif each in wanted and wanted[each].kind != parameter.kind:
            yield f"{each} is given another way"
        elif each in wanted and list(wanted)[place] != each:
            yield f"{each} is in another place"
    yield from (f"it does not take {each}" for each in wanted.keys() - found.keys())
    its_types, types = typing.get_type_hints(function), typing.get_type_hints(contract.__call__)
    for each in [*wanted, "return"]:
        if each != "params" and each in found and its_types.get(each) != types[each]:
            yield f"{each} is of another type"
    own = its_types.get("params")
    accepted = typing.get_args(own) if isinstance(own, UnionType) else (own,)
    if not any(isinstance(each, type) and issubclass(entry.params, each) for each in accepted):
        yield "params are not those of the entry"


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_place_has_a_function_of_its_kind(kind: str, name: str) -> None:
    assert list(faults(kind, name)) == []


def fine(model: nn.Module, images: Tensor, labels: Tensor, params: catalog.PgdL2Params) -> places.AttackResult:
    raise NotImplementedError


def without_params(model: nn.Module, images: Tensor, labels: Tensor) -> places.AttackResult:
    raise NotImplementedError


def swapped(model: nn.Module, labels: Tensor, images: Tensor, params: catalog.PgdL2Params) -> places.AttackResult:
    raise NotImplementedError


def of_other_params(model: nn.Module, images: Tensor, labels: Tensor, params: catalog.RmiaParams) -> Tensor:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("function", "wrong"),
    [
        (fine, []),
        (without_params, ["it does not take params", "params are not those of the entry"]),
        (swapped, ["labels is in another place", "images is in another place"]),
        (of_other_params, ["params are not those of the entry"]),
    ],
)
def test_a_function_of_another_shape_is_found_out(monkeypatch: pytest.MonkeyPatch, function: Any, wrong: Any) -> None:
    there = replace(catalog.ATTACKS["pgd_l2"], place=f"{__name__}:{function.__name__}")
    monkeypatch.setitem(catalog.ATTACKS, "added", there)
    assert list(faults("attacks", "added")) == wrong


@pytest.mark.parametrize("name", own("architectures"))
def test_every_architecture_is_built_from_its_default_parameters(name: str) -> None:
    with torch.device("meta"):
        assert places.architecture(name)(catalog.ARCHITECTURES[name].params(), 1, 3, (32, 32)) is not None


# -- a name that is not here -----------------------------------------------------------------------


def test_an_entry_that_is_added_while_running_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("lethe_made_up")
    module.build = lambda params, channels, num_classes, size: nn.Linear(channels, num_classes)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lethe_made_up", module)
    entry = replace(catalog.ARCHITECTURES["small_cnn"], place="lethe_made_up:build")
    monkeypatch.setitem(catalog.ARCHITECTURES, "linear", entry)
    params = places.parse("architectures", "linear", {"width": 3})
    assert isinstance(places.architecture("linear")(params, 1, 2, (8, 8)), nn.Linear)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("lethe_not_installed:made_up", "No module named 'lethe_not_installed'"),
        ("engine.methods.amun:made_up", "has no attribute 'made_up'"),
    ],
)
def test_a_place_that_is_not_installed_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, place: str, reason: str
) -> None:
    monkeypatch.setitem(catalog.METHODS, "made_up", replace(catalog.METHODS["amun"], place=place))
    with pytest.raises(UnknownNameError, match=reason) as caught:
        places.method("made_up")
    assert "update the worker or install the plug-in" in str(caught.value)


def test_a_name_or_a_parameter_that_a_worker_lacks_says_what_to_do() -> None:
    with pytest.raises(UnknownNameError, match=r"the method 'made_up' .its catalog does not have the name") as caught:
        places.method("made_up")
    assert (caught.value.kind, str(caught.value).count(".")) == ("unknown-name", 0)
    with pytest.raises(UnknownNameError, match="the probe 'made_up'"):
        places.parse("probes", "made_up", {})
    with pytest.raises(UnknownNameError, match=r"the attack 'pgd_l2' .it has other parameters here"):
        places.parse("attacks", "pgd_l2", {"from_a_later_version": 1})
