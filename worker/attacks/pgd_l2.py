"""L2 PGD inside a radius that doubles until the label flips (AMUN, Algorithm 1; methods.md 1)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from app.catalog import PgdL2Params
from worker.attacks import AttackResult
from worker.data.batches import batch_sizes
from worker.data.samples import gather
from worker.evaluation import frozen, logits

STEPS_BETWEEN_COMPACTIONS = 5
ROUNDING = 1e-5
TINY = 1e-30


def pgd_l2(model: nn.Module, images: Tensor, labels: Tensor, params: PgdL2Params) -> AttackResult:
    """Find a near image that `model` mislabels, for each of `images` (N, C, H, W) float32 in [0, 1].

    At each radius a fresh search starts from the image itself (the public code goes on from where the
    last radius ended) and takes up to `steps` steps

        x <- clip_[0,1](x0 + project_[L2 <= radius](x + radius * step_fraction * g / |g| - x0)).

    A search ends at the first step whose image is mislabelled: A(x, radius) is read as any flip within the
    radius, and the rest of the steps would only push the image out to the sphere. Without a flip the
    radius doubles, at most `max_doublings` times; then the row has `found` False. An image that is
    mislabelled as it stands is its own adversarial example, at distance 0.

    g is the gradient of the cross-entropy over 1 - p_y. The step normalises it anyway, so it walks as the
    cross-entropy's does, but it does not vanish on a confident model: there it becomes the gradient of the
    logit margin. Where even that is zero the image stays where it is.

    Between compactions every sample still searching, of the whole set, is walked in even batches; a host
    sync happens once per compaction. Each row reported found is verified at the end, in eval mode, float32.
    """
    adversarial = images.clone()
    iterations = torch.zeros(len(images), dtype=torch.int32, device=images.device)
    radii = torch.zeros(len(images), device=images.device)
    with frozen(model):
        before = logits(model, images, batch=params.batch_size).argmax(1)
        active = (before == labels).nonzero().squeeze(1)
        for doubling in range(params.max_doublings + 1):
            if not len(active):
                break
            radius = params.epsilon * 2.0**doubling
            radii[active] = radius
            active = _search(model, images, labels, params, radius, active, adversarial, iterations)
        predicted = logits(model, adversarial, batch=params.batch_size).argmax(1)
    found = predicted != labels
    adversarial = torch.where(found[:, None, None, None], adversarial, images)
    norms = torch.linalg.vector_norm(adversarial - images, dim=(1, 2, 3))
    return AttackResult(adversarial, torch.where(found, predicted, labels), found, norms, iterations, radii)


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
                ascent, flips_here = _ascent(model, point, label)
                flipped |= flips_here
                if last and number == count - 1:
                    break
                moved = _step(origin, point, ascent, radius, radius * params.step_fraction)
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


def _ascent(model: nn.Module, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of CE / (1 - p_y) at `points` and whether the label has flipped there.

    d CE / d logits = p - e_y = (1 - p_y) * (q - e_y), with q the softmax over the other classes. A flip
    counts once it exceeds what rounding could undo in a batch of another size.
    """
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        outputs = model(points)
    at_label = labels[:, None]
    others = outputs.detach().scatter(1, at_label, -torch.inf)
    (gradient,) = torch.autograd.grad(outputs, points, others.softmax(1).scatter(1, at_label, -1.0))
    own = outputs.detach().gather(1, at_label).squeeze(1)
    return gradient, others.amax(1) - own > ROUNDING * (1 + own.abs())


def _step(origin: Tensor, point: Tensor, ascent: Tensor, radius: float, length: float) -> Tensor:
    """One step of `length` along `ascent`, projected on the ball around `origin`, clipped to [0, 1]."""
    shift = point + ascent * (length / _norms(ascent).clamp_min(TINY)) - origin
    return (origin + shift * (radius / _norms(shift).clamp_min(TINY)).clamp_max(1)).clamp(0, 1)


def _norms(batch: Tensor) -> Tensor:
    return cast(Tensor, torch.linalg.vector_norm(batch, dim=(1, 2, 3), keepdim=True))
