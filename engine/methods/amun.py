"""AMUN (section 4 of its paper; docs/methods.md, AMUN and AMUN+SalUn), on all weights or under a saliency mask."""

from __future__ import annotations

import torch
from torch import nn

from app.catalog import AmunParams, AmunSalunParams
from engine.attacks import AttackResult
from engine.data.batches import Source, TrainingSet
from engine.data.samples import Split
from engine.errors import MethodError
from engine.methods import MethodContext, clean, tune
from engine.methods.saliency import freezer, saliency_mask


def amun(
    model: nn.Module,
    split: Split,
    params: AmunParams,
    adversarial: AttackResult | None,
    context: MethodContext,
) -> nn.Module:
    """Fine-tune `model` in place on D_A with the wrong labels, and on the clean data that the setting allows.

    With a remain set the fine-tuning set is D_R, D_F, D_A (or D_R, D_A with `adversarial_only`), without
    one D_F, D_A (or D_A). Clean images are augmented as in the model's recipe. Adversarial ones never are,
    because a crop moves an image further than the boundary. Plain cross-entropy, no weights.

    Args:
        adversarial: rows aligned with `split.forget`; those not found are left out.

    Raises:
        MethodError: there is no adversarial example.
        DivergedError: see `engine.training.fit`, also for BatchNorm.
    """
    return tune(model, _fine_tuning_set(split, params, adversarial, context), params, context)


def amun_salun(
    model: nn.Module,
    split: Split,
    params: AmunSalunParams,
    adversarial: AttackResult | None,
    context: MethodContext,
) -> nn.Module:
    """AMUN that moves only the weights that are salient for the forget set (AMUN paper, section 5.1).

    Everything else of `amun` holds, and of `salun` what it says of the mask and of BatchNorm.

    Raises:
        MethodError: there is no adversarial example.
        DivergedError: see `engine.training.fit`.
    """
    training_set = _fine_tuning_set(split, params, adversarial, context)
    mask = saliency_mask(model, split, params.mask_ratio)
    return tune(model, training_set, params, context, after_step=freezer(model, mask))


def _fine_tuning_set(
    split: Split, params: AmunParams, adversarial: AttackResult | None, context: MethodContext
) -> TrainingSet:
    if adversarial is None or not len(found := adversarial.found.nonzero().squeeze(1)):
        raise MethodError("AMUN needs an adversarial example of at least one forget sample")
    positions = split.remain
    if params.fine_tuning_set == "forget_and_adversarial":
        positions = torch.cat([split.remain, split.forget])
    return TrainingSet([clean(split, positions, context), Source(adversarial.images, adversarial.labels, found)])
