"""SGD with clipped operator norms (FastClip: Boroojeny, Telgarsky, Sundaram 2024; docs/methods.md, Spectral
clipping)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.catalog import SpectralClippingRecipe
from engine.data.samples import Samples
from engine.evaluation import eval_mode
from engine.recipes import rows, sgd_schedule
from engine.training import Pass, Progress, fit

Operator = Callable[[Tensor, Tensor], Tensor]
"""(inputs (k, ...), weight) to the outputs (k, ...) of a layer without its bias."""

ITERATIONS = 50
"""From a vector drawn at random to an estimate of the norm, never above it and a few percent below it."""
LAST_ROUNDS = 100
SLACK = 1.01
TINY = 1e-30


def spectral_clipping(
    model: nn.Module,
    params: SpectralClippingRecipe,
    samples: Samples,
    positions: Tensor,
    generator: torch.Generator,
    progress: Progress,
) -> nn.Module:
    """Recipe `spectral_clipping`: SGD, one power iteration of each layer per step, and a clip every `every` steps.

    After the last step layers are clipped until each is within 1 % of the bound by its own estimate, which is
    within a few percent of the truth. Only layers above the bound are changed; the public code's `exact` also
    raises those below.

    Raises:
        ValueError: see `operator`.
        DivergedError: see `engine.training.run_epochs`.
    """
    layers = Layers(model, samples.shape, generator)

    def after_step() -> None:
        layers.iterate()
        layers.steps += 1
        if int(layers.steps) % params.every == 0:
            layers.clip(params.bound, params.clip_steps)

    fit(
        model,
        [Pass(rows(samples, positions, params.augment))],
        sgd_schedule(params),
        generator,
        progress,
        after_step=after_step,
        parts={"layers": (layers, None)},
    )
    for _ in range(LAST_ROUNDS):
        for _ in range(ITERATIONS):
            layers.iterate()
        if not layers.clip(params.bound, params.clip_steps, slack=SLACK):
            break
    return model


class Layers(nn.Module):
    """Convolutions and linear layers of a model, each with its top right singular vector as known so far.

    The vectors and the number of steps are buffers, so that a resumed run has them.
    """

    steps: Tensor

    def __init__(self, model: nn.Module, shape: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator
        self._found: list[tuple[nn.Module, Operator]] = []
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        for number, (layer, of_inputs) in enumerate(inputs_of(model, shape)):
            self._found.append((layer, operator(layer)))
            self.register_buffer(f"vector{number}", weight_of(layer).detach().new_empty(1, *of_inputs))
            self._draw(number)
        for _ in range(ITERATIONS):
            self.iterate()

    def _draw(self, number: int) -> None:
        vector = self.get_buffer(f"vector{number}")
        vector.normal_(generator=self._generator)
        vector /= torch.linalg.vector_norm(vector)

    def iterate(self) -> None:
        """One power iteration of each layer."""
        for number, (layer, apply) in enumerate(self._found):
            vector = self.get_buffer(f"vector{number}")
            vector.copy_(iterate(apply, weight_of(layer).detach(), vector)[0])

    def clip(self, bound: float, steps: int, slack: float = 1.0) -> bool:
        """Clip the layers above `slack` times `bound`, and say whether there was one.

        Its vector is drawn again, because the old one stays a singular vector, of a smaller value, and would hide the
        next one.
        """
        vectors = [self.get_buffer(f"vector{number}") for number in range(len(self._found))]
        norms = [
            torch.linalg.vector_norm(apply(vector, weight_of(layer).detach()))
            for vector, (layer, apply) in zip(vectors, self._found, strict=True)
        ]
        # All of them at once: each value that is read waits for the device.
        above = [number for number, norm in enumerate(torch.stack(norms).cpu().tolist()) if norm > slack * bound]
        for number in above:
            layer, apply = self._found[number]
            clip(apply, weight_of(layer), vectors[number], bound, steps)
            self._draw(number)
        return bool(above)


def inputs_of(model: nn.Module, shape: tuple[int, ...]) -> list[tuple[nn.Module, tuple[int, ...]]]:
    """Return each convolution and linear layer that an image of `shape` goes through, with its input's shape."""
    seen: dict[nn.Module, tuple[int, ...]] = {}

    def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.setdefault(layer, tuple(inputs[0].shape[1:]))

    chosen = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [module.register_forward_pre_hook(look) for module in chosen]
    try:
        with eval_mode(model), torch.no_grad():
            model(next(model.parameters()).new_zeros(1, *shape))
    finally:
        for hook in hooks:
            hook.remove()
    return list(seen.items())


def operator(layer: nn.Module) -> Operator:
    """The linear part of `layer`, with its weight as an argument.

    Raises:
        ValueError: the layer is a convolution that pads with something else than zeros.
    """
    if isinstance(layer, nn.Linear):
        return functional.linear
    assert isinstance(layer, nn.Conv2d)  # noqa: S101  for the type checker
    if layer.padding_mode != "zeros":
        raise ValueError("clipping knows convolutions that pad with zeros only")
    return partial(_convolve, stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups)


def _convolve(inputs: Tensor, weight: Tensor, **options: Any) -> Tensor:
    return functional.conv2d(inputs, weight, None, **options)


def weight_of(layer: nn.Module) -> Tensor:
    return layer.get_parameter("weight")


def iterate(apply: Operator, weight: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """One step of subspace iteration with I + M^T M, M the layer, from orthonormal `vectors` (k, ...).

    M^T comes from autodiff: (I + M^T M) X = X + grad of |M X|^2 / 2. By Q R of it, Q are the vectors nearer to
    the right singular ones, largest first, and sqrt(|R_ii| - 1) their singular values (k,) as known so far.
    """
    point = vectors.detach().requires_grad_()
    with torch.enable_grad():
        image = apply(point, weight)
        (back,) = torch.autograd.grad(image, point, image.detach())
    moved = (vectors + back).flatten(1).T
    q, r = torch.linalg.qr(moved)
    return q.T.reshape(vectors.shape), (r.diagonal().abs() - 1).clamp_min(0).sqrt()


def clip(apply: Operator, weight: Tensor, vector: Tensor, bound: float, steps: int) -> None:
    """Move `weight` in place until M v is bound / |M v| times what it was.

    By gradient steps on |M_W v - target|^2 / 2, v (1, ...) of length 1. Their length is the exact minimum along
    the gradient, |g|^2 / |M_g v|^2, for M is linear in W: a fixed length, as in the public code, diverges where a
    smooth v is seen by every entry of the kernel. For a matrix the first step is the last.
    """
    with torch.no_grad():
        start = apply(vector, weight)
        norm = torch.linalg.vector_norm(start)
        target = start * (bound / norm)
    for _ in range(steps):
        point = weight.detach().requires_grad_()
        with torch.enable_grad():
            residual = apply(vector, point) - target
            (uphill,) = torch.autograd.grad(residual, point, residual.detach())
        with torch.no_grad():
            change = apply(vector, uphill)
            weight -= uphill * (uphill.square().sum() / change.square().sum().clamp_min(TINY))
