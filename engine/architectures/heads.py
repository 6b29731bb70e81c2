"""The head of a classifier: its tensors that depend on the number of classes, whichever network it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from engine.errors import MethodError

HEAD = "head_names"
"""Attribute of a network with the names of its head's tensors."""


_known: dict[str, tuple[str, ...]] = {}


def names(build: Callable[[int], nn.Module], classes: int, key: object) -> tuple[str, ...]:
    """Names of the tensors that differ between networks of `classes` and of one class more.

    build: by number of classes, an untrained network. key: names what it builds; asked once in a process.
    """
    if (found := _known.get(repr(key))) is not None:
        return found
    _known[repr(key)] = _differing(build, classes)
    return _known[repr(key)]


def _differing(build: Callable[[int], nn.Module], classes: int) -> tuple[str, ...]:
    try:
        with torch.device("meta"):
            own, other = (build(number).state_dict() for number in (classes, classes + 1))
    except (NotImplementedError, RuntimeError):  # it computes with values while it is built
        with torch.random.fork_rng(devices=[]):
            own, other = (build(number).state_dict() for number in (classes, classes + 1))
    return tuple(name for name, tensor in own.items() if name in other and other[name].shape != tensor.shape)


def of(model: nn.Module) -> tuple[str, ...]:
    """The names that `mark` left; else those of the last linear layer."""
    if hasattr(model, HEAD):
        found: tuple[str, ...] = tuple(getattr(model, HEAD))
        return found
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise MethodError("the network has no linear layer that could be its head")
    return tuple(name for name, _ in model.named_parameters() if name.rpartition(".")[0] == layers[-1])


def mark(model: nn.Module, head: tuple[str, ...]) -> nn.Module:
    setattr(model, HEAD, head)
    return model


def freeze(model: nn.Module) -> nn.Module:
    """Let the head alone be trained."""
    head = set(of(model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in head)
    return model


def layer(model: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the one linear layer that the head is.

    Raises:
        MethodError: it is another, or several.
    """
    owners = {name.rpartition(".")[0] for name in of(model)}
    if len(owners) == 1:
        (owner,) = owners
        module = model.get_submodule(owner)
        if isinstance(module, nn.Linear):
            return owner, module
    raise MethodError("the head of the network is not one linear layer, so that its features cannot be kept")


def depths(model: nn.Module) -> dict[str, int]:
    """By parameter, how many blocks lie between it and the head, which has 0; the block before the head has 1.

    A block is all that shares a name up to its first number, such as `layer1.0` or `blocks.3`, in the order in which
    the network lists them.
    """
    head = set(of(model))
    blocks: dict[str, int] = {}
    place: dict[str, int] = {}
    for name, _ in model.named_parameters():
        if name not in head:
            parts = name.split(".")
            number = next((at for at, part in enumerate(parts) if part.isdigit()), 0)
            place[name] = blocks.setdefault(".".join(parts[: number + 1]), len(blocks))
    return {name: len(blocks) - place[name] if name in place else 0 for name, _ in model.named_parameters()}
