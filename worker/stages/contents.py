"""The marks of pictures that are erased, or asked for, so that they are known when they come again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.core.positions import Positions
from app.datasets.suppression import Marker
from app.formats.pictures import is_pictures
from app.formats.references import at, is_references
from engine.data import upload
from worker.runtime.run import Run

ROWS_AT_ONCE = 1000


def marks_of(run: Run, images: str | None, positions: Positions) -> Sequence[str | None]:
    """Of those at `positions` in the file of the digest `images`."""
    if images is None or not len(positions):
        return []
    path = run.resources.blobs.fetch(images)
    if is_references(path):
        return [mark for reference in at(path, positions.tolist()).values() for mark in reference.marks]
    marker = Marker.of(run.resources.settings, run.claim.tenant_id)
    if is_pictures(path):
        return upload.marks_of(path, positions, marker.key)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    # In parts: the array need not fit into memory.
    parts = np.array_split(positions, -(-len(positions) // ROWS_AT_ONCE))
    return [mark for part in parts for mark in marker.contents(array[part])]
