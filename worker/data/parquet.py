"""Decoding an uploaded Parquet file: columns `id`, `image`, `label` and, optionally, `split`."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.catalog import UploadSource
from app.uploads import MAX_ERRORS, SourceError, check_parquet
from worker.data.samples import RawData

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM")
MAX_SIDE = 1024
MAX_BYTES = 16 * 2**30
ROWS_AT_ONCE = 256


def upload(params: UploadSource, cache: Path | None, content: Path | None) -> RawData:  # noqa: ARG001
    """Source `upload`: the file at `content`."""
    if content is None:
        raise SourceError("nothing has been uploaded")
    return load_parquet(content, params.holdout_fraction, params.seed)


def load_parquet(path: Path, holdout_fraction: float, seed: int) -> RawData:
    """Check and decode the file at `path`. Without a column `split` a share of the rows, drawn from `seed`,
    is kept as holdout.

    Grey images stay grey where all are; else all become RGB.

    Raises:
        SourceError: what is wrong with it, naming rows (counted from 0, at most 20), never ids.
    """
    manifest = check_parquet(path)
    n = len(manifest.ids)
    if manifest.holdout is None:
        holdout = np.zeros(n, dtype=np.bool_)
        holdout[np.random.default_rng(seed).permutation(n)[: int(n * holdout_fraction)]] = True
    else:
        holdout = np.array(manifest.holdout, dtype=np.bool_)
    labels = np.array(manifest.labels, dtype=np.int64)
    return RawData(manifest.ids, _decode(path, n), labels, holdout, manifest.subjects)


def _decode(path: Path, n: int) -> NDArray[np.uint8]:
    """Return the images (n, H, W, C) uint8."""
    import pyarrow.parquet as pq

    images: NDArray[np.uint8] | None = None
    colour = False
    errors: list[str] = []
    row = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=["image"]):
            for cell in batch.column(0).to_pylist():
                try:
                    pixels = _pixels(cell["bytes"] if isinstance(cell, dict) else cell)
                    if images is None:
                        images = _room(n, pixels)
                    if pixels.shape[:2] != images.shape[1:3]:
                        raise ValueError("the image differs in size from the first")
                    images[row] = pixels if pixels.ndim == 3 else pixels[..., None]
                    colour |= pixels.ndim == 3
                except ValueError as error:
                    errors.append(f"row {row}: {error}")
                row += 1
            if len(errors) >= MAX_ERRORS:
                break
    if errors or images is None:
        raise SourceError("some images cannot be taken", errors)
    return images if colour else images[..., :1].copy()


def _room(n: int, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    if n * height * width * 3 > MAX_BYTES:
        raise SourceError(f"{n} images of {height} x {width} pixels are more than {MAX_BYTES // 2**30} GiB")
    return np.empty((n, height, width, 3), dtype=np.uint8)


def _pixels(encoded: Any) -> NDArray[np.uint8]:
    """Decode one image to (H, W) or (H, W, 3). The size in its header is checked before any pixel is."""
    from PIL import Image

    if not encoded:
        raise ValueError("there is no image")
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(encoded), formats=FORMATS) as image,
        ):
            if max(image.size) > MAX_SIDE:
                raise _TooLargeError(f"the image has a side of more than {MAX_SIDE} pixels")
            return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    except _TooLargeError:
        raise
    except Exception as error:  # decoders raise SyntaxError, struct.error, IndexError and more on bad bytes
        raise ValueError("the image cannot be decoded") from error


class _TooLargeError(ValueError):
    pass
