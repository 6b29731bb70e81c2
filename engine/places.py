"""From a name of the catalog to its function: an entry says where it is, and it is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from app import catalog
from app.catalog import Entry, Params
from app.formats.audit_report import Balance, Judgement, Measurement
from engine.architectures import Size
from engine.attacks import AttackResult
from engine.audits.probes import ProbeCase, ProbeFigures
from engine.audits.verdict import Positions
from engine.data.samples import RawData, Samples, Split
from engine.errors import UnknownNameError
from engine.methods import MethodContext
from engine.references import ReferenceSignals
from engine.training import Progress

# What the function of each kind takes and returns. `params` are those of the entry.


class Method(Protocol):
    def __call__(
        self, model: nn.Module, split: Split, params: Any, adversarial: AttackResult | None, context: MethodContext
    ) -> nn.Module: ...


class Attack(Protocol):
    """given: another version's adversarial set, for the entries that need one."""

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, params: Any, *given: AttackResult
    ) -> AttackResult: ...


class Audit(Protocol):
    def __call__(
        self,
        candidate_logits: NDArray[Any],
        parent_logits: NDArray[Any] | None,
        labels: NDArray[np.int64],
        forget: Positions,
        remain: Positions,
        holdout: Positions,
        references: ReferenceSignals | None,
        params: Any,
        *,
        utility_floor: float | None,
        grouped: bool,
        retrained_logits: Sequence[NDArray[Any]],
        known: Positions | None,
    ) -> tuple[Measurement, Measurement | None, Balance | None, Judgement]: ...


class Probe(Protocol):
    def __call__(self, case: ProbeCase, params: Any) -> ProbeFigures: ...


class Architecture(Protocol):
    def __call__(self, params: Any, channels: int, num_classes: int, size: Size) -> nn.Module: ...


class RecipeFunction(Protocol):
    def __call__(
        self,
        model: nn.Module,
        params: Any,
        samples: Samples,
        positions: Tensor,
        generator: torch.Generator,
        progress: Progress,
    ) -> nn.Module: ...


class Source(Protocol):
    def __call__(self, params: Any, cache: Path | None, content: Path | None) -> RawData: ...


CONTRACTS: Mapping[str, type] = {
    "methods": Method,
    "attacks": Attack,
    "audits": Audit,
    "probes": Probe,
    "architectures": Architecture,
    "recipes": RecipeFunction,
    "sources": Source,
}


def method(name: str) -> Method:
    return cast(Method, function("methods", name))


def attack(name: str) -> Attack:
    return cast(Attack, function("attacks", name))


def audit(name: str) -> Audit:
    return cast(Audit, function("audits", name))


def probe(name: str) -> Probe:
    return cast(Probe, function("probes", name))


def architecture(name: str) -> Architecture:
    return cast(Architecture, function("architectures", name))


def recipe(name: str) -> RecipeFunction:
    return cast(RecipeFunction, function("recipes", name))


def source(name: str) -> Source:
    return cast(Source, function("sources", name))


def function(kind: str, name: str) -> Callable[..., Any]:
    """Return the function of an entry, imported the first time.

    Raises:
        UnknownNameError: the catalog has no such name, or its place is not installed here.
    """
    try:
        return imported(_entry(kind, name).place)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UnknownNameError(_called(kind, name), str(error)) from error


def parse(kind: str, name: str, params: Mapping[str, Any]) -> Params:
    """Return typed parameters that a service has accepted and stored.

    Raises:
        UnknownNameError: the catalog has no such name, or it takes other parameters.
    """
    _entry(kind, name)
    try:
        return catalog.parse(kind, name, params)
    except ValidationError as error:
        raise UnknownNameError(_called(kind, name), "it has other parameters here") from error


def _entry(kind: str, name: str) -> Entry:
    try:
        return catalog.find(kind, name)
    except KeyError:
        raise UnknownNameError(_called(kind, name), "its catalog does not have the name") from None


def _called(kind: str, name: str) -> str:
    return f"the {kind.removesuffix('s')} {name!r}"


@cache
def imported(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
