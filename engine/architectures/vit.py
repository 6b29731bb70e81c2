"""A small vision transformer (Dosovitskiy et al. 2021, in the plain form of Beyer et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from app.catalog import VitParams
from engine.architectures import Size
from engine.errors import ArchitectureError


class Attention(nn.Module):
    """Softmax attention, spelled out: fused kernels have no second derivatives, which a Newton step needs."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        query, key, value = self.mix(x).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) * (width // self.heads) ** -0.5).softmax(3)
        mixed: Tensor = self.out((weights @ value).transpose(1, 2).reshape(n, tokens, width))
        return mixed


class EncoderBlock(nn.Module):
    """Attention and a two-layer perceptron of four times the width, each normed before and added after."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads), nn.Dropout(dropout))
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        x = x + self.perceptron(x)
        return x


class Tokens(nn.Module):
    """Patches as tokens (n, patches, width), with what is learned of their positions added."""

    def __init__(self, channels: int, patch: int, width: int, count: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, count, width))

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return tokens


class MeanOfTokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def build(params: VitParams, channels: int, num_classes: int, size: Size = (32, 32)) -> nn.Module:
    """Patches, `depth` blocks, a norm, the mean over tokens and a linear head.

    Raises:
        ArchitectureError: patches do not fill the image.
    """
    height, width = size
    if height % params.patch or width % params.patch:
        raise ArchitectureError(f"patches of {params.patch} pixels do not fill images of {height}x{width}")
    count = height // params.patch * (width // params.patch)
    return nn.Sequential(
        Tokens(channels, params.patch, params.width, count),
        *(EncoderBlock(params.width, params.heads, params.dropout) for _ in range(params.depth)),
        nn.LayerNorm(params.width),
        MeanOfTokens(),
        nn.Linear(params.width, num_classes),
    )
