"""Recipes: functions that take an untrained model and positions of samples to a trained model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from app.catalog import FineTunedRecipe, LinearProbeRecipe, Precision, SgdRecipe
from engine.data.batches import Augment, Source, TrainingSet
from engine.data.samples import Samples
from engine.training import Progress, Schedule, cosine, steps


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
        augment: Augment = getattr(self.params, "augment", "none")
        return augment

    @property
    def precision(self) -> Precision:
        """In what training computes, and methods with it."""
        precision: Precision = getattr(self.params, "precision", "float32")
        return precision

    @property
    def has_head(self) -> bool:
        """Whether it treats the network's head otherwise than the rest."""
        return isinstance(self.params, LinearProbeRecipe | FineTunedRecipe)

    @property
    def head_alone(self) -> bool:
        """Whether it trains the network's head alone, so that unlearning must do the same."""
        return isinstance(self.params, LinearProbeRecipe) or bool(getattr(self.params, "frozen_backbone", False))


def rows(samples: Samples, positions: Tensor, augment: Augment) -> TrainingSet:
    """Rows `positions` of `samples` as a training set."""
    return TrainingSet([Source(samples.images, samples.labels, positions, augment)])


def sgd_schedule(params: SgdRecipe) -> Schedule:
    return Schedule(
        epochs=params.epochs,
        learning_rate=params.learning_rate,
        batch_size=params.batch_size,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        factor={"cosine": cosine(params.epochs), "step": steps(params.step_every)}[params.schedule],
        precision=params.precision,
    )
