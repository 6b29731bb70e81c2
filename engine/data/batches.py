"""Training sets: even batches, gathered and augmented on the device, without a host sync for each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from engine.data.augmentations import AUGMENTATIONS
from engine.data.samples import gather, mapping_of, to_float

Augment = Literal["none", "crop_flip", "flip", "resized_crop_flip", "strong"]
Relabel = Callable[[Tensor, torch.Generator], Tensor]
"""The labels (n,) of a batch to those that it is trained with this time."""

CROP_PADDING = 4
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Source:
    """A part of a training set: rows `positions` (n,) of `images` with rows `positions` of `labels`.

    images: (N, C, H, W), uint8 or float32 in [0, 1]. labels: (N,) int64.
    augment: `crop_flip` is a random crop after padding by 4 and a random horizontal flip; the others are those of
    `AUGMENTATIONS`.
    relabel: draws labels again at each visit.
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

    def walk(self, order: Tensor, sizes: Sequence[int], generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the `batch` of each part of `order` (n,), cut into `sizes`.

        Rows of mapped sources are read by a thread, `BATCHES_AHEAD` batches ahead. What it yields is bit for
        bit that of resident ones: all that is drawn is drawn here, in the order of the batches.
        """
        parts = torch.split(order, list(sizes))
        mapped = {number: source for number, source in enumerate(self.sources) if mapping_of(source.images)}
        if not mapped:
            for indices in parts:
                yield self.batch(indices, generator)
            return
        positions = {number: source.positions.cpu() for number, source in mapped.items()}
        ahead: deque[Future[dict[int, Tensor]]] = deque()

        def read(indices: Tensor) -> dict[int, Tensor]:
            return {
                number: _read(source.images, at[self._own(number, indices)], order.device)
                for (number, source), at in zip(mapped.items(), positions.values(), strict=True)
            }

        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
            wanted = iter(torch.split(order.cpu(), list(sizes)))
            for indices in parts:
                while len(ahead) <= BATCHES_AHEAD and (coming := next(wanted, None)) is not None:
                    ahead.append(reader.submit(read, coming))
                yield self.batch(indices, generator, ahead.popleft().result())

    def batch(
        self, indices: Tensor, generator: torch.Generator, read: Mapping[int, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Gather images (n, C, H, W) float32 and labels (n,) for `indices` (n,) into the concatenation.

        Every source is gathered for the whole batch and kept where it belongs: how many rows of a batch
        come from which source is never asked, because on a GPU the answer would stall the queue.

        Args:
            read: rows gathered already, by the number of their source.
        """
        read = read or {}
        images, labels = self._rows(0, indices, generator, read.get(0))
        for number in range(1, len(self.sources)):
            more_images, more_labels = self._rows(number, indices, generator, read.get(number))
            belongs = indices >= self.starts[number]
            images = torch.where(belongs[:, None, None, None], more_images, images)
            labels = torch.where(belongs, more_labels, labels)
        return images, labels

    def _own(self, number: int, indices: Tensor) -> Tensor:
        """`indices` into the concatenation as indices into source `number`: of other sources' rows, any."""
        if len(self.sources) == 1:
            return indices
        return (indices - self.starts[number]).clamp(0, len(self.sources[number].positions) - 1)

    def _rows(
        self, number: int, indices: Tensor, generator: torch.Generator, read: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        source = self.sources[number]
        positions = source.positions[self._own(number, indices)]
        images = gather(source.images, positions) if read is None else read
        if source.augment in AUGMENTATIONS:
            images = AUGMENTATIONS[source.augment](to_float(images), generator)
        elif source.augment == "crop_flip":
            images = crop_flip(images, generator)
        labels = source.labels[positions]
        if source.relabel is not None:
            labels = source.relabel(labels, generator)
        return to_float(images), labels


def _read(images: Tensor, positions: Tensor, device: torch.device) -> Tensor:
    """`gather` from the CPU to `device`; to a GPU by way of pinned memory, without waiting for the copy."""
    if device.type != "cuda":
        return gather(images, positions)
    _, channels, height, width = images.shape
    rows = torch.empty((len(positions), height, width, channels), dtype=images.dtype, pin_memory=True)
    rows.copy_(gather(images, positions).permute(0, 2, 3, 1))
    return rows.to(device, non_blocking=True).permute(0, 3, 1, 2)


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
