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
    if contract.geometry is None:
        return image
    height, width = contract.geometry.resized(*image.shape[:2])
    return _cropped(_resized(image, contract.geometry, height, width), contract.geometry)


def _resized(image: NDArray[np.uint8], geometry: Geometry, height: int, width: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    if not geometry.antialias and geometry.interpolation != "nearest":
        import torch  # children that decode load it for this alone
        from torch.nn import functional

        rows = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
        made = functional.interpolate(rows, (height, width), mode=geometry.interpolation, align_corners=False)
        return made[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
    method = METHODS[geometry.interpolation]
    if image.shape[2] in (1, 3):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        return np.asarray(picture.resize((width, height), method)).reshape(height, width, -1)
    planes = [np.asarray(Image.fromarray(plane).resize((width, height), method)) for plane in np.moveaxis(image, 2, 0)]
    return np.stack(planes, axis=2)


def _cropped(image: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """Torchvision's centre crop: its offset is rounded half to even, and black is added where a side is too short."""
    if geometry.crop is None:
        return image
    height, width = geometry.sides(*image.shape[:2])
    missing = [max(0, wanted - there) for wanted, there in zip((height, width), image.shape[:2], strict=True)]
    if any(missing):
        image = np.pad(image, [(size // 2, (size + 1) // 2) for size in missing] + [(0, 0)])
    top, left = (round((there - want) / 2) for there, want in zip(image.shape[:2], (height, width), strict=True))
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
