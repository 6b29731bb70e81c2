"""Any classifier of timm by name, untrained, made to fit the images or refused with the reason."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from app.catalog import TimmParams, names
from engine.architectures import Size, fitting
from engine.data.torchvision_ops import import_torchvision
from engine.errors import ArchitectureError


def build(params: TimmParams, channels: int, num_classes: int, size: Size = (32, 32)) -> nn.Module:
    """Model `name` with `num_classes` outputs, and for images of `size` where the model has sizes.

    Raises:
        ArchitectureError: no model has that name, or it cannot take such images.
    """
    import_torchvision()  # timm imports it, which by itself may fail
    timm = importlib.import_module("timm")
    if not timm.is_model(params.name):
        raise ArchitectureError(f"the installed timm {timm.__version__} has no model {params.name}")

    def make() -> nn.Module:
        own: dict[str, Any] = {"pretrained": False, "num_classes": num_classes, "in_chans": channels}
        if params.name in names.timm_sized():
            own["img_size"] = size
        if params.global_pool is not None:
            own["global_pool"] = params.global_pool
        model: nn.Module = timm.create_model(params.name, **own)
        return model

    key = ("timm", params.name, params.global_pool, channels, num_classes, size)
    fitting.require(key, params.name, make, channels, num_classes, size)
    return make()
