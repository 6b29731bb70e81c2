"""AMUN: adversarial machine unlearning (section 4 of its paper; methods.md 1)."""

from __future__ import annotations

import torch
from torch import nn

from app.catalog import AmunParams
from worker.attacks import AttackResult
from worker.data.batches import Source, TrainingSet
from worker.data.samples import Split
from worker.methods import MethodContext, MethodError
from worker.training import constant, fit, steps


def amun(
    model: nn.Module,
    split: Split,
    params: AmunParams,
    adversarial: AttackResult | None,
    context: MethodContext,
) -> nn.Module:
    """Fine-tune `model` in place on D_A with the wrong labels, beside what clean data the setting allows.

    With a remain set the fine-tuning set is D_R, D_F, D_A (or D_R, D_A with `adversarial_only`), without
    one D_F, D_A (or D_A). Clean images are augmented as in the model's recipe; adversarial ones never
    are: they lie closer to the boundary than a crop moves an image. Plain cross-entropy, no weights.

    Args:
        adversarial: rows aligned with `split.forget`; those not found are left out.

    Raises:
        MethodError: there is no adversarial example.
    """
    if adversarial is None or not len(found := adversarial.found.nonzero().squeeze(1)):
        raise MethodError("AMUN needs an adversarial example of at least one forget sample")
    clean = split.remain
    if params.fine_tuning_set == "forget_and_adversarial":
        clean = torch.cat([split.remain, split.forget])
    return fit(
        model,
        TrainingSet(
            [
                Source(split.samples.images, split.samples.labels, clean, context.augment),
                Source(adversarial.images, adversarial.labels, found),
            ]
        ),
        epochs=params.epochs,
        learning_rate=params.learning_rate,
        batch_size=params.batch_size,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        schedule=steps(params.decay_every) if params.decay_every else constant,
        generator=context.generator,
        progress=context.progress,
    )
