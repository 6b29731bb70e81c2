"""The nearest mislabelled image: a linearised jump to the boundary, then steps on a shrinking sphere.

The jump is DeepFool's (Moosavi-Dezfooli et al. 2016) with one gradient per step, towards the runner-up
class; the sphere is DDN's (Rony et al. 2019). See docs/methods.md, fast_min_norm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from app.catalog import FastMinNormParams
from engine.attacks import AttackResult, verified
from engine.attacks.steps import ROUNDING, TINY, norms, runner_up
from engine.data.batches import batch_sizes
from engine.data.samples import gather
from engine.evaluation import frozen, full_precision

LAST_SHRINK = 0.01
SHRINK_BACK = 0.998  # a step outwards stays inside the best image so far


def fast_min_norm(model: nn.Module, images: Tensor, labels: Tensor, params: FastMinNormParams) -> AttackResult:
    """Find a mislabelled image very near to each of `images` (N, C, H, W) float32 in [0, 1].

    Every row takes the same number of steps, with `torch.where` in place of branches, so that the host waits for the
    device once a round. Only the search runs in low precision. Then `finish_steps` in float32 start from its result,
    because most images found in bfloat16 alone do not fool the float32 model. Rows without a result go into another
    round from where they are, with four times the overshoot. `found` is verified at the end, in eval mode and float32
    without TF32.
    """
    points, found = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
    iterations = torch.zeros(len(images), dtype=torch.int32, device=images.device)
    low = params.search == "bfloat16" or (params.search == "auto" and images.device.type == "cuda")
    legs = [(True, params.steps), (False, params.finish_steps)] if low else [(False, params.steps)]
    active = torch.arange(len(images), device=images.device)
    with frozen(model), full_precision():
        for number in range(params.rounds):
            for rows in torch.split(active, batch_sizes(len(active), params.batch_size)):
                origin, label, point = gather(images, rows), labels[rows], gather(points, rows)
                for in_low, steps in legs:
                    with torch.autocast(images.device.type, torch.bfloat16, enabled=in_low):
                        point, hit, spent = _search(model, origin, label, point, steps, params, 4.0**number)
                    iterations[rows] += spent
                points[rows], found[rows] = point, hit
            active = (~found).nonzero().squeeze(1)
            if not len(active):
                break
    return verified(model, images, labels, points, iterations, params.batch_size)


def _search(
    model: nn.Module,
    origin: Tensor,
    labels: Tensor,
    point: Tensor,
    steps: int,
    params: FastMinNormParams,
    boldness: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take `steps` steps from `point`; return the nearest flip (or the last point), whether there is one and
    the gradient steps spent, 0 for images that are mislabelled as they stand."""
    best = torch.full_like(origin[:, :1, :1, :1], torch.inf)
    nearest = point
    for number in range(steps + 1):
        margin, gradient = runner_up(model, point, labels)
        flipped, distance = (margin > 0)[:, None, None, None], norms(point - origin)
        nearer = flipped & (distance < best)
        nearest = torch.where(nearer, point, nearest)
        best = torch.where(nearer, distance, best)
        if number == steps:
            break
        jump = _jump(point, -margin, gradient, params.overshoot * boldness)
        shrink = params.shrink * (1 - number / steps) + LAST_SHRINK
        inwards, outwards = best * (1 - shrink), torch.minimum(distance * (1 + shrink), best * SHRINK_BACK)
        turned = _turn(origin, point, distance, gradient, params.turn)
        on_sphere = origin + torch.where(flipped, inwards, outwards) * turned
        point = torch.where(best.isfinite(), on_sphere, jump).clamp(0, 1)
    hit = best.isfinite()
    return torch.where(hit, nearest, point), hit.flatten(), (best > 0).flatten() * steps


def _jump(point: Tensor, missing: Tensor, gradient: Tensor, overshoot: float) -> Tensor:
    """The nearest point on the linearised boundary, and a little further; pixels at a wall do not push on it."""
    free = _free(point, gradient)
    length = (missing.clamp_min(0) * (1 + overshoot) + ROUNDING)[:, None, None, None]
    return point + free * (length / norms(free).square().clamp_min(TINY))


def _turn(origin: Tensor, point: Tensor, distance: Tensor, gradient: Tensor, turn: float) -> Tensor:
    """The unit direction from `origin` to `point`, turned towards the boundary's normal there."""
    free = _free(origin, gradient)
    ahead = (point - origin) / distance.clamp_min(TINY)
    turned = (1 - turn) * ahead + turn * free / norms(free).clamp_min(TINY)
    return turned / norms(turned).clamp_min(TINY)


def _free(point: Tensor, gradient: Tensor) -> Tensor:
    """`gradient` without the parts that would push a pixel of `point` out of [0, 1]."""
    return torch.where(((point <= 0) & (gradient < 0)) | ((point >= 1) & (gradient > 0)), 0.0, gradient)
