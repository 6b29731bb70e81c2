"""The progress of any attack, from what goes through the model that it attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

USUAL = 0.9
"""The share that an attack has done once it has spent what it usually spends; the rest is for the worst case."""


@contextmanager
def watched(
    model: nn.Module, images: int, passes: tuple[int, int] | None, update: Callable[[float], None]
) -> Iterator[None]:
    """Call `update` with the share done, in [0, 1] and never falling, while an attack inside runs on `model`.

    Each layer that an image has gone through counts, so that a large network says something within its first pass.

    images: how many are attacked. passes: how often each goes through the model, usually and at most; None: unknown,
    and the share stays 0, though `update` is still called. What `update` raises ends the attack.
    """
    layers = [module for module in model.modules() if not any(module.children())]
    spent, done = 0.0, 0.0

    def passed(_module: nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
        nonlocal spent, done
        first = inputs[0] if inputs else None
        if isinstance(first, Tensor) and first.ndim:
            # A layer inside may see tokens or windows in the place of images: no more than all of them count.
            spent += min(len(first), images) / (len(layers) * max(1, images))
        if passes is not None:
            done = max(done, _share(spent, *passes))
        update(done)

    handles = [layer.register_forward_hook(passed) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _share(spent: float, usual: int, most: int) -> float:
    if spent <= usual or most <= usual:
        return USUAL * min(1.0, spent / usual)
    return USUAL + (1 - USUAL) * min(1.0, (spent - usual) / (most - usual))
