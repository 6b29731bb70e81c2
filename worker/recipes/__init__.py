"""Recipes: functions that take an untrained model and positions of samples to a trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from app.catalog import SgdRecipe
from worker.data.batches import Source, TrainingSet
from worker.data.samples import Samples
from worker.training import Objective, Part, Progress, cosine, fit, steps


def train(
    model: nn.Module,
    params: SgdRecipe,
    samples: Samples,
    positions: Tensor,
    generator: torch.Generator,
    progress: Progress,
    *,
    objective: Objective | None = None,
    after_step: Callable[[], None] | None = None,
    parts: Mapping[str, Part] = MappingProxyType({}),
) -> nn.Module:
    """Run `fit` on rows `positions` of `samples` by the schedule of `params`; see there."""
    schedules = {"cosine": cosine(params.epochs), "step": steps(params.step_every)}
    return fit(
        model,
        TrainingSet([Source(samples.images, samples.labels, positions, params.augment)]),
        epochs=params.epochs,
        learning_rate=params.learning_rate,
        batch_size=params.batch_size,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        schedule=schedules[params.schedule],
        generator=generator,
        progress=progress,
        objective=objective,
        after_step=after_step,
        precision=params.precision,
        parts=parts,
    )
