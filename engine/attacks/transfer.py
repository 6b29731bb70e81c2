"""Another version's adversarial set in place of a search (AMUN, table 8; docs/methods.md, transfer)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from app.catalog import TransferParams
from engine import evaluation
from engine.attacks import AttackResult


@dataclass(frozen=True)
class TransferRate:
    """How the set of model j fares on model i; shares of the examples that j's attack found, or None of none.

    fooled: P[F_i(x_adv) != y]. agreed: P[F_i(x_adv) = F_j(x_adv)]. Both explain a loss of accuracy.
    """

    found: int
    fooled: float | None
    agreed: float | None


def transfer(
    model: nn.Module, images: Tensor, labels: Tensor, params: TransferParams, given: AttackResult
) -> AttackResult:
    """Return the rows of `given`, another model's adversarial set for `images` (N, ...) in the same order.

    Inputs and labels are the other model's, as in the paper; with `keep` "all" so is `found`, which then says
    nothing of `model`. With "fooling" only rows that `model` mislabels count, in eval mode and float32.

    Raises:
        ValueError: `given` has another shape, or lies further from `images` than its norms say.
    """
    if given.images.shape != images.shape:
        raise ValueError("the adversarial set has other images than the forget set")
    norms = torch.linalg.vector_norm(given.images - images, dim=(1, 2, 3))
    if not torch.allclose(norms, given.norms, rtol=1e-3, atol=1e-4):
        raise ValueError("the adversarial set belongs to other images than the forget set")
    none_spent = torch.zeros_like(given.iterations)
    if params.keep == "all":
        return replace(given, iterations=none_spent)
    found = given.found & (_said(model, given.images, params.batch_size) != labels)
    return AttackResult(
        torch.where(found[:, None, None, None], given.images, images),
        torch.where(found, given.labels, labels),
        found,
        torch.where(found, given.norms, 0.0),
        none_spent,
        torch.where(found, given.radii, 0.0),
    )


def transfer_rate(model: nn.Module, labels: Tensor, given: AttackResult, batch_size: int = 512) -> TransferRate:
    """Measure `given` on `model`, whose true `labels` are (N,)."""
    rows = given.found.nonzero().squeeze(1)
    if not len(rows):
        return TransferRate(0, None, None)
    said = _said(model, given.images[rows], batch_size)
    fooled, agreed = (said != labels[rows]).double().mean(), (said == given.labels[rows]).double().mean()
    return TransferRate(len(rows), fooled.item(), agreed.item())


def _said(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    return evaluation.logits(model, images, batch=batch_size).argmax(1)
