"""Exact retraining: the gold standard of unlearning."""

from __future__ import annotations

from torch import nn

from app.catalog import RetrainParams
from engine.attacks import AttackResult
from engine.data.samples import Split
from engine.methods import MethodContext, require_remain


def retrain(
    model: nn.Module,  # noqa: ARG001  the methods' common shape
    split: Split,
    params: RetrainParams,  # noqa: ARG001
    adversarial: AttackResult | None,  # noqa: ARG001
    context: MethodContext,
) -> nn.Module:
    """Train a fresh model on the remain set alone, by the recipe of the original.

    Raises:
        MethodError: there is no remain set.
    """
    require_remain(split, "exact retraining")
    return context.recipe.train(context.fresh(), split.samples, split.remain, context.generator, context.progress)
