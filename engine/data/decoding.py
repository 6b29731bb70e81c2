"""Decoding a file in any of the forms of `app.formats.uploads`: in a child of the worker, and without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.formats.manifest import Manifest, SourceError
from app.formats.uploads import check
from engine.data import archives, parquet
from engine.data.images import Stack


def decode(
    content: Path, class_names: Sequence[str] | None = None, shape: Sequence[int] | None = None
) -> tuple[Manifest, NDArray[np.uint8]]:
    """Check and decode a file: what it says of its samples, and their images (N, H, W, C).

    class_names: by label. shape: (H, W, C) that the images must have; grey ones fit three channels.

    Raises:
        SourceError: what is wrong with it, naming rows or entries (counted from 0, at most 20), never ids.
    """
    manifest = check(content, class_names)
    wanted = None if shape is None else (shape[0], shape[1], shape[2])
    n = len(manifest.ids)
    match manifest.form:
        case "npz":
            images = archives.decode_npz(content)
        case "image folder":
            images = archives.decode_image_folder(content, Stack(n, wanted))
        case _:
            images = parquet.decode(content, Stack(n, wanted))
    if wanted is not None and images.shape[1:] != wanted:
        raise SourceError(f"the images are of the shape {list(images.shape[1:])}, not {list(wanted)}")
    return manifest, images


def decode_to(
    target: str, content: str, class_names: Sequence[str] | None, shape: Sequence[int] | None
) -> dict[str, Any]:
    """`decode` for `app.formats.sandbox`: the images go to the file `target` as .npy, and the rest is the answer."""
    manifest, images = decode(Path(content), class_names, shape)
    with Path(target).open("wb") as file:
        np.save(file, images, allow_pickle=False)
    return asdict(manifest)
