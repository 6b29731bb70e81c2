"""Any classifier of torchvision by name, untrained, made to fit the data or refused with the reason."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from app.catalog import TorchvisionParams
from engine.architectures import Size, fitting
from engine.checkpoints import IGNORED
from engine.data.torchvision_ops import import_torchvision
from engine.errors import ArchitectureError

SECOND_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""What the names of heads begin with that torchvision has for training alone; a network here goes without them."""


def build(params: TorchvisionParams, channels: int, num_classes: int, size: Size = (32, 32)) -> nn.Module:
    """Classifier `name` with `num_classes` outputs. Its tensors have torchvision's own names.

    Grey images are repeated to three channels; vision transformers are built for the size of the images, and
    models with a second head for training go without it.

    Raises:
        ArchitectureError: no classifier has that name, or it cannot take such images.
    """
    models = import_torchvision().models
    if params.name not in models.list_models(module=models):
        raise ArchitectureError(f"torchvision has no classifier {params.name}")
    if channels not in (1, 3):
        raise ArchitectureError(f"torchvision's classifiers take 3 channels, and the images have {channels}")

    def make() -> nn.Module:
        model: nn.Module = models.get_model(params.name, weights=None, num_classes=num_classes, **options(params, size))
        if channels == 1:
            model.register_forward_pre_hook(_repeat)
        return model

    key = ("torchvision", params.name, channels, num_classes, size)
    fitting.require(key, params.name, make, channels, num_classes, size)
    model = make()
    setattr(model, IGNORED, SECOND_HEADS.get(params.name, ()))
    return model


def options(params: TorchvisionParams, size: Size) -> dict[str, Any]:
    """Further arguments that some models need.

    Raises:
        ValueError: the model takes square images only.
    """
    if params.name.startswith("vit_"):
        if size[0] != size[1]:
            raise ValueError("its images are square")
        return {"image_size": size[0]}
    if params.name.startswith("maxvit_"):
        return {"input_size": size}
    if params.name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    return {}


def _repeat(_model: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return inputs[0].expand(-1, 3, -1, -1)
