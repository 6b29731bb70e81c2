"""Samples resident on a device or mapped from their file, and the split that methods and audits work on."""

from __future__ import annotations

import mmap
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.memory import free_bytes

RESIDENT_SHARE = 0.5
"""Of the device's free memory: what images may take at most. The rest is for the model."""
ASKED_AT_ONCE = 2**17
"""Bytes: of a longer span the system reads the beginning only."""
MOST_MAPPED = 2**28
"""Bytes of a mapped file that may be in this process's memory before they are given back."""
MAPPED_AROUND = 2**21
"""Bytes: a read of one page may map the whole of the system's cache entry (folio) that it lies in, up to this size."""


@dataclass(frozen=True)
class RawData:
    """A dataset as arrays: string ids, images (N, H, W, C) uint8, labels (N,) int64, holdout (N,) bool.

    subjects: whose each sample is, class_names: by label, where the source says so.
    """

    ids: list[str]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    holdout: NDArray[np.bool_]
    subjects: list[str | None] | None = None
    class_names: list[str] | None = None


@dataclass(frozen=True)
class Samples:
    """All samples of a dataset, for one device.

    images: (N, C, H, W) uint8, stored channels-last, so that gathering rows copies whole images. On the device;
    or mapped from their file, read where they are touched, and `gather` brings rows to the device.
    labels: (N,) int64, on the device.
    """

    images: Tensor
    labels: Tensor

    @classmethod
    def from_arrays(
        cls, images_nhwc: NDArray[np.uint8], labels: NDArray[np.int64], device: torch.device | str = "cpu"
    ) -> Samples:
        """Move `images_nhwc` (N, H, W, C) and `labels` (N,) to `device`."""
        images = torch.from_numpy(np.ascontiguousarray(images_nhwc)).to(device).permute(0, 3, 1, 2)
        return cls(images, torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64)).to(device))

    @classmethod
    def open(
        cls,
        path: Path,
        labels: NDArray[np.int64],
        device: torch.device | str = "cpu",
        resident: bool | None = None,
    ) -> Samples:
        """Read the images (N, H, W, C) of the .npy file at `path` onto `device`, or map them where they do not fit.

        resident: whether to read them; None: if they take at most half of the free memory. The file must stay
        as it is for as long as mapped samples are used; it may be unlinked.
        """
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        device = torch.device(device)
        if resident is None:
            resident = images.nbytes <= RESIDENT_SHARE * free_bytes(device)
        if resident:
            return cls.from_arrays(np.array(images), labels, device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            rows = torch.from_numpy(images).permute(0, 3, 1, 2)
        rows.mapping = Mapping(images)  # type: ignore[attr-defined]
        return cls(rows, torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64)).to(device))

    @property
    def mapped(self) -> bool:
        return mapping_of(self.images) is not None

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @property
    def n(self) -> int:
        return self.images.shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Largest label plus one. Ask the full dataset: a part of it may lack the last class."""
        return int(self.labels.max()) + 1


@dataclass(frozen=True)
class Split:
    """Positions (int64, on the device of `samples`) of the three sets of one unlearning job.

    forget: what is unlearned now. remain: what a method may still train on; empty without access.
    holdout: never trained on, and no controls of an audit: for methods that look at unseen samples.
    """

    samples: Samples
    forget: Tensor
    remain: Tensor
    holdout: Tensor


class Mapping:
    """The file that images (N, H, W, C) are mapped from; it hangs on their tensor.

    Rows are asked for just before they are read, all of a batch at once: what the system reads ahead by itself is
    many times a row, and useless where rows are drawn at random. Pages that were mapped, those around a row as
    well, count as this process's memory until something else wants them. They are given back before, so that a
    process stays small even where much memory is free. What is read again comes from the system's cache.
    """

    def __init__(self, images: np.memmap[Any, np.dtype[np.uint8]]) -> None:
        self._file = cast(mmap.mmap, images.base)
        self._start, self._row = images.offset, images.strides[0]
        self._file.madvise(mmap.MADV_RANDOM)
        self._mapped = 0

    def want(self, first: int, count: int = 1) -> None:
        """Rows from `first` on are about to be read."""
        begin = self._start + first * self._row
        end = begin + count * self._row
        for at in range(begin - begin % mmap.PAGESIZE, end, ASKED_AT_ONCE):
            self._file.madvise(mmap.MADV_WILLNEED, at, min(ASKED_AT_ONCE, end - at))
        self._mapped += max(end - begin, MAPPED_AROUND)

    def done(self) -> None:
        """What was wanted has been read."""
        if self._mapped > MOST_MAPPED:
            self._file.madvise(mmap.MADV_DONTNEED)
            self._mapped = 0


def mapping_of(images: Tensor) -> Mapping | None:
    mapping: Mapping | None = getattr(images, "mapping", None)
    return mapping


def gather(images: Tensor, positions: Tensor) -> Tensor:
    """Rows `positions` of `images` (N, C, H, W) as (n, C, H, W), channels-last, same dtype, where `positions` are."""
    there, nhwc = positions.to(images.device), images.permute(0, 2, 3, 1)
    mapping = mapping_of(images)
    if mapping is None:
        rows = nhwc.index_select(0, there)
    else:
        rows = torch.empty((len(there), *nhwc.shape[1:]), dtype=images.dtype)
        at_once = max(1, MOST_MAPPED // MAPPED_AROUND)
        for part, room in zip(torch.split(there, at_once), torch.split(rows, at_once), strict=True):
            for position in part.tolist():
                mapping.want(position)
            torch.index_select(nhwc, 0, part, out=room)
            mapping.done()
    return rows.to(positions.device).permute(0, 3, 1, 2)


def run(images: Tensor, rows: slice) -> Tensor:
    """`rows` of `images` as they lie there, without a copy."""
    chosen = images[rows]
    if mapping := mapping_of(images):
        mapping.done()
        mapping.want(rows.start, len(chosen))
    return chosen


def to_float(images: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1], and float images as they are.

    There is no normalisation, so distances and radii are in pixel units.
    """
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255)
    return images
