"""The relearning probe: how few steps bring the forget set back?"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.catalog import RelearnParams
from engine import evaluation
from engine.data.batches import Source, TrainingSet, batch_sizes
from engine.data.samples import Samples


@dataclass(frozen=True)
class Relearned:
    """steps: until the target, None where the cap came first. losses, accuracies: on the forget set, mean
    cross-entropy and fraction, before the first step and after each; `steps` + 1 of them."""

    steps: int | None
    losses: list[float]
    accuracies: list[float]


def relearn(
    model: nn.Module,
    samples: Samples,
    forget: Tensor,
    params: RelearnParams,
    generator: torch.Generator,
    target: float,
) -> Relearned:
    """Fine-tune a copy of `model` on rows `forget` of `samples` until it reaches `target`; `model` stays.

    A model that still holds the samples needs fewer steps than one retrained without them: compare the two
    under one generator seed, so that both see one order. BatchNorm keeps its statistics: what is counted
    are steps of the weights. No augmentation.

    Args:
        forget: (n,) positions on the device of `samples`.
        generator: on the same device; draws the order.
        target: mean cross-entropy to fall to, or accuracy to rise to, by `params.reaches`.
    """
    own = copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(own.parameters(), params.learning_rate, momentum=params.momentum)
    training_set = TrainingSet([Source(samples.images, samples.labels, forget)])
    sizes = batch_sizes(training_set.n, params.batch_size)
    loss, accuracy = _measure(own, samples, forget)
    losses, accuracies = [loss], [accuracy]
    batches: list[Tensor] = []
    while not _reached(losses[-1], accuracies[-1], target, params) and len(losses) <= params.most_steps:
        if not batches:
            order = torch.randperm(training_set.n, generator=generator, device=forget.device)
            batches = list(torch.split(order, sizes))
        images, labels = training_set.batch(batches.pop(), generator)
        value = functional.cross_entropy(own(images), labels)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss, accuracy = _measure(own, samples, forget)
        losses.append(loss)
        accuracies.append(accuracy)
    done = _reached(losses[-1], accuracies[-1], target, params)
    return Relearned(len(losses) - 1 if done else None, losses, accuracies)


def target_of(parent: nn.Module, samples: Samples, forget: Tensor, params: RelearnParams) -> float:
    """Return the target: the one of `params`, or what `parent` reaches on the forget set as it stands."""
    if params.target is not None:
        return params.target
    loss, accuracy = _measure(parent, samples, forget)
    return {"loss": loss, "accuracy": accuracy}[params.reaches]


def _reached(loss: float, accuracy: float, target: float, params: RelearnParams) -> bool:
    return {"loss": loss <= target, "accuracy": accuracy >= target}[params.reaches]


def _measure(model: nn.Module, samples: Samples, forget: Tensor) -> tuple[float, float]:
    logits, labels = evaluation.logits(model, samples.images, forget), samples.labels[forget]
    return functional.cross_entropy(logits, labels).item(), evaluation.accuracy(logits, labels)
