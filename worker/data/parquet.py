"""Decoding the images of an uploaded Parquet file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.data.images import Stack

ROWS_AT_ONCE = 256


def decode(path: Path, stack: Stack) -> NDArray[np.uint8]:
    """The column `image` of a file that was checked, as the stack makes it: (n, H, W, C) uint8.

    Raises:
        SourceError: the rows that cannot be decoded, counted from 0.
    """
    import pyarrow.parquet as pq

    row = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=["image"]):
            for cell in batch.column(0).to_pylist():
                stack.put(row, cell["bytes"] if isinstance(cell, dict) else cell, f"row {row}")
                row += 1
            if stack.full:
                break
    return stack.result()
