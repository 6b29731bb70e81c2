"""Attacks: for each image a near one that the model mislabels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from app.catalog import Precision
from engine import evaluation
from engine.training import forward_of

FIRST_RADIUS = 0.04
STRETCHES = (1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0)


@dataclass(frozen=True)
class AttackResult:
    """One row for each attacked image, in the order they were given; no row is ever dropped.

    images: (N, C, H, W) float32 in [0, 1]; the image as given where nothing was found.
    labels: (N,) int64, what the model says of `images`: the wrong label where found, else the true one.
    found: (N,) bool; each fools the attacked model in eval mode, float32 (`transfer` may keep what fooled the
    model that the set was made on). norms: (N,) float32, L2 distance in pixels of [0, 1].
    iterations: (N,) int32, gradient steps spent. radii: (N,) float32, the radius of the search that ended
    it, 0 for an image that was mislabelled already; where an attack has no radii, the least 0.04 * 2^k that is
    not under its norm, so that histograms of attacks compare.
    """

    images: Tensor
    labels: Tensor
    found: Tensor
    norms: Tensor
    iterations: Tensor
    radii: Tensor


def verified(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    adversarial: Tensor,
    iterations: Tensor,
    batch: int,
) -> AttackResult:
    """Keep of `adversarial` what fools `model` in eval mode and full float32: nothing else counts as found."""
    predicted = evaluation.logits(model, adversarial, batch=batch).argmax(1)
    found = predicted != labels
    adversarial = torch.where(found[:, None, None, None], adversarial, images)
    norms = torch.linalg.vector_norm(adversarial - images, dim=(1, 2, 3))
    return AttackResult(adversarial, torch.where(found, predicted, labels), found, norms, iterations, radii_of(norms))


def radii_of(norms: Tensor) -> Tensor:
    """The least of 0, 0.04, 0.08, 0.16 ... that is not under each of `norms` (N,)."""
    doublings = torch.log2(norms.clamp_min(FIRST_RADIUS) / FIRST_RADIUS).sub(1e-6).ceil()
    return torch.where(norms > 0, FIRST_RADIUS * 2.0**doublings, 0.0)


def held_in(
    model: nn.Module, images: Tensor, labels: Tensor, result: AttackResult, precision: Precision, batch: int
) -> AttackResult:
    """`result` with examples that fool `model` in `precision` too, in which they will be learned.

    An example lies just across the boundary. In bfloat16 one in ten is on the side of its true label again, so that
    fine-tuning on it as wrong undoes nothing. Such an example moves out along its own direction, by one to a hundred
    percent, to the first point that fools the model in both precisions. One without such a point stays as it is.
    """
    if precision == "float32":
        return result
    low = forward_of(model, labels.device, precision)

    @torch.no_grad()
    def fooled(points: Tensor, rows: Tensor) -> Tensor:
        parts = [low(part).argmax(1) for part in torch.split(points, batch)]
        return torch.cat(parts) != labels[rows] if parts else torch.zeros(0, dtype=torch.bool, device=labels.device)

    adversarial, wrong = result.images.clone(), result.labels.clone()
    with evaluation.eval_mode(model):
        rows = result.found.nonzero().squeeze(1)
        rows = rows[~fooled(adversarial[rows], rows)]
        for stretch in STRETCHES:
            if not len(rows):
                break
            points = (images[rows] + stretch * (result.images[rows] - images[rows])).clamp(0, 1)
            predicted = evaluation.logits(model, points, batch=batch).argmax(1)
            holds = (predicted != labels[rows]) & fooled(points, rows)
            adversarial[rows[holds]], wrong[rows[holds]] = points[holds], predicted[holds]
            rows = rows[~holds]
    norms = torch.linalg.vector_norm(adversarial - images, dim=(1, 2, 3))
    return replace(result, images=adversarial, labels=wrong, norms=norms)
