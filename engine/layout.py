"""Where and how a network lies in memory: on its device, channels last."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

FEW_CHANNELS = 8


def placed(model: nn.Module, device: torch.device | str) -> nn.Module:
    """`model` on `device`, channels-last.

    On CPUs without AVX-512, the weight gradient of a convolution of 1×1 with a stride and fewer than eight channels
    writes past its memory (torch 2.13, oneDNN). Such a layer, as in RepVGG, takes the pixels that its stride meets
    first, and then has none: the same values.
    """
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if torch.device(device).type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                _stride_first(layer)
    return model


def _stride_first(layer: nn.Conv2d) -> None:
    few = layer.in_channels // layer.groups < FEW_CHANNELS
    if few and layer.kernel_size == (1, 1) and layer.stride != (1, 1) and layer.padding in ((0, 0), "valid"):
        layer.register_forward_pre_hook(partial(_sliced, layer.stride))
        layer.stride = (1, 1)


def _sliced(stride: tuple[int, ...], _layer: nn.Module, given: tuple[Any, ...]) -> tuple[Tensor, ...]:
    images: Tensor = given[0]
    return (images[..., :: stride[0], :: stride[1]],)
