"""What a classifier answers: logits and accuracy, in eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from worker.data.samples import gather, to_float


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode inside, and each back in its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients for the weights inside; both as before afterwards."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        with eval_mode(model):
            yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@torch.no_grad()
def logits(model: nn.Module, images: Tensor, positions: Tensor | None = None, batch: int = 1024) -> Tensor:
    """Return the logits (n, classes), float32, of rows `positions` of `images`, or of all of them.

    images: (N, C, H, W), uint8 or float32 in [0, 1], on the device of the model.
    """
    n = len(images) if positions is None else len(positions)
    parts = []
    with eval_mode(model):
        for start in range(0, n, batch):
            rows = slice(start, start + batch)
            chosen = images[rows] if positions is None else gather(images, positions[rows])
            parts.append(model(to_float(chosen)).float())
    return torch.cat(parts)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of rows of `logits` (n, classes) whose largest entry is at `labels` (n,)."""
    return (logits.argmax(1) == labels).double().mean().item()
