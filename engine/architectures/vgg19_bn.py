"""VGG19 with batch norm for small images (Simonyan, Zisserman 2015)."""

from __future__ import annotations

from torch import nn

from app.catalog import Vgg19Params
from engine.architectures import Size

STAGES = ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4))
"""Channels, as a multiple of the first stage's, and convolutions of each."""


def build(params: Vgg19Params, channels: int, num_classes: int, size: Size = (32, 32)) -> nn.Module:
    """Five stages of 3x3 convolutions, each ended by a 2x2 max pool, and a linear head on all that is left.

    An image of 64 pixels leaves 2x2 positions of 8 w channels. A pool is left out where a side is one pixel
    already, so that images under 32 pixels pass too.
    """
    layers: list[nn.Module] = []
    height, width = size
    inputs = channels
    for factor, count in STAGES:
        for _ in range(count):
            outputs = params.width * factor
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        if min(height, width) > 1:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * height * width, num_classes))
