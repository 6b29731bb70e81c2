"""Methods: functions that take a model, a split and an adversarial set to an unlearned model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from app.catalog import Params
from worker.data.batches import Augment
from worker.training import Progress


class MethodError(Exception):
    """The method cannot run on what it was given; the text is for the client."""


@dataclass(frozen=True)
class MethodContext:
    """What a method needs besides its data.

    generator: on the device of the samples. recipe: name and parameters the model was trained with.
    fresh: makes an untrained model of the same architecture on the same device.
    """

    generator: torch.Generator
    progress: Progress
    recipe: tuple[str, Params]
    fresh: Callable[[], nn.Module]

    @property
    def augment(self) -> Augment:
        """How the recipe augments clean images."""
        augment: Augment = getattr(self.recipe[1], "augment", "none")
        return augment
