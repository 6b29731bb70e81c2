"""Robust accuracy: is the model easier to fool after unlearning than before?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from app.catalog import RobustParams
from engine.attacks.steps import ascent, step
from engine.data.batches import batch_sizes
from engine.data.samples import Samples, gather, to_float
from engine.evaluation import frozen, full_precision


def robust_accuracy(model: nn.Module, samples: Samples, positions: Tensor, params: RobustParams) -> float:
    """Return the share of rows `positions` of `samples` that no point of an L2 PGD inside `epsilon` fools.

    The attack starts at the image, steps along the cross-entropy's normalised gradient and counts a row as
    fooled by any point on the way. A small fixed attack: an upper bound on robustness, for comparing two
    models, not a replacement for AutoAttack.

    Raises:
        ValueError: `positions` is empty.
    """
    if not len(positions):
        raise ValueError("there is no sample to attack")
    held = torch.zeros((), dtype=torch.int64, device=positions.device)
    with frozen(model), full_precision():
        for rows in torch.split(positions, batch_sizes(len(positions), params.batch_size)):
            origin, label = to_float(gather(samples.images, rows)), samples.labels[rows]
            point, fooled = origin, torch.zeros_like(label, dtype=torch.bool)
            for _ in range(params.steps):
                uphill, flipped = ascent(model, point, label)
                fooled |= flipped
                point = step(origin, point, uphill, params.epsilon, params.epsilon * params.step_fraction)
            with torch.no_grad():
                fooled |= model(point).argmax(1) != label
            held += (~fooled).sum()
    return held.item() / len(positions)
