"""A fast convolutional network for images of about 32 pixels, after airbench (Jordan 2024, arXiv:2404.00498)."""

from __future__ import annotations

from torch import nn

from app.catalog import AirbenchParams
from engine.architectures import Size

STEM = 24  # channels


def build(params: AirbenchParams, channels: int, num_classes: int, size: Size = (32, 32)) -> nn.Module:
    """A 2x2 convolution, three groups of two 3x3 convolutions (w, 4w, 4w channels), a linear head.

    Each group pools after its first convolution, unless a side is one pixel already; GELU follows each batch norm.
    airbench takes the filters of its first layer from the data, averages weights and smooths labels. Here all weights
    are learned, so that membership is what plain training makes of it. Global max pooling ends the last group.
    """
    width, side = params.width, min(size) - 1
    layers: list[nn.Module] = [nn.Conv2d(channels, STEM, 2), nn.GELU()]
    inputs = STEM
    for outputs in (width, 4 * width, 4 * width):
        layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
        if side > 1:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        layers += [nn.BatchNorm2d(outputs), nn.GELU()]
        layers += [nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.GELU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes))
