"""Training sets on the device: even batches, gathered and augmented there, without a host sync."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from worker.data.samples import gather, to_float

Augment = Literal["none", "crop_flip"]
Relabel = Callable[[Tensor, torch.Generator], Tensor]
"""The labels (n,) of a batch to those that it is trained with this time."""

CROP_PADDING = 4


@dataclass(frozen=True)
class Source:
    """A part of a training set: rows `positions` (n,) of `images` with rows `positions` of `labels`.

    images: (N, C, H, W), uint8 or float32 in [0, 1]. labels: (N,) int64.
    augment: `crop_flip` is a random crop after padding by 4 and a random horizontal flip.
    relabel: draws labels anew at each visit.
    """

    images: Tensor
    labels: Tensor
    positions: Tensor
    augment: Augment = "none"
    relabel: Relabel | None = None


class TrainingSet:
    """The uniformly shuffled concatenation of its sources."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = [source for source in sources if len(source.positions)]
        self.starts: list[int] = []
        self.n = 0
        for source in self.sources:
            self.starts.append(self.n)
            self.n += len(source.positions)
        if not self.n:
            raise ValueError("the training set is empty")

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Gather images (n, C, H, W) float32 and labels (n,) for `indices` (n,) into the concatenation.

        Every source is gathered for the whole batch and kept where it belongs: how many rows of a batch
        come from which source is never asked, because on a GPU the answer would stall the queue.
        """
        images, labels = self._rows(0, indices, generator)
        for number in range(1, len(self.sources)):
            more_images, more_labels = self._rows(number, indices, generator)
            belongs = indices >= self.starts[number]
            images = torch.where(belongs[:, None, None, None], more_images, images)
            labels = torch.where(belongs, more_labels, labels)
        return images, labels

    def _rows(self, number: int, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        source = self.sources[number]
        if len(self.sources) > 1:
            indices = (indices - self.starts[number]).clamp(0, len(source.positions) - 1)
        positions = source.positions[indices]
        images = gather(source.images, positions)
        if source.augment == "crop_flip":
            images = crop_flip(images, generator)
        labels = source.labels[positions]
        if source.relabel is not None:
            labels = source.relabel(labels, generator)
        return to_float(images), labels


def crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pad each of (n, C, H, W) by 4 zero pixels, crop at random to (H, W), flip half of them left-right."""
    n, _, height, width = images.shape
    device = images.device
    padded = functional.pad(images, (CROP_PADDING,) * 4)
    shifts = torch.randint(0, 2 * CROP_PADDING + 1, (2, n, 1), generator=generator, device=device)
    flips = torch.randint(0, 2, (n, 1), generator=generator, device=device)
    rows = shifts[0] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    columns = shifts[1] + torch.where(flips == 1, width - 1 - columns, columns)
    each = torch.arange(n, device=device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def batch_sizes(n: int, batch_size: int) -> list[int]:
    """Cut `n` samples into ceil(n / batch_size) batches whose sizes differ by one at most."""
    count = -(-n // batch_size)
    return [n // count + (number < n % count) for number in range(count)]
