"""L2 PGD inside a radius that doubles until the label flips (AMUN, Algorithm 1; docs/methods.md, pgd_l2)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from app.catalog import PgdL2Params
from engine.attacks import AttackResult, verified
from engine.attacks.steps import ascent, step
from engine.data.batches import batch_sizes
from engine.data.samples import gather
from engine.evaluation import frozen, full_precision, logits

STEPS_BETWEEN_COMPACTIONS = 5


def pgd_l2(model: nn.Module, images: Tensor, labels: Tensor, params: PgdL2Params) -> AttackResult:
    """Find a near image that `model` mislabels, for each of `images` (N, C, H, W) float32 in [0, 1].

    At each radius a fresh search starts from the image itself (the public code goes on from where the
    last radius ended) and takes up to `steps` steps

        x <- clip_[0,1](x0 + project_[L2 <= radius](x + radius * step_fraction * g / |g| - x0)).

    A search ends at the first step whose image is mislabelled: A(x, radius) is read as any flip within the
    radius, and the rest of the steps would only push the image out to the sphere. Without a flip the
    radius doubles, at most `max_doublings` times; then the row has `found` False. An image that is
    mislabelled as it stands is its own adversarial example, at distance 0.

    g is the gradient of the cross-entropy over 1 - p_y. The step normalises it, so the direction is that of the
    cross-entropy. But it does not vanish on a confident model, where it becomes the gradient of the logit margin.
    Where even that is zero the image stays as it is.

    Between compactions all samples that are still searched for move on in even batches; the host waits for the device
    once per compaction. Each row reported found is verified at the end, in eval mode, float32.
    """
    adversarial = images.clone()
    iterations = torch.zeros(len(images), dtype=torch.int32, device=images.device)
    radii = torch.zeros(len(images), device=images.device)
    with frozen(model), full_precision():
        before = logits(model, images, batch=params.batch_size).argmax(1)
        active = (before == labels).nonzero().squeeze(1)
        for doubling in range(params.max_doublings + 1):
            if not len(active):
                break
            radius = params.epsilon * 2.0**doubling
            radii[active] = radius
            active = _search(model, images, labels, params, radius, active, adversarial, iterations)
    result = verified(model, images, labels, adversarial, iterations, params.batch_size)
    return replace(result, radii=radii)


def _search(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    params: PgdL2Params,
    radius: float,
    active: Tensor,
    adversarial: Tensor,
    iterations: Tensor,
) -> Tensor:
    """Search rows `active` at one radius; fill in `adversarial` and `iterations`; return those not found."""
    points = gather(images, active)
    for begin in range(0, params.steps + 1, STEPS_BETWEEN_COMPACTIONS):
        count = min(STEPS_BETWEEN_COMPACTIONS, params.steps + 1 - begin)
        last = begin + count == params.steps + 1
        ends, flips = [], []
        sizes = batch_sizes(len(active), params.batch_size)
        for rows, point in zip(torch.split(active, sizes), torch.split(points, sizes), strict=True):
            origin, label = gather(images, rows), labels[rows]
            flipped = torch.zeros_like(label, dtype=torch.bool)
            for number in range(count):
                uphill, flips_here = ascent(model, point, label)
                flipped |= flips_here
                if last and number == count - 1:
                    break
                moved = step(origin, point, uphill, radius, radius * params.step_fraction)
                point = torch.where(flipped[:, None, None, None], point, moved)
                iterations[rows] += ~flipped
            ends.append(point)
            flips.append(flipped)
        points, flipped = torch.cat(ends), torch.cat(flips)
        hits, misses = flipped.nonzero().squeeze(1), (~flipped).nonzero().squeeze(1)
        adversarial[active[hits]] = points[hits]
        active, points = active[misses], gather(points, misses)
        if not len(active):
            break
    return active
