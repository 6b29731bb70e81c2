"""Methods: functions that take a model, a split and an adversarial set to an unlearned model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.catalog import FineTuneSchedule
from engine.data.batches import Relabel, Source, TrainingSet
from engine.data.samples import Split
from engine.errors import MethodError
from engine.recipes import Recipe
from engine.training import Objective, Pass, Progress, Schedule, constant, cross_entropy, fit, steps


@dataclass(frozen=True)
class MethodContext:
    """What a method needs besides its data.

    generator: on the device of the samples. recipe: what the model was trained with.
    fresh: makes an untrained model of the same architecture on the same device.
    """

    generator: torch.Generator
    progress: Progress
    recipe: Recipe
    fresh: Callable[[], nn.Module]


def require_remain(split: Split, method: str) -> None:
    """Raise `MethodError` where there is no remain set."""
    if not len(split.remain):
        raise MethodError(f"{method} needs the remain set, and has no meaning without it")


def clean(split: Split, positions: Tensor, context: MethodContext, relabel: Relabel | None = None) -> Source:
    """Rows `positions` of the samples, augmented as in the model's recipe."""
    return Source(split.samples.images, split.samples.labels, positions, context.recipe.augment, relabel)


def schedule_of(params: FineTuneSchedule, context: MethodContext) -> Schedule:
    """The schedule of `params`, in the precision of the model's recipe."""
    return Schedule(
        epochs=params.epochs,
        learning_rate=params.learning_rate,
        batch_size=params.batch_size,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        factor=steps(params.decay_every) if params.decay_every else constant,
        precision=context.recipe.precision,
    )


def tune(
    model: nn.Module,
    training_set: TrainingSet,
    params: FineTuneSchedule,
    context: MethodContext,
    *,
    objective: Objective = cross_entropy,
    then: Sequence[Pass] = (),
    penalty: Callable[[float], Tensor] | None = None,
    after_step: Callable[[], None] | None = None,
) -> nn.Module:
    """Run `fit` by the schedule of `params`: each epoch lowers `objective` on `training_set`, then makes the passes
    `then`."""
    return fit(
        model,
        [Pass(training_set, objective), *then],
        schedule_of(params, context),
        context.generator,
        context.progress,
        penalty=penalty,
        after_step=after_step,
    )
