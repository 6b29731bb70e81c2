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
from engine.audits import Positions
from engine.audits.probes import ProbeCase, ProbeFigures
from engine.data.samples import RawData, Samples, Split
from engine.errors import UnknownNameError
from engine.methods import MethodContext
from engine.references import ReferenceSignals
from engine.training import Progress

# What the function of each kind takes and returns. `params` are those of the entry.


class MethodFunction(Protocol):
    def __call__(
        self, model: nn.Module, split: Split, params: Any, adversarial: AttackResult | None, context: MethodContext
    ) -> nn.Module: ...


class AttackFunction(Protocol):
    """given: another version's adversarial set, for the entries that need one."""

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, params: Any, *given: AttackResult
    ) -> AttackResult: ...


class AuditFunction(Protocol):
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
        candidates: int,
        subjects: NDArray[np.int64] | None,
        assigned: bool,
    ) -> tuple[Measurement, Measurement | None, Balance | None, Judgement]: ...


class ProbeFunction(Protocol):
    def __call__(self, case: ProbeCase, params: Any) -> ProbeFigures: ...


class ArchitectureFunction(Protocol):
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


class SourceFunction(Protocol):
    def __call__(self, params: Any, cache: Path | None, content: Path | None) -> RawData: ...


CONTRACTS: Mapping[str, type] = {
    "methods": MethodFunction,
    "attacks": AttackFunction,
    "audits": AuditFunction,
    "probes": ProbeFunction,
    "architectures": ArchitectureFunction,
    "recipes": RecipeFunction,
    "sources": SourceFunction,
}


def method(name: str) -> MethodFunction:
    return cast(MethodFunction, function("methods", name))


def attack(name: str) -> AttackFunction:
    return cast(AttackFunction, function("attacks", name))


def audit(name: str) -> AuditFunction:
    return cast(AuditFunction, function("audits", name))


def probe(name: str) -> ProbeFunction:
    return cast(ProbeFunction, function("probes", name))


def architecture(name: str) -> ArchitectureFunction:
    return cast(ArchitectureFunction, function("architectures", name))


def recipe(name: str) -> RecipeFunction:
    return cast(RecipeFunction, function("recipes", name))


def source(name: str) -> SourceFunction:
    return cast(SourceFunction, function("sources", name))


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
