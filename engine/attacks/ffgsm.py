"""The weak attack: steps along the sign of one gradient, with random restarts (docs/methods.md, ffgsm)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from app.catalog import FfgsmParams
from engine.attacks import AttackResult, verified
from engine.attacks.steps import ascent
from engine.data.batches import batch_sizes
from engine.data.samples import gather
from engine.evaluation import frozen, full_precision, logits


def ffgsm(model: nn.Module, images: Tensor, labels: Tensor, params: FfgsmParams) -> AttackResult:
    """Walk each of `images` (N, C, H, W) float32 in [0, 1] along the sign of its gradient until it flips.

    g = sign of the cross-entropy's gradient at x is taken once; x + k * step * g for k = 1, 2, ... `steps`,
    clipped to [0, 1], ends at the first flip. A row without one starts again from x plus uniform noise in
    +-`noise`, with a gradient taken there: one gradient a start, `starts` of them at most. Distances are to
    the image as given, noise included. The AMUN paper gives neither step, number nor noise (its appendix
    describes the attack in words; the public code has none), so all are parameters.

    The noise is drawn from `seed` on the CPU, one draw a start for all rows, so it does not depend on the batches.
    """
    points = images.clone()
    iterations = torch.zeros(len(images), dtype=torch.int32, device=images.device)
    generator = torch.Generator().manual_seed(params.seed)
    with frozen(model), full_precision():
        said = logits(model, images, batch=params.batch_size).argmax(1)
        active = (said == labels).nonzero().squeeze(1)
        start = images
        for _ in range(params.starts):
            if not len(active):
                break
            flips = []
            for rows in torch.split(active, batch_sizes(len(active), params.batch_size)):
                point, flipped = _line(model, gather(start, rows), labels[rows], params)
                points[rows] = torch.where(flipped[:, None, None, None], point, points[rows])
                flips.append(flipped)
            iterations[active] += 1
            active = active[~torch.cat(flips)]
            noise = torch.rand(images.shape, generator=generator).to(images.device)
            start = (images + (2 * noise - 1) * params.noise).clamp(0, 1)
    return verified(model, images, labels, points, iterations, params.batch_size)


def _line(model: nn.Module, start: Tensor, labels: Tensor, params: FfgsmParams) -> tuple[Tensor, Tensor]:
    """Walk from `start` along one sign; return where each row flipped first and whether it did."""
    gradient, flipped = ascent(model, start, labels)
    sign, point = gradient.sign(), start
    for number in range(1, params.steps + 1):
        moved = (start + number * params.step * sign).clamp(0, 1)
        point = torch.where(flipped[:, None, None, None], point, moved)
        with torch.no_grad():
            flipped = model(point).argmax(1) != labels
    return point, flipped
