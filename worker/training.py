"""The one training loop. Methods and recipes differ in the sets, rates and losses that they hand to it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.catalog import Params, SgdRecipe
from worker.data.batches import Source, TrainingSet, batch_sizes
from worker.data.samples import Samples

Schedule = Callable[[float], float]
"""Epochs done so far, fractional, to the factor on the learning rate."""
Loss = Callable[[Tensor, Tensor], Tensor]

SECONDS_BETWEEN_UPDATES = 0.5


class DivergedError(Exception):
    """The loss became infinite or not a number."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"training diverged: the loss of epoch {epoch} is not finite")
        self.epoch = epoch


class Progress(Protocol):
    """Where a long computation reports, and keeps what it needs to resume."""

    def update(self, fraction: float) -> None:
        """Report the share done, in [0, 1]. May raise, to stop the computation."""

    def load(self) -> dict[str, Tensor] | None:
        """Return the last state kept, or None."""

    def save(self, state: Callable[[], dict[str, Tensor]]) -> None:
        """Keep `state()`; an implementation may skip calls, and then the state is not even made."""


class NullProgress:
    """Reports nowhere and keeps nothing."""

    def update(self, fraction: float) -> None:
        pass

    def load(self) -> dict[str, Tensor] | None:
        return None

    def save(self, state: Callable[[], dict[str, Tensor]]) -> None:
        pass


def constant(_epochs_done: float) -> float:
    return 1.0


def cosine(epochs: int) -> Schedule:
    """Half a cosine from 1 to 0 over `epochs`."""
    return lambda done: 0.5 * (1 + math.cos(math.pi * done / epochs))


def steps(every: int) -> Schedule:
    """Times 0.1 after each `every` epochs."""
    return lambda done: 0.1 ** math.floor(done / every)


def fit(
    model: nn.Module,
    training_set: TrainingSet,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    momentum: float,
    weight_decay: float,
    schedule: Schedule = constant,
    generator: torch.Generator,
    progress: Progress,
    loss: Loss = functional.cross_entropy,
) -> nn.Module:
    """Train `model` in place by SGD on shuffled, evened-out batches and return it, in eval mode.

    The model is in train mode, so BatchNorm statistics follow the training set, as in AMUN's code; only
    where a batch is a single sample do BatchNorm layers stay in eval mode: one sample has no statistics.
    A state kept by `progress` is resumed: on the CPU the result then equals that of the straight run bit
    for bit.

    Args:
        training_set: on the device of the model.
        schedule: epochs done (fractional) to the factor on `learning_rate`.
        generator: on the same device; draws the order and the augmentation.
        loss: (logits (n, classes), labels (n,)) to a scalar.

    Raises:
        DivergedError: the loss of an epoch is not finite.
    """
    sizes = batch_sizes(training_set.n, batch_size)
    device = training_set.sources[0].images.device
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _train_mode(model, min(sizes))
    optimizer = torch.optim.SGD(
        model.parameters(), learning_rate, momentum=momentum, weight_decay=weight_decay, fused=True
    )
    kept = progress.load()
    first = _restore(kept, model, optimizer, generator) if kept else 0
    reported = time.monotonic()
    for epoch in range(first, epochs):
        total = torch.zeros((), device=device)
        order = torch.randperm(training_set.n, generator=generator, device=device)
        for number, indices in enumerate(torch.split(order, sizes)):
            done = epoch + number / len(sizes)
            if time.monotonic() - reported > SECONDS_BETWEEN_UPDATES:
                progress.update(done / epochs)
                reported = time.monotonic()
            optimizer.param_groups[0]["lr"] = learning_rate * schedule(done)
            images, labels = training_set.batch(indices, generator)
            value = loss(model(images), labels)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += value.detach()
        if not math.isfinite(total.item()):
            raise DivergedError(epoch)
        progress.save(lambda done=epoch + 1: _state(model, optimizer, generator, done))  # type: ignore[misc]
        progress.update((epoch + 1) / epochs)
    return model.eval()


def _train_mode(model: nn.Module, smallest_batch: int) -> None:
    model.train()
    if smallest_batch == 1:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _state(
    model: nn.Module, optimizer: torch.optim.SGD, generator: torch.Generator, epoch: int
) -> dict[str, Tensor]:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        buffer = optimizer.state[parameter].get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{name}"] = buffer
    tensors["generator"] = generator.get_state()
    tensors["epoch"] = torch.tensor(epoch)
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _restore(
    state: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.SGD, generator: torch.Generator
) -> int:
    """Put a state made by `_state` back and return the number of epochs it holds."""
    model.load_state_dict({name: state[f"model.{name}"] for name in model.state_dict()})
    for name, parameter in model.named_parameters():
        buffer = state.get(f"momentum.{name}")
        if buffer is not None:
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)
    generator.set_state(state["generator"])
    return int(state["epoch"])


def sgd(
    model: nn.Module,
    params: SgdRecipe,
    samples: Samples,
    positions: Tensor,
    generator: torch.Generator,
    progress: Progress,
) -> nn.Module:
    """Recipe `sgd`: plain SGD on rows `positions` of `samples`."""
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
    )


def train_recipe(
    model: nn.Module,
    recipe: tuple[str, Params],
    samples: Samples,
    positions: Tensor,
    generator: torch.Generator,
    progress: Progress,
) -> nn.Module:
    """Train `model` on rows `positions` of `samples` by the recipe of that name and parameters."""
    from worker.registry import RECIPES  # not above: the registry imports this module

    name, params = recipe
    return RECIPES[name](model, params, samples, positions, generator, progress)
