"""Plain SGD, and SGD in few epochs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from app.catalog import FastRecipe, SgdRecipe
from engine.data.batches import Source, TrainingSet
from engine.data.samples import Samples
from engine.recipes import train
from engine.training import Progress, fit, triangular


def sgd(
    model: nn.Module,
    params: SgdRecipe,
    samples: Samples,
    positions: Tensor,
    generator: torch.Generator,
    progress: Progress,
) -> nn.Module:
    """Recipe `sgd`: cross-entropy on rows `positions` of `samples` by SGD with momentum."""
    return train(model, params, samples, positions, generator, progress)


def fast(
    model: nn.Module,
    params: FastRecipe,
    samples: Samples,
    positions: Tensor,
    generator: torch.Generator,
    progress: Progress,
) -> nn.Module:
    """Recipe `fast`: the same in few epochs of large batches, with a rate that rises and falls in straight lines.

    What makes it quick are the epochs saved and the precision; a batch's images are uint8 until they are
    gathered, and nothing waits for the device within an epoch (performance.md 4.2).
    """
    return fit(
        model,
        TrainingSet([Source(samples.images, samples.labels, positions, params.augment)]),
        epochs=params.epochs,
        learning_rate=params.learning_rate,
        batch_size=params.batch_size,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        nesterov=True,
        schedule=triangular(params.epochs, params.peak * params.epochs),
        generator=generator,
        progress=progress,
        precision=params.precision,
    )
