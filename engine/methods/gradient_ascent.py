"""GA: raise the loss on the forget set (docs/methods.md, GA)."""

from __future__ import annotations

from torch import Tensor, nn

from app.catalog import GradientAscentParams
from engine.attacks import AttackResult
from engine.data.batches import TrainingSet
from engine.data.samples import Split
from engine.methods import MethodContext, clean, tune
from engine.training import Forward, Pass, cross_entropy


def gradient_ascent(
    model: nn.Module,
    split: Split,
    params: GradientAscentParams,
    adversarial: AttackResult | None,  # noqa: ARG001  the methods' common shape
    context: MethodContext,
) -> nn.Module:
    """Raise the cross-entropy of `model`, in place, on the forget set.

    With a remain set each epoch is a pass of descent over it, then a pass of ascent over the forget set,
    both shuffled (AMUN's code does not shuffle the first); without one, ascent alone. One optimizer and one
    rate serve both. The ascent has no lower bound: a rate that is too high ruins the model. Only the
    audit shows it, unless a value stops being finite.

    Raises:
        DivergedError: see `engine.training.fit`, also for BatchNorm.
    """
    forget = TrainingSet([clean(split, split.forget, context)])
    if not len(split.remain):
        return tune(model, forget, params, context, objective=ascent)
    remain = TrainingSet([clean(split, split.remain, context)])
    return tune(model, remain, params, context, then=[Pass(forget, ascent)])


def ascent(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
    """Minus the cross-entropy."""
    return -cross_entropy(forward, images, labels)
