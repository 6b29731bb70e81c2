"""Samples resident on a device, and the four-way split that methods and audits work on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class RawData:
    """A dataset as arrays: string ids, images (N, H, W, C) uint8, labels (N,) int64, holdout (N,) bool.

    subjects: whose each sample is, where the source says so.
    """

    ids: list[str]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    holdout: NDArray[np.bool_]
    subjects: list[str | None] | None = None


@dataclass(frozen=True)
class Samples:
    """All samples of a dataset on one device.

    images: (N, C, H, W) uint8, stored channels-last, so that gathering rows copies whole images.
    labels: (N,) int64.
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

    forget: what is to be forgotten now. remain: what may still be trained on; empty without access.
    holdout: never trained on, the audit's controls.
    """

    samples: Samples
    forget: Tensor
    remain: Tensor
    holdout: Tensor


def gather(images: Tensor, positions: Tensor) -> Tensor:
    """Rows `positions` of `images` (N, C, H, W) as (n, C, H, W), channels-last, same dtype."""
    return images.permute(0, 2, 3, 1).index_select(0, positions).permute(0, 3, 1, 2)


def to_float(images: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1], and float images as they are.

    There is no normalisation, so distances and radii are in pixel units (methods.md 10).
    """
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255)
    return images
