"""The saliency mask of SalUn (Fan et al., ICLR 2024; docs/methods.md, SalUn), and weights that stay frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.data.samples import Split, gather, to_float
from engine.evaluation import eval_mode

BATCH = 512


def saliency_mask(model: nn.Module, split: Split, ratio: float) -> dict[str, Tensor]:
    """Return for each parameter of `model` by name the bool mask of its entries that may be trained.

    These are the share `ratio` of all entries (at least one, of all parameters together) with the largest
    |gradient| of the cross-entropy summed over the forget set. In eval mode and without augmentation, so
    that the mask is a function of the weights and the set alone; the public code crops and flips there,
    and weights the samples of a short last batch more. Of equal entries the first ones are taken.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    totals = [torch.zeros_like(parameter) for parameter in named.values()]
    with eval_mode(model):
        for positions in torch.split(split.forget, BATCH):
            outputs = model(to_float(gather(split.samples.images, positions)))
            loss = functional.cross_entropy(outputs, split.samples.labels[positions], reduction="sum")
            for total, gradient in zip(totals, torch.autograd.grad(loss, list(named.values())), strict=True):
                total += gradient
    sizes = [total.abs().reshape(-1) for total in totals]
    order = torch.cat(sizes).argsort(descending=True, stable=True)
    chosen = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    chosen[order[: max(1, round(ratio * len(order)))]] = True
    parts = torch.split(chosen, [len(size) for size in sizes])
    return {name: part.view(total.shape) for name, part, total in zip(named, parts, totals, strict=True)}


def freezer(model: nn.Module, mask: Mapping[str, Tensor]) -> Callable[[], None]:
    """Return a function that puts every entry outside `mask` back to its present value, bit for bit.

    Called after each step of the optimizer it freezes them. The public code masks the gradient instead, so that
    weight decay and earlier momentum still move them.
    """
    frozen = [
        (parameter, mask[name], parameter.detach().clone())
        for name, parameter in model.named_parameters()
        if name in mask
    ]

    @torch.no_grad()
    def restore() -> None:
        for parameter, free, value in frozen:
            parameter.copy_(torch.where(free, parameter, value))

    return restore
