"""TRADES: accuracy traded for robustness (Zhang et al., ICML 2019; docs/methods.md, TRADES)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.catalog import TradesRecipe
from engine.attacks.steps import step
from engine.data.samples import Samples
from engine.evaluation import frozen
from engine.recipes import rows, sgd_schedule
from engine.training import Forward, Pass, Progress, fit


def trades(
    model: nn.Module,
    params: TradesRecipe,
    samples: Samples,
    positions: Tensor,
    generator: torch.Generator,
    progress: Progress,
) -> nn.Module:
    """Recipe `trades`: lower CE(f(x), y) + beta KL(p(x) | p(x')), a mean over the batch, with x' of `worst`.

    The search for x' runs in eval mode and changes no weight. The loss is in train mode, with x and x' each a batch
    of its own for BatchNorm, and its gradient flows through both.
    """

    def objective(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        near = worst(model, forward, images, params, generator)
        clean, other = forward(images), forward(near)
        return functional.cross_entropy(clean, labels) + params.beta * divergence(clean, other)

    training_set = rows(samples, positions, params.augment)
    return fit(model, [Pass(training_set, objective)], sgd_schedule(params), generator, progress)


def divergence(clean: Tensor, other: Tensor) -> Tensor:
    """KL(p | q) of softmax distributions p of logits `clean` (n, classes) and q of `other`: the mean over n."""
    return functional.kl_div(other.log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True)


def worst(
    model: nn.Module, forward: Forward, images: Tensor, params: TradesRecipe, generator: torch.Generator
) -> Tensor:
    """Return near each of `images` (n, C, H, W) the image in [0, 1] to which K steps of ascent on the KL lead.

    From x + noise N(0, 1): with `linf` steps along the gradient's sign, cut to the box around x; with `l2` steps
    of length 2 epsilon / K along the gradient, projected on the ball. Where the gradient is zero nothing moves.
    """
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    near = images + params.noise * noise
    with frozen(model):
        with torch.no_grad():
            clean = forward(images)
        for _ in range(params.steps):
            point = near.detach().requires_grad_()
            with torch.enable_grad():
                (uphill,) = torch.autograd.grad(divergence(clean, forward(point)) * len(images), point)
            if params.norm == "l2":
                near = step(images, near, uphill, params.epsilon, 2 * params.epsilon / params.steps)
            else:
                near = near + params.step * uphill.sign()
                near = near.clamp(images - params.epsilon, images + params.epsilon).clamp(0, 1)
    return near.detach()
