"""Fine-tuning from a base checkpoint: all of the network, its head, or its head on features that are computed once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.catalog import FineTunedRecipe, LinearProbeRecipe
from engine.architectures import heads
from engine.data.batches import Source, TrainingSet
from engine.data.samples import Samples, gather, to_float
from engine.errors import MethodError
from engine.evaluation import MOST_VALUES, eval_mode
from engine.recipes import rows
from engine.training import Pass, Progress, Schedule, cosine, fit, of_logits, warm_cosine

MOST_AT_ONCE = 512
SAME = 1e-3


def fine_tuned(
    model: nn.Module,
    params: FineTunedRecipe,
    samples: Samples,
    positions: Tensor,
    generator: torch.Generator,
    progress: Progress,
) -> nn.Module:
    """Recipe `fine_tuned`: cross-entropy with smoothed labels, a warm-up and a cosine, and rates that fall towards the
    first layers (layer-wise decay, as Clark et al. 2020 and Bao et al. 2022 have it)."""
    if params.frozen_backbone:
        heads.freeze(model)
    rates = {}
    if params.layer_decay < 1:
        rates = {name: params.layer_decay**depth for name, depth in heads.depths(model).items()}
    schedule = Schedule(
        epochs=params.epochs,
        learning_rate=params.learning_rate,
        batch_size=params.batch_size,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        factor=warm_cosine(params.epochs, params.warmup_epochs),
        precision=params.precision,
        optimizer=params.optimizer,
        rates=rates,
    )

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, label_smoothing=params.label_smoothing)

    training_set = rows(samples, positions, params.augment)
    return fit(model, [Pass(training_set, of_logits(loss))], schedule, generator, progress)


def linear_probe(
    model: nn.Module,
    params: LinearProbeRecipe,
    samples: Samples,
    positions: Tensor,
    generator: torch.Generator,
    progress: Progress,
) -> nn.Module:
    """Recipe `linear_probe`: AdamW with a cosine on the head alone, whose inputs are computed once.

    Raises:
        MethodError: the network does not end in one linear layer.
    """
    heads.freeze(model)
    _, head = heads.layer(model)
    inputs = features(model, head, samples, positions)
    schedule = Schedule(
        epochs=params.epochs,
        learning_rate=params.learning_rate,
        batch_size=params.batch_size,
        momentum=0.0,
        weight_decay=params.weight_decay,
        factor=cosine(params.epochs),
        optimizer="adamw",
    )
    own = torch.arange(len(positions), device=positions.device)
    training_set = TrainingSet([Source(inputs[:, :, None, None], samples.labels[positions], own)])
    fit(_Probe(head, getattr(model, "output_order", None)), [Pass(training_set)], schedule, generator, progress)
    return model.eval()


class _Probe(nn.Module):
    """The head on its inputs (n, F, 1, 1), in the order of the network's answers."""

    def __init__(self, head: nn.Linear, order: Tensor | None) -> None:
        super().__init__()
        self.head, self._order = head, order

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(inputs.flatten(1))
        return logits if self._order is None else logits.index_select(1, self._order)


@torch.no_grad()
def features(model: nn.Module, head: nn.Linear, samples: Samples, positions: Tensor) -> Tensor:
    """What `head` is given of rows `positions` of `samples`: (n, F), in eval mode and float32.

    Raises:
        MethodError: the network does something else with the answer of its head than to return it.
    """
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    probe = _Probe(head, getattr(model, "output_order", None))
    size = max(1, min(MOST_AT_ONCE, MOST_VALUES // samples.images.shape[1:].numel()))
    found: list[Tensor] = []
    try:
        with eval_mode(model):
            for some in torch.split(positions, size):
                seen.clear()
                logits = model(to_float(gather(samples.images, some)))
                if len(seen) != 1 or seen[0].ndim != 2:
                    raise MethodError("the network gives its head something else than one row of features an image")
                inputs = seen[0]
                if not found and not torch.allclose(probe(inputs), logits, atol=SAME, rtol=SAME):
                    raise MethodError("the network does more after its head, so that its features cannot be kept")
                found.append(inputs.float())
    finally:
        hook.remove()
    return torch.cat(found)
