"""One damped Newton step to the optimum without the forget set, then noise (docs/methods.md, Newton step)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.catalog import CertifiedNewtonParams
from engine.attacks import AttackResult
from engine.data.samples import Split, gather, to_float
from engine.errors import DivergedError
from engine.evaluation import eval_mode
from engine.methods import MethodContext, require_remain
from engine.methods.newton import (
    LossOfWeights,
    conjugate_gradient,
    forward_mode,
    gradient,
    hessian_product,
    lissa,
    loss_of_weights,
)
from engine.training import Loss

SHARE_OF_SOLVING = 0.95


def certified_newton(
    model: nn.Module,
    split: Split,
    params: CertifiedNewtonParams,
    adversarial: AttackResult | None,  # noqa: ARG001  the methods' common shape
    context: MethodContext,
    loss: Loss = functional.cross_entropy,
) -> nn.Module:
    """theta <- theta - (H + gamma I)^-1 g + N(0, sigma^2 I), g and H of the mean loss on the remain set.

    Zhang et al., ICML 2024. The forget set itself is never used. g and H contain the quadratic penalty
    `weight_decay` / 2 |theta|^2; gamma is added to the Hessian as such, while the public code penalises
    norms that are not squared, whose Hessian is not gamma I. Images are not augmented. BatchNorm is in eval
    mode throughout and its running statistics stay. Neither the step nor sigma certifies anything: see
    `CertifiedNewtonParams`. There is no state in between: an interrupted run starts over.

    Args:
        loss: the mean loss whose optimum is sought.

    Raises:
        MethodError: there is no remain set.
        DivergedError: the solver diverges (see `engine.methods.newton`), or a weight is not finite.
    """
    require_remain(split, "a Newton step")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    start = torch.cat([parameter.detach().reshape(-1) for parameter in trained])
    with eval_mode(model), forward_mode(), torch.no_grad():
        value = loss_of_weights(model, loss)
        g = _mean(split, params.batch_size, lambda images, labels: gradient(value, start, images, labels))
        g = g + params.weight_decay * start
        if not torch.isfinite(g).all():
            raise DivergedError("the gradient on the remain set is not finite")
        step = SOLVERS[params.solver](value, start, g, split, params, context)
    noise = torch.randn(start.shape, generator=context.generator, device=start.device)
    end = start - step + params.noise * noise
    if not torch.isfinite(end).all():
        raise DivergedError("the Newton step is not finite")
    with torch.no_grad():
        parts = torch.split(end, [parameter.numel() for parameter in trained])
        for parameter, part in zip(trained, parts, strict=True):
            parameter.copy_(part.view(parameter.shape))
    context.progress.update(1.0)
    return model.eval()


def _mean(split: Split, batch_size: int, of_batch: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The mean over the remain set of what `of_batch` gives as the mean over (images, labels)."""
    samples, n = split.samples, len(split.remain)
    total = torch.zeros(())
    for positions in torch.split(split.remain, batch_size):
        mean = of_batch(to_float(gather(samples.images, positions)), samples.labels[positions])
        total = total.to(mean) + mean * (len(positions) / n)
    return total


def _by_lissa(
    value: LossOfWeights,
    start: Tensor,
    g: Tensor,
    split: Split,
    params: CertifiedNewtonParams,
    context: MethodContext,
) -> Tensor:
    samples, damping = split.samples, params.damping + params.weight_decay

    def product(v: Tensor) -> Tensor:
        rows = torch.randint(
            len(split.remain), (params.lissa_batch_size,), generator=context.generator, device=g.device
        )
        positions = split.remain[rows]
        images = to_float(gather(samples.images, positions))
        return hessian_product(value, start, images, samples.labels[positions], v) + damping * v

    mean = torch.zeros_like(g)
    for chain in range(params.lissa_chains):

        def report(done: float, chain: int = chain) -> None:
            context.progress.update(SHARE_OF_SOLVING * (chain + done) / params.lissa_chains)

        mean += lissa(product, g, params.lissa_scale, params.lissa_steps, report) / params.lissa_chains
    return mean


def _by_conjugate_gradient(
    value: LossOfWeights,
    start: Tensor,
    g: Tensor,
    split: Split,
    params: CertifiedNewtonParams,
    context: MethodContext,
) -> Tensor:
    damping = params.damping + params.weight_decay

    def product(v: Tensor) -> Tensor:
        def of_batch(images: Tensor, labels: Tensor) -> Tensor:
            return hessian_product(value, start, images, labels, v)

        return _mean(split, params.batch_size, of_batch) + damping * v

    def report(done: float) -> None:
        context.progress.update(SHARE_OF_SOLVING * done)

    return conjugate_gradient(product, g, params.cg_iterations, params.cg_tolerance, report)


SOLVERS: dict[str, Callable[..., Tensor]] = {
    "lissa": _by_lissa,
    "conjugate_gradient": _by_conjugate_gradient,
}
