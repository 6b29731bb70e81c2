"""ResNet-18 for images of about 32 pixels (He et al. 2016; the variant of the AMUN code)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from app.catalog import ResNet18Params
from engine.architectures import Size


class Projection(nn.Conv2d):
    """A 1x1 convolution of every `step`-th row and column, which is what one with that stride computes.

    Its gradient is another kernel of oneDNN: that of the strided one writes past its buffer where there are fewer input
    channels than a vector holds (oneDNN issue 6035, which ends the process on CPUs with AVX2).
    """

    def __init__(self, inputs: int, outputs: int, step: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, :: self.step, :: self.step])


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, halve_projected: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        self.scale = 1.0
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(Projection(inputs, outputs, stride), nn.BatchNorm2d(outputs))
            self.scale = 0.5 if halve_projected else 1.0

    def forward(self, x: Tensor) -> Tensor:
        main = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        joined = main + self.shortcut(x)
        return torch.relu(joined if self.scale == 1.0 else joined * self.scale)


def build(
    params: ResNet18Params,
    channels: int,
    num_classes: int,
    size: Size = (32, 32),  # noqa: ARG001  the architectures' common shape
) -> nn.Module:
    """3x3 stem without pooling, four stages of two blocks (w, 2w, 4w, 8w channels), a linear head."""
    width = params.width
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    inputs = width
    for stage, stride in enumerate((1, 2, 2, 2)):
        outputs = width * 2**stage
        layers += [
            ResidualBlock(inputs, outputs, stride, params.halve_projected),
            ResidualBlock(outputs, outputs, 1, params.halve_projected),
        ]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes))
