"""The copy of a dataset that an input contract's geometry makes: resized, cropped, in grey where the network wants it.

Images are resized by Pillow, as torchvision, timm and Hugging Face do with decoded images, and stay uint8.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.formats.input_contract import Geometry, InputContract

ROWS_AT_ONCE = 512
MOST_AT_ONCE = 2**24  # pixels of a resized image that is made whole before it is cropped: one of a line may have more
REACH = 4  # pixels of an image, more than a value between them depends on to a side
METHODS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def prepared(image: NDArray[np.uint8], contract: InputContract) -> NDArray[np.uint8]:
    """One image (H, W, C) as the contract's network sees it, without its normalisation: (h, w, c)."""
    if image.shape[2] == 3 and contract.channels_of(3) == 1:
        image = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    geometry = contract.geometry
    if geometry is None:
        return image
    size = geometry.resized(*image.shape[:2])
    part = (0, size[0]), (0, size[1])
    if geometry.crop is not None and size[0] * size[1] > MOST_AT_ONCE:
        part = _kept(size[0], geometry.sides(*size)[0]), _kept(size[1], geometry.sides(*size)[1])
    return _cropped(_resized(image, geometry, size, part), geometry)


def _kept(there: int, wanted: int) -> tuple[int, int]:
    """Start and length of what a crop at the centre keeps of a side: torchvision rounds half to even."""
    return (round((there - wanted) / 2), wanted) if wanted < there else (0, there)


def _resized(
    image: NDArray[np.uint8], geometry: Geometry, size: tuple[int, int], part: tuple[tuple[int, int], tuple[int, int]]
) -> NDArray[np.uint8]:
    """Of the image in its new size, height and width, the part: start and length of both sides."""
    if image.shape[:2] == size and part == ((0, size[0]), (0, size[1])):
        return image
    if not geometry.antialias and geometry.interpolation != "nearest":
        return _without_antialias(image, geometry.interpolation, size, part)
    (top, height), (left, width) = part
    down, across = image.shape[0] / size[0], image.shape[1] / size[1]
    box = left * across, top * down, (left + width) * across, (top + height) * down
    method = METHODS[geometry.interpolation]
    if image.shape[2] in (1, 3):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        return np.asarray(picture.resize((width, height), method, box)).reshape(height, width, -1)
    planes = [
        np.asarray(Image.fromarray(plane).resize((width, height), method, box)) for plane in np.moveaxis(image, 2, 0)
    ]
    return np.stack(planes, axis=2)


def _without_antialias(
    image: NDArray[np.uint8], mode: str, size: tuple[int, int], part: tuple[tuple[int, int], tuple[int, int]]
) -> NDArray[np.uint8]:
    import torch  # children that decode load it for this alone
    from torch.nn import functional

    rows = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    if part == ((0, size[0]), (0, size[1])):
        made = functional.interpolate(rows.float(), size, mode=mode, align_corners=False)
    else:  # the same, at the places of the part alone
        places = []
        for axis, (start, length) in zip((2, 3), part, strict=True):
            at = (torch.arange(start, start + length).double() + 0.5) * rows.shape[axis] / size[axis - 2]
            first = max(0, int(at[0]) - REACH)
            rows = rows.narrow(axis, first, min(rows.shape[axis], int(at[-1]) + REACH) - first)
            places.append(2 * (at - first) / rows.shape[axis] - 1)
        grid = torch.stack(torch.meshgrid(places[1], places[0], indexing="xy"), dim=-1)[None]
        made = functional.grid_sample(rows.double(), grid, mode, "border", align_corners=False)
    return made[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()


def _cropped(image: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """Torchvision's centre crop; black is added where a side is too short."""
    if geometry.crop is None:
        return image
    height, width = geometry.sides(*image.shape[:2])
    missing = [max(0, wanted - there) for wanted, there in zip((height, width), image.shape[:2], strict=True)]
    if any(missing):
        image = np.pad(image, [(size // 2, (size + 1) // 2) for size in missing] + [(0, 0)])
    (top, height), (left, width) = _kept(image.shape[0], height), _kept(image.shape[1], width)
    return image[top : top + height, left : left + width]


def write_copy(source: Path, target: Path, contract: InputContract, threads: int = 1) -> None:
    """Write what `contract` makes of the images (N, H, W, C) of the .npy file `source` to `target`, as .npy.

    Part by part: neither array need fit into memory.
    """
    images = np.load(source, mmap_mode="r", allow_pickle=False)
    n = len(images)
    shape = (n, *contract.pixels_of(images.shape[1:]))
    with target.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        with ThreadPoolExecutor(max(1, threads)) as pool:  # Pillow lets other threads run while it resizes
            for start in range(0, n, ROWS_AT_ONCE):
                rows = np.array(images[start : start + ROWS_AT_ONCE])
                made = np.stack(list(pool.map(partial(prepared, contract=contract), rows)))
                file.write(np.ascontiguousarray(made).tobytes())
