"""A small convolutional network that trains in a second on one CPU core, for images of 8 pixels and more."""

from __future__ import annotations

from torch import nn

from app.catalog import SmallCnnParams
from engine.architectures import Size


def build(
    params: SmallCnnParams,
    channels: int,
    num_classes: int,
    size: Size = (32, 32),  # noqa: ARG001  the architectures' common shape
) -> nn.Module:
    """Three 3x3 convolutions (w, 2w, 2w channels) with batch norm and a linear head.

    Max pooling halves the image after each of the first two, and global max pooling ends the third: with
    an average there the digits' membership signal is as strong but AMUN costs twice the accuracy.
    """
    width = params.width
    return nn.Sequential(
        *_block(channels, width),
        nn.MaxPool2d(2),
        *_block(width, 2 * width),
        nn.MaxPool2d(2),
        *_block(2 * width, 2 * width),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, num_classes),
    )


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
