"""FT and l1-sparse: plain fine-tuning on the remain set, and with a penalty on the weights (docs/methods.md, FT
and l1-sparse)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from app.catalog import FineTuneParams, L1SparseParams
from engine.attacks import AttackResult
from engine.data.batches import TrainingSet
from engine.data.samples import Split
from engine.methods import MethodContext, clean, require_remain, tune


def fine_tune(
    model: nn.Module,
    split: Split,
    params: FineTuneParams,
    adversarial: AttackResult | None,  # noqa: ARG001  the methods' common shape
    context: MethodContext,
) -> nn.Module:
    """FT: fine-tune `model` in place by cross-entropy on the remain set, without the forget set.

    Raises:
        MethodError: there is no remain set.
        DivergedError: see `engine.training.fit`, also for BatchNorm.
    """
    require_remain(split, "fine-tuning")
    return tune(model, TrainingSet([clean(split, split.remain, context)]), params, context)


def l1_sparse(
    model: nn.Module,
    split: Split,
    params: L1SparseParams,
    adversarial: AttackResult | None,  # noqa: ARG001
    context: MethodContext,
) -> nn.Module:
    """FT with the penalty alpha_e |theta|_1, all parameters, alpha_e = alpha (1 - e / E) in epoch e of E.

    Jia et al., NeurIPS 2023, section 4. AMUN's public code multiplies alpha by (2 - 2e / E) *cumulatively*,
    so that over ten epochs it rises to 9.7 alpha instead of falling. The penalty
    shrinks by subgradient: weights come near zero, none is exactly zero.

    Raises:
        MethodError: there is no remain set.
        DivergedError: see `engine.training.fit`, also for BatchNorm.
    """
    require_remain(split, "l1-sparse unlearning")
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def penalty(done: float) -> Tensor:
        return l1_strength(params, done) * torch.stack([weight.abs().sum() for weight in weights]).sum()

    return tune(model, TrainingSet([clean(split, split.remain, context)]), params, context, penalty=penalty)


def l1_strength(params: L1SparseParams, done: float) -> float:
    """alpha_e once `done` epochs are done: constant within an epoch, alpha in the first, alpha / E in the last."""
    return params.alpha * (1 - math.floor(done) / params.epochs)
