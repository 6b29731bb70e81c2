"""Residual knowledge: does a small random change of a forgotten sample bring its class back (RURK, NeurIPS 2025)?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.catalog import ResidualParams
from engine.audits import Floats
from engine.data.batches import batch_sizes
from engine.data.samples import Samples, gather, to_float
from engine.evaluation import frozen, full_precision


@dataclass(frozen=True)
class Recognised:
    """plain: (n,) whether the model gives a sample its class as it is. share: (n,) of the changed copies it does so."""

    plain: NDArray[np.bool_]
    share: Floats


def recognised(
    model: nn.Module, samples: Samples, positions: Tensor, params: ResidualParams, generator: torch.Generator
) -> Recognised:
    """Ask `model` about rows `positions` of `samples`, and about `draws` changed copies of each.

    A change is uniform on the sphere of the radius (`l2`) or in the cube (`linf`), cut to [0, 1]. Under one seed of
    `generator` (on the device of `samples`) all models see the same copies.
    """
    plain, share = [], []
    with frozen(model), full_precision(), torch.no_grad():
        for rows in torch.split(positions, batch_sizes(len(positions), params.batch_size)):
            origin, label = to_float(gather(samples.images, rows)), samples.labels[rows]
            plain.append(model(origin).argmax(1) == label)
            right = torch.zeros(len(rows), dtype=torch.float64, device=label.device)
            for _ in range(params.draws):
                change = _change(origin, params, generator)
                right += model((origin + change).clamp(0, 1)).argmax(1) == label
            share.append(right / params.draws)
    return Recognised(torch.cat(plain).cpu().numpy(), torch.cat(share).cpu().numpy())


def _change(origin: Tensor, params: ResidualParams, generator: torch.Generator) -> Tensor:
    shape, device = origin.shape, origin.device
    if params.norm == "linf":
        return (2 * torch.rand(shape, generator=generator, device=device) - 1) * params.radius
    drawn = torch.randn(shape, generator=generator, device=device)
    found: Tensor = drawn / drawn.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * params.radius
    return found
