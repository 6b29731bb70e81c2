"""Decoding the images of an uploaded zip archive, in memory and one member at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.formats.archives import arrays, members, opened, pictures, pieces
from engine.data.images import Stack, room_for


def decode_npz(path: Path) -> NDArray[np.uint8]:
    """The array `images` of an npz that was checked, as (N, H, W, C).

    Raises:
        SourceError: it is damaged, or too large for this worker's memory.
    """
    with opened(path) as file:
        array = arrays(file, members(file, path.stat().st_size))["images"]
        shape = array.shape if len(array.shape) == 4 else (*array.shape, 1)
        images = room_for(shape)
        room, at = images.reshape(-1), -array.offset  # the header comes first
        for piece in pieces(file, array.info):
            values = np.frombuffer(piece, np.uint8)[max(0, -at) :]
            start = max(0, at)
            room[start : start + len(values)] = values
            at += len(piece)
    return images


def decode_image_folder(path: Path, stack: Stack) -> NDArray[np.uint8]:
    """The images of a folder that was checked, in the order of its listing, as the stack makes them: (n, H, W, C).

    Raises:
        SourceError: the entries that cannot be decoded, counted from 0 in the listing.
    """
    with opened(path) as file:
        for row, picture in enumerate(pictures(members(file, path.stat().st_size))):
            what = f"entry {picture.number}"
            try:
                data = b"".join(pieces(file, picture.info))
            except MemoryError:
                raise
            except Exception:  # a wrong checksum, a stream that breaks off
                stack.errors.append(f"{what}: the member is damaged")
                continue
            stack.put(row, data, what)
            if stack.full:
                break
    return stack.result()
