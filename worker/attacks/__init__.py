"""Attacks: for each image a near one that the model mislabels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttackResult:
    """One row for each attacked image, in the order they were given; no row is ever dropped.

    images: (N, C, H, W) float32 in [0, 1]; the image as given where nothing was found.
    labels: (N,) int64, what the model says of `images`: the wrong label where found, else the true one.
    found: (N,) bool. norms: (N,) float32, L2 distance in pixels of [0, 1].
    iterations: (N,) int32, gradient steps spent. radii: (N,) float32, the radius of the search that ended
    it, 0 for an image that was mislabelled already.
    """

    images: Tensor
    labels: Tensor
    found: Tensor
    norms: Tensor
    iterations: Tensor
    radii: Tensor
