"""What the attacks share: gradients that do not vanish, steps inside a ball and the box, what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

ROUNDING = 1e-5
TINY = 1e-30


def norms(batch: Tensor) -> Tensor:
    """L2 norms of (n, C, H, W) as (n, 1, 1, 1)."""
    return cast(Tensor, torch.linalg.vector_norm(batch, dim=(1, 2, 3), keepdim=True))


def ascent(model: nn.Module, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of CE / (1 - p_y) at `points` and whether the label has flipped there.

    d CE / d logits = p - e_y = (1 - p_y) * (q - e_y), with q the softmax over the other classes. A flip
    counts once it exceeds what rounding could undo in a batch of another size.
    """
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        outputs = model(points)
    at_label = labels[:, None]
    others = outputs.detach().scatter(1, at_label, -torch.inf)
    (gradient,) = torch.autograd.grad(outputs, points, others.softmax(1).scatter(1, at_label, -1.0))
    own = outputs.detach().gather(1, at_label).squeeze(1)
    return gradient, others.amax(1) - own > ROUNDING * (1 + own.abs())


def runner_up(model: nn.Module, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the best other logit lies above the true one, less what rounding could undo, (n,), and
    the gradient of that margin (n, C, H, W): the label has flipped for certain where the margin is positive.
    """
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        outputs = model(points).float()
    at_label = labels[:, None]
    own = outputs.detach().gather(1, at_label)
    top, other = outputs.detach().scatter(1, at_label, -torch.inf).max(1, keepdim=True)
    direction = torch.zeros_like(outputs).scatter(1, other, 1.0).scatter(1, at_label, -1.0)
    (gradient,) = torch.autograd.grad(outputs, points, direction)
    return (top - own - ROUNDING * (1 + own.abs())).squeeze(1), gradient.float()


def step(origin: Tensor, point: Tensor, direction: Tensor, radius: float, length: float) -> Tensor:
    """One step of `length` along `direction`, projected on the L2 ball around `origin`, clipped to [0, 1]."""
    shift = point + direction * (length / norms(direction).clamp_min(TINY)) - origin
    return (origin + shift * (radius / norms(shift).clamp_min(TINY)).clamp_max(1)).clamp(0, 1)


@dataclass
class Cost:
    """Forward-equivalents: one for each image that went forward, one for each that went back to the input."""

    forwards: int = 0
    backwards: int = 0

    @property
    def total(self) -> int:
        return self.forwards + self.backwards


@contextmanager
def counted(model: nn.Module) -> Iterator[Cost]:
    """Count what goes through `model` inside; shapes only, so that a device is never waited for."""
    cost = Cost()

    def back(gradient: Tensor) -> None:
        cost.backwards += len(gradient)

    def forward(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        cost.forwards += len(output)
        if output.requires_grad:
            output.register_hook(back)  # type: ignore[no-untyped-call]

    handle = model.register_forward_hook(forward)
    try:
        yield cost
    finally:
        handle.remove()
