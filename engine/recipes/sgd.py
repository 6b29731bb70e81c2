"""Plain SGD, and SGD in few epochs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from app.catalog import FastRecipe, SgdRecipe
from engine.data.samples import Samples
from engine.recipes import rows, sgd_schedule
from engine.training import Pass, Progress, Schedule, fit, triangular


def sgd(
    model: nn.Module,
    params: SgdRecipe,
    samples: Samples,
    positions: Tensor,
    generator: torch.Generator,
    progress: Progress,
) -> nn.Module:
    """Recipe `sgd`: cross-entropy on rows `positions` of `samples` by SGD with momentum."""
    training_set = rows(samples, positions, params.augment)
    return fit(model, [Pass(training_set)], sgd_schedule(params), generator, progress)


def fast(
    model: nn.Module,
    params: FastRecipe,
    samples: Samples,
    positions: Tensor,
    generator: torch.Generator,
    progress: Progress,
) -> nn.Module:
    """Recipe `fast`: the same in few epochs of large batches, with a rate that rises and falls in straight lines.

    It saves epochs and precision. The images of a batch are uint8 until they are gathered, and nothing waits for the
    device within an epoch (docs/methods.md, Recipes).
    """
    schedule = Schedule(
        epochs=params.epochs,
        learning_rate=params.learning_rate,
        batch_size=params.batch_size,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        factor=triangular(params.epochs, params.peak * params.epochs),
        nesterov=True,
        precision=params.precision,
    )
    return fit(model, [Pass(rows(samples, positions, params.augment))], schedule, generator, progress)
