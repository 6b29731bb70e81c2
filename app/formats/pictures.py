"""One encoded picture to its pixels, and the file that keeps the pictures of a dataset as they came.

Only a child process decodes (`app.formats.sandbox`). JPEG without anything to turn or to convert is read by
libjpeg-turbo's own bindings, everything else by Pillow, whose pixels are the same.
"""

from __future__ import annotations

import io
import mmap
import os
import re
import struct
import warnings
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.formats import depth

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
MAX_PIXELS = 2**27  # of one picture: that of a telephone of 108 million has room
MAX_SIDE = 65_535
BACKGROUND = 255  # white, which transparent pictures are laid on
ORIENTATION = 0x0112  # EXIF
FEWER_BITS = {"L;2": 3, "L;4": 15}
"""Grey of 2 and 4 bits in a PNG, by Pillow's names, and the value that is white."""
PHOTOMETRIC = 262  # TIFF: whether 0 is white
ROWS_OF_A_BLOCK = 2**22  # pixels that are blended at a time
APP1, APP2, START_OF_SCAN = 0xE1, 0xE2, 0xDA
"""Segments of a JPEG: EXIF or XMP, which may tell an orientation; an index of several pictures; the pixels."""
SAYS_MORE = (b"eXIf", b"tRNS", b"acTL", b"iTXt", b"zTXt", b"tEXt")
"""Chunks of a PNG: an orientation, transparency, several frames, and texts, where some keep EXIF or XMP."""
_OWN = re.compile(rb"P([56])\n(\d{1,5}) (\d{1,5})\n255\n")


@dataclass(frozen=True)
class Decoded:
    """pixels: uint8, (H, W) or (H, W, 3). mode: Pillow's name of what the file holds. did: codes of `NOTES`. former:
    what a version before made of the same file, where that was something else."""

    pixels: NDArray[np.uint8]
    mode: str
    did: tuple[str, ...] = ()
    former: NDArray[np.uint8] | None = None


def decode(encoded: bytes | None) -> Decoded:
    """A picture as it is meant to be seen, in 8 bits, grey or RGB.

    Raises:
        ValueError: it cannot be decoded, is too large, or has values of no known range; the text is for the client.
    """
    if not encoded:
        raise ValueError("there is no image")
    return _own(encoded) or _plain_jpeg(encoded) or _plain_png(encoded) or _by_pillow(encoded)


def _own(encoded: bytes) -> Decoded | None:
    """Pixels that `encode` wrote."""
    if (match := _OWN.match(encoded)) is None:
        return None
    width, height, channels = int(match[2]), int(match[3]), 3 if match[1] == b"6" else 1
    if len(encoded) - match.end() != width * height * channels or not width * height:
        return None
    pixels = np.frombuffer(encoded, np.uint8, offset=match.end())
    if channels == 1:
        return Decoded(pixels.reshape(height, width), "L")
    return Decoded(pixels.reshape(height, width, 3), "RGB")


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels (H, W, 1) or (H, W, 3) that came as an array, as a picture that loses nothing (PGM, PPM)."""
    height, width, channels = pixels.shape
    return b"P%d\n%d %d\n255\n" % (6 if channels == 3 else 5, width, height) + pixels.tobytes()


def _plain_jpeg(encoded: bytes) -> Decoded | None:
    """A grey or colour JPEG of one frame that says nothing of its orientation."""
    import simplejpeg

    if not encoded.startswith(b"\xff\xd8\xff") or _jpeg_says_more(encoded):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(encoded)
        if space not in ("Gray", "YCbCr") or not _bearable(width, height):
            return None
        grey = space == "Gray"
        pixels = simplejpeg.decode_jpeg(encoded, "GRAY" if grey else "RGB", fastdct=False, fastupsample=False)
    except ValueError:  # whatever is odd about it, Pillow says whether it can be taken
        return None
    return Decoded(pixels[..., 0] if grey else pixels, "L" if grey else "RGB")


def _jpeg_says_more(encoded: bytes) -> bool:
    """Whether a segment before the pixels tells of more than pixels, or is not as it should be."""
    if b"\xff\xe1" not in encoded and b"MPF" not in encoded:  # nowhere, so that there is no need to look where
        return False
    at = 2
    while at + 4 <= len(encoded) and encoded[at] == 0xFF:
        kind = encoded[at + 1]
        if kind == START_OF_SCAN:
            return False
        if kind == APP1 or (kind == APP2 and encoded.startswith(b"MPF", at + 4)):
            return True
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4])
    return True


def _png_says_more(encoded: bytes) -> bool:
    """The same of the chunks of a PNG."""
    at = 8
    while at + 8 <= len(encoded):
        kind = encoded[at + 4 : at + 8]
        if kind == b"IEND":
            return False
        if kind in SAYS_MORE:
            return True
        at += 12 + int.from_bytes(encoded[at : at + 4])
    return True


def _plain_png(encoded: bytes) -> Decoded | None:
    """A grey or colour PNG of 8 bits with nothing to turn, to lay on white or to choose from."""
    from PIL import Image

    header = encoded[:29]
    if not header.startswith(b"\x89PNG\r\n\x1a\n") or header[24:26] not in (b"\x08\x00", b"\x08\x02"):
        return None
    if not _bearable(*struct.unpack(">II", header[16:24])) or _png_says_more(encoded):
        return None
    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG",)) as image:
            return Decoded(np.asarray(image), image.mode) if image.mode in ("L", "RGB") else None
    except Exception:  # whatever is odd about it, the long way says whether it can be taken
        return None


def _bearable(width: int, height: int) -> bool:
    return 0 < width * height <= MAX_PIXELS and max(width, height) <= MAX_SIDE


def _by_pillow(encoded: bytes) -> Decoded:
    from PIL import Image

    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(encoded), formats=FORMATS) as image,
        ):
            if not _bearable(*image.size):
                raise _RefusedError(
                    f"the image has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are taken, and "
                    f"sides of {MAX_SIDE:,}"
                )
            return _converted(image)
    except _RefusedError:
        raise
    except Image.DecompressionBombError:
        raise ValueError(f"the image has too many pixels; at most {MAX_PIXELS:,} are taken") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise SyntaxError, struct.error, IndexError and more on bad bytes
        raise ValueError("the image cannot be decoded") from error


def _converted(image: Any) -> Decoded:
    mode, did = image.mode, []
    stored = " ".join(str(part) for tile in image.tile for part in tile)
    deep, twelve = ";16" in stored, ";12" in stored
    # Pillow inverts such of 8 bits or fewer alone.
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0 and mode.startswith(("I", "F"))
    if getattr(image, "n_frames", 1) > 1:
        did.append("first-frame")
        image.seek(0)
    turned = image.getexif().get(ORIENTATION, 1)
    image.load()
    left = image.getexif().get(ORIENTATION, 1)  # Pillow turns some formats by itself
    clear = image.info.get("transparency")
    if deep and isinstance(clear, tuple):  # Pillow compares its low bytes with the pixels' high ones
        raise _RefusedError("the image has 16 bits a channel and a transparent colour; save it with alpha, or 8 bits")
    for stored_as, levels in FEWER_BITS.items():
        if stored_as in stored and isinstance(clear, int):  # Pillow scales the pixels alone
            image.info["transparency"] = clear * 255 // levels
    if deep:
        did.append("16-bit")
    if twelve:
        did.append("12-bit")
    former = None
    if mode in ("L", "RGB") and "transparency" not in image.info:
        pixels = np.asarray(image)
    elif mode.startswith("I"):
        pixels = _from_integers(image, did, 12 if twelve else 16)
        former = depth.of_integers(np.asarray(image)[None])[0] if twelve else pixels
    elif mode == "F":
        pixels = former = _from_floats(np.asarray(image))
        did.append("floats")
    elif "transparency" in image.info or mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        pixels = _laid_on_white(image, did, "LA;" in stored)
    elif mode in ("1", "P", "CMYK", "RGBX", "YCbCr"):
        did += {"1": ["1-bit"], "P": ["palette"], "CMYK": ["cmyk"]}.get(mode, [])
        pixels = np.asarray(image.convert("L" if mode == "1" else "RGB"))
    else:
        raise _RefusedError(f"the image is of the mode {mode}, which is not taken; save it as RGB")
    if white_is_zero:
        pixels = 255 - pixels
    if deep and _has_few_levels(np.asarray(image)):
        did.append("few-levels")
    if turned in range(2, 9):
        did.append("turned")
    seen = np.ascontiguousarray(_turned(pixels, left))
    if not (white_is_zero or twelve) or former is None:
        return Decoded(seen, mode, tuple(did))
    return Decoded(seen, mode, tuple(did), np.ascontiguousarray(_turned(former, left)))


def _has_few_levels(values: NDArray[Any]) -> bool:
    """Of a picture of 16 bits; in colour Pillow gives their high bytes, and transparency last."""
    if values.ndim == 2:
        return depth.of_few_levels(values[None]) > 0
    return depth.of_few_levels(values[None, ..., :3], depth.FEW >> 8) > 0


def _from_integers(image: Any, did: list[str], bits: int) -> NDArray[np.uint8]:
    values = np.asarray(image)
    if values.dtype.itemsize > 2 and (image.format not in ("PNG", "PPM") or values.min() < 0 or values.max() > 65535):
        raise _RefusedError("the image holds integers of 32 bits, whose range is not known; save it with 8 or 16 bits")
    if values.dtype.kind == "i" and values.dtype.itemsize == 2:
        raise _RefusedError("the image holds integers with a sign, whose range is not known; save it with 8 or 16 bits")
    if not {"16-bit", "12-bit"} & {*did}:
        did.append("16-bit")
    grey: NDArray[np.uint8] = depth.of_integers(values.astype(np.uint16)[None], bits)[0]
    clear = image.info.get("transparency")
    if isinstance(clear, int) and (values == clear).any():
        did.append("transparent")
        grey[values == clear] = BACKGROUND
    return grey


def _from_floats(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    try:
        pixels: NDArray[np.uint8] = depth.of_floats(values[None])[0]
    except ValueError as error:
        raise _RefusedError(f"the image holds {error}; save it with 8 or 16 bits") from None
    return pixels


def _laid_on_white(image: Any, did: list[str], is_grey: bool) -> NDArray[np.uint8]:
    """is_grey: it is grey with transparency, though Pillow, which has no such mode of 16 bits, gives it as RGBA."""
    grey = is_grey or image.mode in ("L", "LA", "La", "1")
    if image.mode in ("P", "PA"):
        did.append("palette")
    layers = np.asarray(image.convert("LA" if image.mode == "LA" else "RGBA"))
    colours, cover = layers[..., :-1], layers[..., -1:]
    if grey:
        colours = colours[..., :1]
    if cover.min() < 255:
        did.append("transparent")
        step = max(1, ROWS_OF_A_BLOCK // max(1, layers.shape[1]))
        blended = np.empty_like(colours)
        for row in range(0, len(layers), step):
            part = colours[row : row + step].astype(np.uint32)
            over = cover[row : row + step].astype(np.uint32)
            blended[row : row + step] = (part * over + BACKGROUND * (255 - over) + 127) // 255
        colours = blended
    return colours[..., 0] if grey else colours


def _turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """As the eight orientations of EXIF say (1: as it is)."""
    across = pixels.swapaxes(0, 1)
    seen = {
        2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: across, 6: across[:, ::-1],
        7: across[::-1, ::-1], 8: across[::-1],
    }  # fmt: skip
    return seen.get(orientation, pixels)


class _RefusedError(ValueError):
    """The text is for the client."""


# -- the file of many ------------------------------------------------------------------------------

MAGIC = b"LETHEPIC"
REFERENCES = b"LETHEREF"
"""Of a file whose entries say where pictures lie (`app.formats.references`) instead of being them."""
TRAILER = struct.Struct("<Q8s")


class PictureWriter:
    """Writes encoded pictures one behind the other; where each lies stands at the end."""

    def __init__(self, path: Path, magic: bytes = MAGIC) -> None:
        self._file, self._magic = path.open("wb"), magic
        self._file.write(magic)
        self._ends = array("Q", [len(magic)])

    def put(self, encoded: bytes | memoryview) -> None:
        self._file.write(encoded)
        self._ends.append(self._ends[-1] + len(encoded))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __enter__(self) -> PictureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _at: object) -> None:
        if kind is None:
            self._file.write(np.frombuffer(self._ends, np.uint64).astype("<u8").tobytes())
            self._file.write(TRAILER.pack(len(self), self._magic))
        self._file.close()


class PictureFile:
    """Reads such a file: a picture is mapped, never copied but by whom it is given to."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        size = len(self._map)
        if size < TRAILER.size:
            raise ValueError("this is no file of pictures")
        count, self.magic = TRAILER.unpack_from(self._map, size - TRAILER.size)
        index = size - TRAILER.size - 8 * (count + 1)
        if self.magic not in (MAGIC, REFERENCES) or index < len(MAGIC):
            raise ValueError("this is no file of pictures")
        self.ends = np.frombuffer(self._map, "<u8", count + 1, index)
        if self.ends[0] != len(MAGIC) or self.ends[-1] != index or (np.diff(self.ends.astype(np.int64)) < 0).any():
            raise ValueError("this is no file of pictures")

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, row: int) -> bytes:
        start, stop = self.ends[row : row + 2].tolist()  # one step of numpy's instead of four
        return self._map[start:stop]


def is_pictures(path: Path) -> bool:
    return beginning(path) == MAGIC


def beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(MAGIC))


def write_without(source: Path, target: Path, positions: Sequence[int] | NDArray[np.int64]) -> None:
    """The file without the bytes of the pictures at `positions`, whose places stay and are empty."""
    there = PictureFile(source)
    gone = np.zeros(len(there), dtype=bool)
    gone[np.asarray(positions, dtype=np.int64)] = True
    sizes = np.where(gone, 0, np.diff(there.ends.astype(np.int64)))
    ends = np.concatenate([[len(MAGIC)], len(MAGIC) + np.cumsum(sizes)]).astype("<u8")
    with source.open("rb") as old, target.open("wb") as new:
        new.write(there.magic)
        new.flush()
        for start, stop in _kept_spans(gone):
            _copy(old.fileno(), new.fileno(), int(there.ends[start]), int(there.ends[stop]))
        os.lseek(new.fileno(), 0, os.SEEK_END)
        new.write(ends.tobytes())
        new.write(TRAILER.pack(len(there), there.magic))


def _kept_spans(gone: NDArray[np.bool_]) -> Iterable[tuple[int, int]]:
    """(first, behind the last) of each run of pictures that stay."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], gone, [True]]).astype(np.int8)))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _copy(old: int, new: int, start: int, stop: int) -> None:
    while start < stop:
        start += os.sendfile(new, old, start, min(stop - start, 2**30))
