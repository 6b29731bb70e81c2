"""The usual augmentations of fine-tuning, for a batch at once, on its device and at any size.

Their parameters are torchvision's defaults, and those of its reference training. What is drawn comes from `generator`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Images (n, C, H, W) float32 in [0, 1] to as many of the same size."""

SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
JITTER = 0.4
ERASED = 0.25
"""The probability that a rectangle of an image is erased; its share is between 2 and 33 percent."""
ERASED_SCALE = (0.02, 0.33)
ERASED_RATIO = (0.3, 3.3)
GREY = (0.299, 0.587, 0.114)


def _uniform(n: int, low: float, high: float, generator: torch.Generator, device: torch.device) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=generator, device=device)


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of them left-right."""
    flipped = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def resized_crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """A part of 8 to 100 percent of each, with sides of 3:4 to 4:3, resized to the whole (bilinear), and `flip`.

    A part that would not fit is as wide or as high as the image.
    """
    n, _, height, width = images.shape
    device = images.device
    area = _uniform(n, *SCALE, generator, device) * height * width
    ratio = _uniform(n, math.log(RATIO[0]), math.log(RATIO[1]), generator, device).exp()
    wide = (area * ratio).sqrt().clamp(1, width) / width  # shares of the sides
    high = (area / ratio).sqrt().clamp(1, height) / height
    left = torch.rand(n, generator=generator, device=device) * (1 - wide)
    top = torch.rand(n, generator=generator, device=device) * (1 - high)
    zero = torch.zeros_like(wide)
    rows = torch.stack([wide, zero, 2 * left + wide - 1]), torch.stack([zero, high, 2 * top + high - 1])
    grid = functional.affine_grid(torch.stack(rows).permute(2, 0, 1), list(images.shape), align_corners=False)
    cut = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return flip(cut, generator)


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation by factors of 0.6 to 1.4 each."""
    n, channels = images.shape[:2]

    def factor() -> Tensor:
        return _uniform(n, 1 - JITTER, 1 + JITTER, generator, images.device)[:, None, None, None]

    images = (images * factor()).clamp(0, 1)
    if channels == 3:
        grey = (images * images.new_tensor(GREY)[None, :, None, None]).sum(1, keepdim=True)
    else:
        grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    images = (mean + (images - mean) * factor()).clamp(0, 1)
    return (grey + (images - grey) * factor()).clamp(0, 1)


def erase(images: Tensor, generator: torch.Generator) -> Tensor:
    """In a quarter of them a rectangle becomes black."""
    n, _, height, width = images.shape
    device = images.device
    chosen = torch.rand(n, generator=generator, device=device) < ERASED
    area = _uniform(n, *ERASED_SCALE, generator, device) * height * width
    ratio = _uniform(n, math.log(ERASED_RATIO[0]), math.log(ERASED_RATIO[1]), generator, device).exp()
    high, wide = (area * ratio).sqrt().clamp(max=height), (area / ratio).sqrt().clamp(max=width)
    top = torch.rand(n, generator=generator, device=device) * (height - high)
    left = torch.rand(n, generator=generator, device=device) * (width - wide)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    inside_rows = (rows >= top[:, None]) & (rows < (top + high)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    gone = inside_rows[:, :, None] & inside_columns[:, None, :] & chosen[:, None, None]
    return images.masked_fill(gone[:, None], 0.0)


def strong(images: Tensor, generator: torch.Generator) -> Tensor:
    """`resized_crop_flip`, `jitter` and `erase`."""
    return erase(jitter(resized_crop_flip(images, generator), generator), generator)


AUGMENTATIONS: Mapping[str, Augmentation] = {
    "flip": flip,
    "resized_crop_flip": resized_crop_flip,
    "strong": strong,
}
