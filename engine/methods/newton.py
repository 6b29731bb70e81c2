"""Damped Newton steps in weight space: Hessian-vector products and two solvers (docs/methods.md, Newton step).

A weight vector is the concatenation (P,) of all parameters that are trained, in their order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp

from engine.errors import DivergedError
from engine.training import Loss

LossOfWeights = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(weights (P,), images, labels) to the mean loss ()."""
Product = Callable[[Tensor], Tensor]
ReportShare = Callable[[float], None]
"""Gets the share of the solving that is done."""

STEPS_BETWEEN_CHECKS = 50
SLACK = 2.0


@contextmanager
def forward_mode() -> Iterator[None]:
    """Torch's first forward-mode derivative loads rules through its own deprecated compiler; hide that notice."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        yield


def loss_of_weights(model: nn.Module, loss: Loss) -> LossOfWeights:
    """The loss of `model` as a function of its weights. Buffers stay as they are: call it in eval mode."""
    named = {name: parameter.shape for name, parameter in model.named_parameters() if parameter.requires_grad}
    sizes = [shape.numel() for shape in named.values()]

    def value(weights: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        parts = torch.split(weights, sizes)
        tensors = {name: part.view(shape) for (name, shape), part in zip(named.items(), parts, strict=True)}
        return loss(functional_call(model, tensors, (images,)), labels)

    return value


def gradient(value: LossOfWeights, weights: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    result: Tensor = grad(value)(weights, images, labels)
    return result


def hessian_product(value: LossOfWeights, weights: Tensor, images: Tensor, labels: Tensor, vector: Tensor) -> Tensor:
    """H v as the forward derivative of the gradient: no graph of the backward pass is kept."""
    result: Tensor = jvp(lambda at: grad(value)(at, images, labels), (weights,), (vector,))[1]
    return result


def lissa(product: Product, g: Tensor, scale: float, steps: int, report: ReportShare) -> Tensor:
    """Return a stochastic estimate of A^-1 g: v_0 = g, v_t+1 = g + v_t - A_t v_t / s, then v / s.

    After `steps` steps directions of curvature far under s / steps are still damped to about steps / s.

    Args:
        product: v to A_t v, with a fresh draw A_t of A at each call.
        scale: s.

    Raises:
        DivergedError: |v_t| exceeds twice (t + 1) |g|. Where every A_t has its curvature in [0, 2s] each
            step is a contraction plus g, so that |v_t| <= (t + 1) |g|; otherwise the sum does not converge.
    """
    v, size = g, torch.linalg.vector_norm(g)
    for step in range(1, steps + 1):
        v = g + v - product(v) / scale
        if step % STEPS_BETWEEN_CHECKS == 0 or step == steps:
            if not bool(torch.linalg.vector_norm(v) <= SLACK * (step + 1) * size):
                raise DivergedError(
                    f"the inverse Hessian's series diverges at step {step}: raise lissa_scale above half of the "
                    "largest curvature, or the damping above the most negative"
                )
            report(step / steps)
    return v / scale


def conjugate_gradient(product: Product, g: Tensor, iterations: int, tolerance: float, report: ReportShare) -> Tensor:
    """Solve A x = g from x = 0 until |A x - g| <= tolerance |g|, or for `iterations` iterations.

    Raises:
        DivergedError: A has a direction of curvature that is not positive, or a value stops being finite.
    """
    x, residual = torch.zeros_like(g), g
    direction, norm = g, g @ g
    target = tolerance**2 * norm
    for iteration in range(1, iterations + 1):
        if bool(norm <= target):
            break
        image = product(direction)
        curvature = direction @ image
        if not bool(curvature > 0):
            worst = (curvature / (direction @ direction)).item()
            raise DivergedError(
                f"the damped Hessian has a direction of curvature {worst:.3g}: raise the damping by more than that"
            )
        length = norm / curvature
        x = x + length * direction
        residual = residual - length * image
        before, norm = norm, residual @ residual
        direction = residual + (norm / before) * direction
        report(iteration / iterations)
    return x
