"""In the style of ReGUn: the forget set learns to look like held-out samples of its class (docs/methods.md, ReGUn)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.catalog import ReferenceGuidedParams
from engine import evaluation
from engine.attacks import AttackResult
from engine.data.batches import TrainingSet
from engine.data.samples import Split
from engine.errors import MethodError
from engine.methods import MethodContext, clean, tune
from engine.training import Forward


def reference_guided(
    model: nn.Module,
    split: Split,
    params: ReferenceGuidedParams,
    adversarial: AttackResult | None,  # noqa: ARG001  the methods' common shape
    context: MethodContext,
) -> nn.Module:
    """Fine-tune `model` in place on the remain set by CE, and on the forget set by KL(q_y || p).

    q_y (classes,) is the mean softmax, at `temperature`, of the given model on held-out samples of class y: what it
    says of samples that it has not seen. `split.holdout` has no control of any audit.

    Raises:
        MethodError: a class of the forget set has no held-out sample.
        DivergedError: see `engine.training.fit`, also for BatchNorm.
    """
    classes = split.samples.num_classes
    targets = _of_unseen(model, split, params.temperature, classes)

    def objective(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        logits = forward(images)
        gone, true = labels >= classes, labels % classes
        known = functional.cross_entropy(logits, true, reduction="none")
        towards = functional.kl_div(functional.log_softmax(logits, dim=1), targets[true], reduction="none").sum(1)
        return torch.where(gone, params.weight * towards, known).mean()

    sources = [clean(split, split.remain, context)]
    sources.append(clean(split, split.forget, context, lambda labels, _generator: labels + classes))
    return tune(model, TrainingSet(sources), params, context, objective=objective)


def _of_unseen(model: nn.Module, split: Split, temperature: float, classes: int) -> Tensor:
    """(classes, classes): the mean answer to held-out samples of each class; rows of other classes are uniform."""
    device = split.forget.device
    labels = split.samples.labels[split.holdout]
    wanted = torch.unique(split.samples.labels[split.forget])
    missing = wanted[~torch.isin(wanted, labels)]
    if len(missing):
        raise MethodError(f"{len(missing)} classes of the forget set have no held-out sample that the method may see")
    logits = evaluation.logits(model, split.samples.images, split.holdout).to(device)
    answers = functional.softmax(logits / temperature, dim=1)
    sums = torch.zeros(classes, classes, device=device).index_add_(0, labels, answers)
    counts = torch.bincount(labels, minlength=classes)[:, None]
    return torch.where(counts > 0, sums / counts.clamp(min=1), torch.full_like(sums, 1 / classes))
