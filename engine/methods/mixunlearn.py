"""Unlearning in the style of MixUnlearn (ICLR 2025; docs/methods.md, MixUnlearn)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.catalog import MixUnlearnParams
from engine import seeding
from engine.attacks import AttackResult
from engine.data.batches import TrainingSet, batch_sizes
from engine.data.samples import Split
from engine.errors import MethodError
from engine.methods import MethodContext, clean, require_remain, schedule_of
from engine.methods.mixing import Generator, mixing_loss, pairs, real_loss
from engine.training import run_epochs

Labelled = tuple[Tensor, Tensor]
"""Images and labels of a batch."""


def mixunlearn(
    model: nn.Module,
    split: Split,
    params: MixUnlearnParams,
    adversarial: AttackResult | None,  # noqa: ARG001  the methods' common shape
    context: MethodContext,
) -> nn.Module:
    """Train `model` in place against a generator of forget/remain blends.

    A step draws as many remain samples as forget samples. At every `generator_every`-th step the generator
    is first stepped to raise L_mix as judged by a moving average of the unlearner; then the unlearner is
    stepped to lower L_mix + omega L_real on fresh blends, detached, and on the real samples. The released
    file lacks L_real, pairs by index only and permutes remain images without their targets; none of that is
    done here.

    BatchNorm is in eval mode throughout: most of a batch are blends, whose statistics are not those of
    images. Its scale and shift are trained. Sums over remain samples are means, so that rates do not depend
    on the batch.

    Raises:
        MethodError: there is no remain set, or the model has no such convolution as `feature_layer`.
        DivergedError: see `engine.training.run_epochs`.
    """
    require_remain(split, "MixUnlearn")
    device, rng = split.forget.device, context.generator
    forget, remain = (TrainingSet([clean(split, part, context)]) for part in (split.forget, split.remain))
    before = copy.deepcopy(model).eval().requires_grad_(False)
    average = copy.deepcopy(before)
    generator = _generator(before, forget, params, rng)
    rates = {"model": params.learning_rate, "generator": params.generator_learning_rate}
    players = {"model": model.eval(), "generator": generator}
    optimizers = {
        name: torch.optim.SGD(
            player.parameters(),
            rates[name],
            momentum=params.momentum,
            weight_decay=params.weight_decay,
            fused=True,
        )
        for name, player in players.items()
    }
    factor = schedule_of(params, context).factor
    sizes = batch_sizes(forget.n, params.batch_size)

    def epoch(number: int, report: Callable[[float], None]) -> Tensor:
        order = torch.randperm(forget.n, generator=rng, device=device)
        beside = torch.randint(remain.n, (forget.n,), generator=rng, device=device)
        shares = _shares(params.mixing_alpha, len(sizes), rng)
        total = torch.zeros((), device=device)
        for step, rows in enumerate(zip(torch.split(order, sizes), torch.split(beside, sizes), strict=True)):
            done = number + step / len(sizes)
            report(done)
            for name, optimizer in optimizers.items():
                optimizer.param_groups[0]["lr"] = rates[name] * factor(done)
            drawn = _draw(before, forget.batch(rows[0], rng), remain.batch(rows[1], rng), params)
            for_generator, for_model = shares[step]
            if (number * len(sizes) + step) % params.generator_every == 0:
                loss = generator_loss(average, generator, drawn, for_generator, params)
                total += _descend(loss, optimizers["generator"])
            loss = unlearner_loss(model, generator, drawn, for_model, params)
            total += _descend(loss, optimizers["model"])
            _follow(average, model, params.generator_ema)
        return total

    parts = {name: (player, optimizers[name]) for name, player in players.items()}
    run_epochs({**parts, "average": (average, None)}, params.epochs, epoch, rng, context.progress)
    return model.eval()


@dataclass(frozen=True)
class Drawn:
    """A step's samples: images, early features and target distributions of n forget and n remain samples,
    and which of them are blended (see `mixing`)."""

    forget: Tensor
    remain: Tensor
    forget_features: Tensor
    remain_features: Tensor
    forget_targets: Tensor
    remain_targets: Tensor
    first: Tensor
    second: Tensor

    def blends(self, generator: nn.Module, share: float) -> Tensor:
        """x_ij = M x_i + (1 - M) x_j, (P, C, H, W)."""
        features = self.forget_features[self.first], self.remain_features[self.second]
        mask = generator(*features, share, self.forget.shape[2:])
        blends: Tensor = mask * self.forget[self.first] + (1 - mask) * self.remain[self.second]
        return blends

    def mixing_loss(self, outputs: Tensor, share: float, temperature: float) -> Tensor:
        """L_mix of logits `outputs` (P, classes) for the blends."""
        columns = len(self.first) // len(self.forget)
        targets = self.forget_targets[self.first], self.remain_targets[self.second]
        return mixing_loss(outputs.softmax(1), *targets, share, temperature, columns)


def generator_loss(
    judge: nn.Module, generator: nn.Module, drawn: Drawn, share: float, params: MixUnlearnParams
) -> Tensor:
    """L_gen: the negative of L_mix, with its own temperature."""
    blends = drawn.blends(generator, share)
    return -drawn.mixing_loss(judge(blends), share, params.temperature_generator)


def unlearner_loss(
    model: nn.Module, generator: nn.Module, drawn: Drawn, share: float, params: MixUnlearnParams
) -> Tensor:
    """L_unlearn = L_mix + omega L_real; no gradient reaches the generator."""
    with torch.no_grad():
        blends = drawn.blends(generator, share)
    counts = [len(blends), len(drawn.forget), len(drawn.remain)]
    mixed, forget, remain = torch.split(model(torch.cat([blends, drawn.forget, drawn.remain])), counts)
    real = real_loss(
        forget.softmax(1),
        drawn.forget_targets,
        remain.softmax(1),
        drawn.remain_targets,
        params.temperature_real,
    )
    return drawn.mixing_loss(mixed, share, params.temperature_mix) + params.real_weight * real


@torch.no_grad()
def _draw(before: nn.Module, forget: Labelled, remain: Labelled, params: MixUnlearnParams) -> Drawn:
    n = len(forget[0])
    outputs, features = with_features(before, torch.cat([forget[0], remain[0]]), params.feature_layer)
    if params.targets == "labels":
        targets = functional.one_hot(torch.cat([forget[1], remain[1]]), outputs.shape[1]).to(outputs)
    else:
        targets = (outputs / params.sharpening).softmax(1)
    first, second = pairs(n, n, params.pairing, outputs.device)
    return Drawn(forget[0], remain[0], features[:n], features[n:], targets[:n], targets[n:], first, second)


def with_features(model: nn.Module, images: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Return the logits of `images` and the output (n, channels, h, w) of the `layer`-th convolution, from 1.

    Raises:
        MethodError: the model has fewer convolutions.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if layer > len(convolutions):
        raise MethodError(f"feature_layer is {layer}, and the model has {len(convolutions)} convolutions")
    seen: list[Tensor] = []
    hook = convolutions[layer - 1].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        outputs = model(images)
    finally:
        hook.remove()
    return outputs, seen[0]


def _generator(before: nn.Module, forget: TrainingSet, params: MixUnlearnParams, rng: torch.Generator) -> nn.Module:
    device = forget.sources[0].positions.device
    seed = int(torch.randint(2**62, (), generator=rng, device=device))
    images, _ = forget.batch(torch.zeros(1, dtype=torch.int64, device=device), rng)
    with torch.no_grad():
        channels = with_features(before, images, params.feature_layer)[1].shape[1]
    return seeding.seeded_model(lambda: Generator(channels, params.generator_width, params.mask_grid), seed, device)


def _shares(alpha: float, count: int, rng: torch.Generator) -> list[list[float]]:
    """`count` pairs of lambda from Beta(alpha, alpha): torch's own sampler takes no generator."""
    seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
    pairs_of_shares: list[list[float]] = np.random.default_rng(seed).beta(alpha, alpha, (count, 2)).tolist()
    return pairs_of_shares


def _descend(loss: Tensor, optimizer: torch.optim.SGD) -> Tensor:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(parameter, 1 - decay)
