"""Whether a library's classifier takes such images: tried once in a process, with the reason where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from engine.architectures import Size
from engine.errors import ArchitectureError

_fine: set[Any] = set()


def require(key: Any, what: str, make: Callable[[], nn.Module], channels: int, classes: int, size: Size) -> None:
    """Build the network and give it two images, by their shapes alone where the library can do that.

    key: names what is tried. what: the network, in words.

    Raises:
        ArchitectureError: it cannot take images of that size, or answers with something else than logits.
    """
    if key in _fine:
        return
    try:
        try:
            with torch.device("meta"), torch.no_grad():
                outputs = make()(torch.empty(2, channels, *size))
        except (NotImplementedError, RuntimeError):  # it computes with values while it is built
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                outputs = make()(torch.zeros(2, channels, *size))
        if not isinstance(outputs, torch.Tensor) or outputs.shape != (2, classes):
            raise ValueError(f"it does not answer with a logit for each of {classes} classes")
    except Exception as error:  # whatever a library raises at what it cannot do
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise ArchitectureError(
            f"{what} cannot take images of {size[0]}x{size[1]} pixels: {reason}; a model's `input` says what its "
            "network is given"
        ) from None
    _fine.add(key)
