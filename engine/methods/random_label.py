"""RL and SalUn: train the forget set on random wrong labels, on all weights or on the salient ones (docs/methods.md, RL
and SalUn)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from app.catalog import RandomLabelParams, SalunParams
from engine.attacks import AttackResult
from engine.data.batches import Relabel, TrainingSet
from engine.data.samples import Split
from engine.errors import MethodError
from engine.methods import MethodContext, clean, tune
from engine.methods.saliency import freezer, saliency_mask


def random_label(
    model: nn.Module,
    split: Split,
    params: RandomLabelParams,
    adversarial: AttackResult | None,  # noqa: ARG001  the methods' common shape
    context: MethodContext,
) -> nn.Module:
    """RL: fine-tune `model` in place on (x, random label) of the forget set, shuffled with the remain set if any.

    The label is uniform over the classes other than the true one and drawn again at each visit, as in AMUN's code.
    Other code draws once, from all classes, and walks the two sets one after the other.

    Raises:
        MethodError: the data has one class only.
        DivergedError: see `engine.training.fit`, also for BatchNorm.
    """
    return tune(model, relabelled_set(split, context), params, context)


def salun(
    model: nn.Module,
    split: Split,
    params: SalunParams,
    adversarial: AttackResult | None,  # noqa: ARG001
    context: MethodContext,
) -> nn.Module:
    """SalUn (Fan et al., ICLR 2024): `random_label` that moves only the weights salient for the forget set.

    The mask is that of `saliency_mask` on the given model. The weights outside it are bit-identical
    afterwards. The public code masks gradients, so that weight decay still shrinks them. BatchNorm's scale
    and shift are weights, under the mask like the others; its running statistics are not, and follow the
    training set as in every method that goes through `fit`.

    Raises:
        MethodError: the data has one class only.
        DivergedError: see `engine.training.fit`.
    """
    training_set = relabelled_set(split, context)
    mask = saliency_mask(model, split, params.mask_ratio)
    return tune(model, training_set, params, context, after_step=freezer(model, mask))


def other_label(classes: int) -> Relabel:
    """Return a function that draws for each label another one of `classes`, uniformly."""

    def draw(labels: Tensor, generator: torch.Generator) -> Tensor:
        shifts = torch.randint(1, classes, labels.shape, generator=generator, device=labels.device)
        return (labels + shifts) % classes

    return draw


def relabelled_set(split: Split, context: MethodContext) -> TrainingSet:
    """The remain set as it is and the forget set under random wrong labels.

    Raises:
        MethodError: the data has one class only.
    """
    classes = split.samples.num_classes
    if classes < 2:
        raise MethodError("random labels need at least two classes")
    return TrainingSet(
        [
            clean(split, split.remain, context),
            clean(split, split.forget, context, other_label(classes)),
        ]
    )
