"""Decoding the images of an uploaded Parquet file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.formats.archives import MAX_IMAGE_BYTES
from app.formats.manifest import SourceError
from app.formats.uploads import longest
from engine.data.images import Stack

ROWS_AT_ONCE = 256


def decode(path: Path, stack: Stack) -> NDArray[np.uint8]:
    """The column `image` of a file that was checked, as the stack makes it: (n, H, W, C) uint8.

    Raises:
        SourceError: the rows that cannot be decoded, counted from 0.
    """
    import pyarrow.parquet as pq
    import pyarrow.types as is_type

    row = 0
    with pq.ParquetFile(path) as file:
        nested = is_type.is_struct(file.schema_arrow.field("image").type)
    name = "image.bytes" if nested else "image"
    # As the file has them, each value once: a long one may be repeated in every row.
    with pq.ParquetFile(path, read_dictionary=[name]) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[name]):
            images = batch.column(0).field("bytes") if nested else batch.column(0)
            if longest(images) > MAX_IMAGE_BYTES:
                raise SourceError(f"an image is over {MAX_IMAGE_BYTES // 2**20} MiB")
            for cell in images:
                stack.put(row, cell.as_py(), f"row {row}")
                row += 1
            if stack.full:
                break
    return stack.result()
