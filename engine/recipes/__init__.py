"""Recipes: functions that take an untrained model and positions of samples to a trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from app.catalog import Precision, SgdRecipe
from engine.data.batches import Augment, Source, TrainingSet
from engine.data.samples import Samples
from engine.training import Objective, Part, Progress, cosine, fit, steps


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: a function of this folder with its parameters."""

    function: Callable[..., nn.Module]
    params: Any

    def train(
        self,
        model: nn.Module,
        samples: Samples,
        positions: Tensor,
        generator: torch.Generator,
        progress: Progress,
    ) -> nn.Module:
        """Train `model` on rows `positions` of `samples`."""
        return self.function(model, self.params, samples, positions, generator, progress)

    @property
    def augment(self) -> Augment:
        """How clean images are augmented."""
        augment: Augment = self.params.augment
        return augment

    @property
    def precision(self) -> Precision:
        """In what training computes, and methods with it."""
        precision: Precision = self.params.precision
        return precision


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
