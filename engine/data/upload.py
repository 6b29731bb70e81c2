"""Source `upload`: bytes that a client has sent, in any of the forms of `app.formats.uploads`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.catalog import UploadSource
from app.formats.manifest import SourceError
from app.formats.uploads import check
from engine.data import archives, parquet
from engine.data.images import Stack
from engine.data.samples import RawData


def upload(params: UploadSource, cache: Path | None, content: Path | None) -> RawData:  # noqa: ARG001
    """The file at `content`."""
    if content is None:
        raise SourceError("nothing has been uploaded")
    return load_content(content, params.holdout_fraction, params.seed, params.class_names, params.shape)


def load_content(
    content: Path,
    holdout_fraction: float,
    seed: int,
    class_names: Sequence[str] | None = None,
    shape: tuple[int, int, int] | None = None,
) -> RawData:
    """Check and decode a file. Where it says nothing of splits, a share of the samples, drawn from `seed`, is kept
    as holdout. class_names: by label. shape: (H, W, C) that the images must have; grey ones fit three channels.

    Raises:
        SourceError: what is wrong with it, naming rows or entries (counted from 0, at most 20), never ids.
    """
    manifest = check(content, class_names)
    n = len(manifest.ids)
    match manifest.form:
        case "npz":
            images = archives.decode_npz(content)
        case "image folder":
            images = archives.decode_image_folder(content, Stack(n, shape))
        case _:
            images = parquet.decode(content, Stack(n, shape))
    if shape is not None and images.shape[1:] != tuple(shape):
        raise SourceError(f"the images are of the shape {list(images.shape[1:])}, not {list(shape)}")
    if manifest.holdout is None:
        holdout = np.zeros(n, dtype=np.bool_)
        holdout[np.random.default_rng(seed).permutation(n)[: int(n * holdout_fraction)]] = True
    else:
        holdout = np.array(manifest.holdout, dtype=np.bool_)
    labels = np.array(manifest.labels, dtype=np.int64)
    return RawData(manifest.ids, images, labels, holdout, manifest.subjects, manifest.class_names)
