"""NegGrad+: descend on the remain set and ascend on the forget set in one step, the easy samples of the forget set
first (docs/methods.md, NegGrad+)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.catalog import NegGradParams
from engine import evaluation
from engine.attacks import AttackResult
from engine.data.batches import TrainingSet
from engine.data.samples import Split
from engine.methods import MethodContext, clean, schedule_of
from engine.training import Forward, Objective, Pass, Progress, fit

STAGE = "neg_grad:stage"


def neg_grad_plus(
    model: nn.Module,
    split: Split,
    params: NegGradParams,
    adversarial: AttackResult | None,  # noqa: ARG001  the methods' common shape
    context: MethodContext,
) -> nn.Module:
    """Lower beta * CE on the remain set less (1 - beta) * CE on the forget set, each in its mean, in place.

    The two are shuffled together. The loss of a forget sample counts up to `ceiling`, so that the ascent ends. With
    `parts` the forget set is cut by the given model's loss, the lowest first, and each part is unlearned in its turn
    with a share of the epochs (RUM, Zhao et al. 2024). Without a remain set it is ascent alone.

    Raises:
        DivergedError: see `engine.training.fit`, also for BatchNorm.
    """
    classes = split.samples.num_classes
    parts = [part for part in torch.chunk(_by_difficulty(model, split), params.parts) if len(part)]
    kept = context.progress.load()
    first = int(kept[STAGE]) if kept is not None else 0
    for number, part in enumerate(parts):
        if number < first:
            continue
        sources = [clean(split, split.remain, context)]
        sources.append(clean(split, part, context, lambda labels, _generator: labels + classes))
        share = -(-params.epochs // len(parts))
        weight = (1 - params.beta) / params.beta * max(1, len(split.remain)) / len(part)
        model = fit(
            model,
            [Pass(TrainingSet(sources), _objective(classes, weight, params.ceiling))],
            replace(schedule_of(params, context), epochs=share),
            context.generator,
            _Stage(context.progress, number, len(parts)),
        )
    return model


def _by_difficulty(model: nn.Module, split: Split) -> Tensor:
    """The forget set's positions, the lowest loss of the given model first."""
    logits = evaluation.logits(model, split.samples.images, split.forget)
    losses = functional.cross_entropy(
        logits.to(split.forget.device), split.samples.labels[split.forget], reduction="none"
    )
    return split.forget[losses.argsort(stable=True)]


def _objective(classes: int, weight: float, ceiling: float) -> Objective:
    """Labels from `classes` on mark samples to forget."""

    def objective(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        losses = functional.cross_entropy(forward(images), labels % classes, reduction="none")
        return torch.where(labels >= classes, -weight * losses.clamp(max=ceiling), losses).mean()

    return objective


class _Stage:
    """The progress of one of several fits; its states say which one they belong to."""

    def __init__(self, progress: Progress, number: int, count: int) -> None:
        self._progress, self._number, self._count = progress, number, count

    def update(self, fraction: float) -> None:
        self._progress.update((self._number + fraction) / self._count)

    def load(self) -> dict[str, Tensor] | None:
        state = self._progress.load()
        if state is None or int(state[STAGE]) != self._number:
            return None
        return {name: value for name, value in state.items() if name != STAGE}

    def save(self, state: Callable[[], dict[str, Tensor]]) -> None:
        self._progress.save(lambda: {**state(), STAGE: torch.tensor(self._number)})
