"""The one training loop. Methods and recipes differ in the sets, rates and objectives that they give it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.catalog import Precision
from engine import seeding
from engine.data.batches import TrainingSet, batch_sizes
from engine.errors import DivergedError
from engine.memory import within_memory

RateFactor = Callable[[float], float]
"""Epochs done, fractional, to the factor on the learning rate."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (n, classes), labels (n,)) to a scalar."""
Forward = Callable[[Tensor], Tensor]
"""Images (n, C, H, W) to logits (n, classes), float32, also where they were computed in a lower precision."""
Objective = Callable[[Forward, Tensor, Tensor], Tensor]
"""(the model, images (n, C, H, W), labels (n,)) to a scalar, the mean of what each sample costs."""
Resumable = tuple[nn.Module, torch.optim.Optimizer | None]
"""A module that a computation changes, and its optimizer; None where it changes by other means."""
Epoch = Callable[[int, Callable[[float], None]], Tensor]
"""An epoch's number from 0, and where to report the epochs done (fractional), to the epoch's loss ()."""

SECONDS_BETWEEN_UPDATES = 0.5
KEPT = {"momentum_buffer": "momentum", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "step": "step"}
"""What an optimizer keeps of a parameter, and its name in a state that is resumed."""


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


def of_logits(loss: Loss) -> Objective:
    return lambda forward, images, labels: loss(forward(images), labels)


cross_entropy = of_logits(functional.cross_entropy)


@dataclass(frozen=True)
class Pass:
    """One walk over a training set, and what is lowered on it. epochs: only in the first of them; None: in each."""

    training_set: TrainingSet
    objective: Objective = cross_entropy
    epochs: int | None = None


def constant(_epochs_done: float) -> float:
    return 1.0


def cosine(epochs: int) -> RateFactor:
    """Half a cosine from 1 to 0 over `epochs`."""
    return lambda done: 0.5 * (1 + math.cos(math.pi * done / epochs))


def steps(every: int) -> RateFactor:
    """Times 0.1 after each `every` epochs."""
    return lambda done: 0.1 ** math.floor(done / every)


def triangular(epochs: int, peak: float) -> RateFactor:
    """From 0 up to 1 at epoch `peak`, and down to 0 at `epochs`, both in a straight line."""
    return lambda done: min(done / peak, (epochs - done) / (epochs - peak))


def warm_cosine(epochs: int, warmup: float) -> RateFactor:
    """A straight line up to 1 at epoch `warmup`, then half a cosine down to 0 at `epochs`."""

    def factor(done: float) -> float:
        if done < warmup:
            return done / warmup
        return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (epochs - warmup)))

    return factor


@dataclass(frozen=True)
class Schedule:
    """How an optimizer goes through its sets. precision: of the model's forward and backward; the weights are float32.

    optimizer: `adamw` decays weights of two dimensions and more only (biases and norms are not decayed), and has no
    momentum. rates: factors on the learning rate, by name of the parameter; 1 where it has none.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    momentum: float
    weight_decay: float
    factor: RateFactor = constant
    nesterov: bool = False
    precision: Precision = "float32"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    rates: Mapping[str, float] = field(default_factory=dict)


def run_epochs(
    parts: Mapping[str, Resumable], epochs: int, epoch: Epoch, generator: torch.Generator, progress: Progress
) -> None:
    """Run `epoch` for `epochs` epochs, from the state kept by `progress` if there is one, and keep a state after each.

    All that `epoch` carries from one call to the next must be in `parts` and `generator`: on the CPU a
    resumed run then equals the straight one bit for bit. Torch's global generator, from which dropout draws, is
    seeded for each epoch from the seed of `generator`, and is as it was afterwards.

    Raises:
        DivergedError: the loss of an epoch, or a weight or a buffer after it, is not finite.
    """
    kept = progress.load()
    first = _restore(kept, parts, generator) if kept else 0
    reported = time.monotonic()

    def report(done: float) -> None:
        nonlocal reported
        if time.monotonic() - reported > SECONDS_BETWEEN_UPDATES:
            progress.update(done / epochs)
            reported = time.monotonic()

    for number in range(first, epochs):
        with seeding.drawing(seeding.derive(generator.initial_seed(), "epoch", number), generator.device):
            loss = epoch(number, report)
        floats = [
            tensor.float()
            for module, _ in parts.values()
            for tensor in module.state_dict().values()
            if tensor.is_floating_point()
        ]
        if not math.isfinite((loss + nn.utils.get_total_norm(floats)).item()):
            raise DivergedError(f"training diverged: epoch {number} ended with values that are not finite", number)
        progress.save(lambda done=number + 1: _state(parts, generator, done))  # type: ignore[misc]
        progress.update((number + 1) / epochs)


def fit(
    model: nn.Module,
    passes: Sequence[Pass],
    schedule: Schedule,
    generator: torch.Generator,
    progress: Progress,
    *,
    penalty: Callable[[float], Tensor] | None = None,
    after_step: Callable[[], None] | None = None,
    parts: Mapping[str, Resumable] = MappingProxyType({}),
) -> nn.Module:
    """Train `model` in place by SGD on shuffled, evened-out batches and return it, in eval mode.

    The model is in train mode, so BatchNorm statistics follow the training sets, as in AMUN's code; only
    in a pass with a batch of a single sample do BatchNorm layers stay in eval mode: one sample has no
    statistics. A state kept by `progress` is resumed: on the CPU the result then equals that of the
    straight run bit for bit.

    Where a batch does not fit into the device's memory its gradient is gathered from parts of half the size,
    and so on, which is the same gradient up to rounding, but for BatchNorm: each part is normalised by itself,
    the running statistics follow the parts, and an attempt that failed may have moved some of them once.

    Args:
        passes: those of each epoch, in their order; the training sets are for the device of the model.
        generator: on the same device; draws the order, the augmentation and the labels.
        penalty: epochs done (fractional) to a scalar that is added to the loss of a batch.
        after_step: called after each step of the optimizer.
        parts: what else objectives and `after_step` change, by name.

    Raises:
        DivergedError: see `run_epochs`.
        DeviceMemoryError: not even one sample fits.
        ValueError: no pass is left for the last epochs.
    """
    if all(each.epochs is not None and each.epochs < schedule.epochs for each in passes):
        raise ValueError("some epoch would have no pass")
    sized = [(each, batch_sizes(each.training_set.n, schedule.batch_size)) for each in passes]
    device = generator.device
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(model, schedule)
    forward = forward_of(model, device, schedule.precision)
    most = schedule.batch_size

    def backward(objective: Objective, images: Tensor, labels: Tensor, done: float, size: int) -> Tensor:
        """Put the gradient of a batch's loss into the model, from parts of at most `size`, and return the loss."""
        optimizer.zero_grad()
        total = torch.zeros((), device=device)
        sizes = batch_sizes(len(images), size)
        if min(sizes) == 1:
            _train_mode(model, 1)
        for some, theirs in zip(torch.split(images, sizes), torch.split(labels, sizes), strict=True):
            value = objective(forward, some, theirs)
            if penalty is not None:
                value = value + penalty(done)
            value = value * (len(some) / len(images))
            value.backward()  # type: ignore[no-untyped-call]
            total += value.detach()
        return total

    def epoch(number: int, report: Callable[[float], None]) -> Tensor:
        nonlocal most
        total = torch.zeros((), device=device)
        batch = 0
        walked = [(each, sizes) for each, sizes in sized if each.epochs is None or number < each.epochs]
        batches = sum(len(sizes) for _, sizes in walked)
        for each, sizes in walked:
            _train_mode(model, min(sizes))
            order = torch.randperm(each.training_set.n, generator=generator, device=device)
            for images, labels in each.training_set.walk(order, sizes, generator):
                done = number + batch / batches
                report(done)
                for group in optimizer.param_groups:
                    group["lr"] = schedule.learning_rate * schedule.factor(done) * group.get("rate", 1.0)
                loss, most = within_memory(partial(backward, each.objective, images, labels, done), most)
                optimizer.step()
                if after_step is not None:
                    after_step()
                total += loss
                batch += 1
        return total

    run_epochs({"model": (model, optimizer), **parts}, schedule.epochs, epoch, generator, progress)
    return model.eval()


def _optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decays = schedule.optimizer == "sgd" or parameter.ndim > 1
        groups.setdefault((schedule.rates.get(name, 1.0), decays), []).append(parameter)
    chosen = [
        {"params": parameters, "rate": rate, "weight_decay": schedule.weight_decay if decays else 0.0}
        for (rate, decays), parameters in groups.items()
    ]
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(chosen, schedule.learning_rate, fused=True)
    return torch.optim.SGD(chosen, schedule.learning_rate, schedule.momentum, nesterov=schedule.nesterov, fused=True)


def forward_of(model: nn.Module, device: torch.device, precision: Precision) -> Forward:
    """`model` as a function to float32 logits, under autocast with `bfloat16`."""
    low = precision == "bfloat16"

    def forward(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            outputs: Tensor = model(images)
        return outputs.float()

    return forward


def _train_mode(model: nn.Module, smallest_batch: int) -> None:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            frozen = module.weight is not None and not module.weight.requires_grad
            if smallest_batch == 1 or frozen:
                module.eval()


def _state(parts: Mapping[str, Resumable], generator: torch.Generator, epoch: int) -> dict[str, Tensor]:
    tensors = {"generator": generator.get_state(), "epoch": torch.tensor(epoch)}
    for part, (module, optimizer) in parts.items():
        tensors |= {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
        for name, parameter in module.named_parameters():
            kept = optimizer.state.get(parameter, {}) if optimizer else {}
            for key, short in KEPT.items():
                if isinstance(kept.get(key), Tensor):
                    tensors[f"{part}:{short}.{name}"] = kept[key]
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _restore(state: dict[str, Tensor], parts: Mapping[str, Resumable], generator: torch.Generator) -> int:
    """Put a state made by `_state` back and return the number of epochs it holds."""
    for part, (module, optimizer) in parts.items():
        whole = module.state_dict()  # some modules want the version of theirs beside the tensors
        whole.update({name: state[f"{part}.{name}"] for name in whole})
        module.load_state_dict(whole)
        for name, parameter in module.named_parameters():
            for key, short in KEPT.items():
                buffer = state.get(f"{part}:{short}.{name}")
                if buffer is None or optimizer is None:
                    continue
                room = torch.empty((), device=parameter.device) if key == "step" else torch.empty_like(parameter)
                optimizer.state[parameter][key] = room.copy_(buffer)
    generator.set_state(state["generator"])
    return int(state["epoch"])
