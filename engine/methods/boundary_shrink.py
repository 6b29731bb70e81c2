"""BS: Boundary Shrink (Chen et al., CVPR 2023; docs/methods.md, BS)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.catalog import BoundaryShrinkParams
from engine.attacks import AttackResult
from engine.data.batches import Source, TrainingSet
from engine.data.samples import Split, gather, to_float
from engine.errors import MethodError
from engine.evaluation import frozen
from engine.methods import MethodContext, clean, tune

BATCH = 512


def boundary_shrink(
    model: nn.Module,
    split: Split,
    params: BoundaryShrinkParams,
    adversarial: AttackResult | None,  # noqa: ARG001  the methods' common shape
    context: MethodContext,
) -> nn.Module:
    """Fine-tune `model` in place on the forget set under its nearest wrong labels, shuffled with the remain set.

    The labels are those of `nearest_wrong_labels` under the given model, found once on images that are not
    augmented. AMUN's code finds them again in each epoch, on the changing model, and rounds x' to 8 bits.

    Raises:
        MethodError: the data has one class only.
        DivergedError: see `engine.training.fit`, also for BatchNorm.
    """
    samples = split.samples
    if samples.num_classes < 2:
        raise MethodError("boundary shrinking needs at least two classes")
    images = gather(samples.images, split.forget)
    wrong = nearest_wrong_labels(model, images, samples.labels[split.forget], params.step)
    rows = torch.arange(len(wrong), device=wrong.device)
    return tune(
        model,
        TrainingSet([clean(split, split.remain, context), Source(images, wrong, rows, context.recipe.augment)]),
        params,
        context,
    )


def nearest_wrong_labels(model: nn.Module, images: Tensor, labels: Tensor, step: float) -> Tensor:
    """Return for each of `images` (n, C, H, W) the likeliest class but its label (n,) at x' = x + step sign(g).

    g is the gradient of the cross-entropy, in eval mode; x' is clipped to [0, 1]. The public code takes the
    likeliest class, which is the true one where x' has not crossed the boundary: it would then train the
    sample to be remembered. Where g is exactly zero x' is x.
    """
    answers = []
    with frozen(model):
        for batch, label in zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True):
            point = to_float(batch).detach().requires_grad_()
            loss = functional.cross_entropy(model(point), label, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, point)
            with torch.no_grad():
                logits = model((point + step * gradient.sign()).clamp(0, 1))
                answers.append(logits.scatter(1, label[:, None], -torch.inf).argmax(1))
    return torch.cat(answers)
