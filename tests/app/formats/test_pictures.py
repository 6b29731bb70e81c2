"""Pictures of every mode to the pixels that are kept, or a refusal with a reason; and the file that keeps many."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from app.formats.input_contract import InputContract
from app.formats.pictures import MAX_PIXELS, PictureFile, PictureWriter, decode, encode, write_without
from engine.data import decoding, geometry

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREYS = RANDOM.integers(0, 256, (6, 5), dtype=np.uint8)
STEP = np.repeat(np.array([[16385, 49151]], np.uint16), 3, axis=0)
"""16 bits: a quarter, and three quarters of white."""


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(values: Any, bits: int, photometric: int = 1, kind: int = 1, order: str = "<") -> bytes:
    """A grey TIFF by hand: Pillow writes none of 12 bits, and none whose 0 is white. kind: 1 integers, 3 floats."""
    rows = np.asarray(values)
    height, width = rows.shape
    if bits == 12:
        pairs = rows.reshape(-1, 2).astype(np.uint32)
        packed = pairs[:, 0] << 12 | pairs[:, 1]
        data = b"".join(int(each).to_bytes(3, "big") for each in packed)
    else:
        data = rows.astype(f"{order}{'f' if kind == 3 else 'u'}{bits // 8}").tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    tags |= {339: kind}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    begins = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return begins + struct.pack(f"{order}I", 8 + len(data)) + data + directory


def png16(values: Any, kind: int, transparent: Sequence[int] = ()) -> bytes:
    """A PNG of 16 bits by hand: Pillow writes none in colour or with alpha. kind: its colour type."""
    rows = np.asarray(values).astype(">u2")
    return png_of([row.tobytes() for row in rows], rows.shape[1], 16, kind, transparent)


def png_of(rows: Sequence[bytes], width: int, bits: int, kind: int, transparent: Sequence[int] = ()) -> bytes:
    """The same of rows of bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    data = b"".join(b"\0" + row for row in rows)
    clear = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    made = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)) + clear
    return b"\x89PNG\r\n\x1a\n" + made + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def picture(pixels: Any, mode: str | None = None) -> Image.Image:
    made = Image.fromarray(np.asarray(pixels))
    assert mode in (None, made.mode)
    return made


PALETTE = picture(COLOURS).quantize(4)
CLEAR = np.dstack([COLOURS, np.full((6, 5), 255, np.uint8)])
CLEAR[0, 0, 3], CLEAR[0, 1, 3] = 0, 51
SEEN = COLOURS.copy()
SEEN[0, 0] = 255
SEEN[0, 1] = np.rint(COLOURS[0, 1] * 0.2 + 255 * 0.8)
FOUR = np.array([[0, 4095], [2048, 1]])
INKS = RANDOM.integers(0, 256, (16, 16, 4), dtype=np.uint8)
INKED = saved(Image.fromarray(INKS, "CMYK"), "JPEG", quality=100, subsampling=0)
SEEN_INKS = np.asarray(Image.open(io.BytesIO(INKED))).astype(np.int64)
CLEAR_PALETTE = picture(np.uint8([[0, 1, 2]]), "L").convert("P")
CLEAR_PALETTE.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
HALF = np.dstack([GREYS, np.full((6, 5), 0, np.uint8)])

# As it came, its mode, what is kept, what is told.
MODES: dict[str, tuple[bytes, str, Any, tuple[str, ...]]] = {
    "grey": (saved(picture(GREYS)), "L", GREYS, ()),
    "colour": (saved(picture(COLOURS)), "RGB", COLOURS, ()),
    "1-bit": (saved(picture(GREYS > 99)), "1", np.where(GREYS > 99, 255, 0), ("1-bit",)),
    "palette": (saved(PALETTE), "P", np.asarray(PALETTE.convert("RGB")), ("palette",)),
    "16-bit grey": (saved(picture(STEP, "I;16")), "I;16", [[64, 191]] * 3, ("16-bit",)),
    "16-bit TIFF": (saved(picture(STEP), "TIFF"), "I;16", [[64, 191]] * 3, ("16-bit",)),
    "float TIFF": (saved(picture(np.float32([[0, 0.5, 1]])), "TIFF"), "F", [[0, 128, 255]], ("floats",)),
    "transparent": (saved(picture(CLEAR)), "RGBA", SEEN, ("transparent",)),
    "opaque with alpha": (saved(picture(np.dstack([COLOURS, np.full((6, 5), 255, np.uint8)]))), "RGBA", COLOURS, ()),
    "grey and clear": (saved(picture(HALF)), "LA", np.full((6, 5), 255), ("transparent",)),
    "one clear grey": (saved(picture(np.uint8([[7, 9]])), transparency=9), "L", [[7, 255]], ("transparent",)),
    "one clear colour": (
        saved(picture(np.uint8([[[1, 2, 3], [4, 5, 6]]])), transparency=(4, 5, 6)),
        "RGB",
        [[[1, 2, 3], [255, 255, 255]]],
        ("transparent",),
    ),
    "one clear of 16 bits": (
        saved(picture(STEP), transparency=49151), "I;16", [[64, 255]] * 3, ("16-bit", "transparent"),
    ),
    "CMYK": (
        saved(Image.merge("CMYK", [Image.new("L", (2, 2), value) for value in (255, 0, 0, 0)]), "TIFF"),
        "CMYK", [[[0, 255, 255]] * 2] * 2, ("cmyk",),
    ),
    "GIF": (saved(PALETTE, "GIF"), "P", np.asarray(PALETTE.convert("RGB")), ("palette",)),
    "BMP": (saved(picture(COLOURS), "BMP"), "RGB", COLOURS, ()),
    "WebP": (saved(picture(COLOURS), "WEBP", lossless=True), "RGB", COLOURS, ()),
    "PPM": (saved(picture(COLOURS), "PPM"), "RGB", COLOURS, ()),
    "PGM of 16 bits": (b"P5 2 1 65535\n" + STEP[:1].astype(">u2").tobytes(), "I", [[64, 191]], ("16-bit",)),
    "12-bit TIFF": (tiff(FOUR, 12), "I;16", [[0, 255], [128, 0]], ("12-bit",)),
    "12-bit TIFF of 8 bits": (tiff([[16, 4080]], 12), "I;16", [[1, 255]], ("12-bit",)),
    "16-bit TIFF whose 0 is white": (tiff(STEP, 16, 0), "I;16", [[191, 64]] * 3, ("16-bit",)),
    "8-bit TIFF whose 0 is white": (tiff(GREYS, 8, 0), "L", 255 - GREYS, ()),
    "float TIFF whose 0 is white": (tiff([[0, 0.5, 1]], 32, 0, 3), "F", [[255, 127, 0]], ("floats",)),
    "16-bit TIFF, big-endian": (tiff(STEP, 16, order=">"), "I;16B", [[64, 191]] * 3, ("16-bit",)),
    "16-bit grey and clear": (
        png16([[[0x4000, 0xFFFF], [0xC000, 0]]], 4), "RGBA", [[64, 255]], ("16-bit", "transparent"),
    ),
    "16-bit colour and clear": (
        png16([[[0x4000, 0x8000, 0xC000, 0xFFFF], [1, 2, 3, 0x8000]]], 6),
        "RGBA", [[[64, 128, 192], [127, 127, 127]]], ("16-bit", "transparent"),
    ),
    "12 bits in 16-bit grey": (saved(picture(np.uint16([[0, 4095]]))), "I;16", [[0, 16]], ("16-bit", "few-levels")),
    "12 bits in 16-bit colour": (png16([[[0, 1, 4095]]], 2), "RGB", [[[0, 0, 15]]], ("16-bit", "few-levels")),
    "2 bits and one clear": (png_of([b"\x1b"], 4, 2, 0, [2]), "L", [[0, 85, 255, 255]], ("transparent",)),
    "4 bits and one clear": (png_of([b"\x01\x2f"], 4, 4, 0, [1]), "L", [[0, 255, 34, 255]], ("transparent",)),
    "black of 16 bits": (saved(picture(np.zeros((2, 2), np.uint16))), "I;16", np.zeros((2, 2)), ("16-bit",)),
    "CMYK JPEG": (
        INKED, "CMYK",
        np.rint((255 - SEEN_INKS[..., :3]) * (255 - SEEN_INKS[..., 3:]) / 255), ("cmyk",),
    ),
    "a palette with transparency": (
        saved(CLEAR_PALETTE, transparency=b"\xff\x00\x80"), "P",
        [[[255, 0, 0], [255, 255, 255], [127, 127, 255]]], ("palette", "transparent"),
    ),
    "a palette with alpha": (
        saved(CLEAR_PALETTE.convert("PA"), "TIFF"), "PA", [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], ("palette",),
    ),
    "an array": (encode(COLOURS), "RGB", COLOURS, ()),
    "a grey array": (encode(GREYS[..., None]), "L", GREYS, ()),
}  # fmt: skip


@pytest.mark.parametrize("name", MODES)
def test_each_mode_becomes_the_pixels_that_are_seen(name: str) -> None:
    encoded, mode, kept, told = MODES[name]
    found = decode(encoded)
    assert (found.mode, found.did) == (mode, told)
    assert found.pixels.dtype == np.uint8
    assert np.array_equal(found.pixels, kept)


def test_deep_colours_keep_their_high_bytes() -> None:
    found = decode(png16([[[16384, 49152, 65535], [0, 255, 256]]], 2))
    assert found.pixels.tolist() == [[[64, 192, 255], [0, 0, 1]]]
    assert found.did == ("16-bit",)


@pytest.mark.parametrize(
    ("encoded", "former"),
    [
        (tiff(FOUR, 12), [[0, 16], [8, 0]]),
        (tiff(STEP, 16, 0), [[64, 191]] * 3),
        (tiff([[0.2, 1]], 32, 0, 3), [[51, 255]]),
    ],
)
def test_what_a_version_before_made_of_a_file_is_known(encoded: bytes, former: Any) -> None:
    found = decode(encoded).former
    assert found is not None
    assert found.tolist() == np.asarray(former).tolist()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_orientation_says(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    encoded = saved(picture(COLOURS), kind, exif=exif, **options)
    found = decode(encoded)
    with Image.open(io.BytesIO(encoded)) as image:
        assert np.array_equal(found.pixels, np.asarray(ImageOps.exif_transpose(image)))
    assert found.did == (("turned",) if orientation > 1 else ())


@pytest.mark.parametrize(
    "options", [{}, {"quality": 30}, {"subsampling": 0}, {"subsampling": 2}, {"progressive": True}]
)
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (33, 17)])
def test_the_fast_way_of_a_jpeg_gives_pillows_pixels(options: dict[str, Any], size: tuple[int, int]) -> None:
    for pixels in (RANDOM.integers(0, 256, (*size, 3), np.uint8), RANDOM.integers(0, 256, size, np.uint8)):
        encoded = saved(picture(pixels), "JPEG", **options)
        with Image.open(io.BytesIO(encoded)) as image:
            assert np.array_equal(decode(encoded).pixels, np.asarray(image))


def test_of_several_frames_the_first_is_kept_and_told() -> None:
    frames = [picture(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    found = decode(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert found.pixels.reshape(-1, 3)[0].tolist() == [10, 10, 10] or found.pixels.flat[0] == 10
    assert "first-frame" in found.did


def test_a_picture_of_one_pixel_and_one_of_a_line_are_taken() -> None:
    assert decode(saved(Image.new("RGB", (1, 1), (1, 2, 3)))).pixels.tolist() == [[[1, 2, 3]]]
    assert decode(saved(Image.new("L", (20_000, 1), 7))).pixels.shape == (1, 20_000)


def large(kind: str) -> bytes:
    """A header of more pixels than are taken: what follows is never read."""
    side = 12_000 if kind != "WEBP" else 16_000
    if kind == "PPM":
        return b"P6 12000 12000 255\n" + bytes(100)
    return saved(Image.new("1" if kind in ("PNG", "TIFF", "BMP") else "L", (side, side)), kind)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF"])
def test_a_bomb_of_each_form_is_refused_by_its_header(kind: str) -> None:
    assert MAX_PIXELS < 12_000**2
    with pytest.raises(ValueError, match=r"pixels; at most 134,217,728 are taken"):
        decode(large(kind))


REFUSED = {
    "nothing": (b"", "there is no image"),
    "text": (b"no image", "cannot be decoded"),
    "half of it": (saved(picture(COLOURS))[:-30], "cannot be decoded"),
    "half a JPEG": (saved(picture(COLOURS), "JPEG")[:-200], "cannot be decoded"),
    "floats beyond one": (saved(picture(np.float32([[0, 3]])), "TIFF"), "floats outside"),
    "floats that are none": (saved(picture(np.float32([[0, np.nan]])), "TIFF"), "floats outside"),
    "integers of 32 bits": (saved(picture(np.int32([[0, 9]])), "TIFF"), "32 bits"),
    "16-bit colour and one clear": (
        png16([[[0x4000, 0x8000, 0xC000], [1, 2, 3]]], 2, [1, 2, 3]),
        "a transparent colour",
    ),
    "LAB": (saved(Image.new("LAB", (2, 2)), "TIFF"), "of the mode LAB"),
    "a vector": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "cannot be decoded"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_rightly_is_refused(name: str) -> None:
    encoded, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        decode(encoded)


# -- the file of many ------------------------------------------------------------------------------


def written(path: Path, each: list[bytes]) -> Path:
    with PictureWriter(path) as writer:
        for encoded in each:
            writer.put(encoded)
    return path


def test_pictures_come_back_as_they_came(tmp_path: Path) -> None:
    each = [saved(picture(COLOURS)), b"", saved(picture(GREYS), "JPEG")]
    there = PictureFile(written(tmp_path / "a", each))
    assert [there[row] for row in range(len(there))] == each


@pytest.mark.parametrize("gone", [[], [0], [4], [1, 2], [0, 1, 2, 3, 4], [0, 2, 4]])
def test_what_is_erased_is_not_in_the_file_and_the_others_keep_their_places(tmp_path: Path, gone: list[int]) -> None:
    each = [f"picture {row}".encode() * (row + 1) for row in range(5)]
    write_without(written(tmp_path / "a", each), tmp_path / "b", gone)
    there = PictureFile(tmp_path / "b")
    assert [there[row] for row in range(5)] == [b"" if row in gone else each[row] for row in range(5)]
    assert not any(each[row] in (tmp_path / "b").read_bytes() for row in gone)
    write_without(written(tmp_path / "c", [there[row] for row in range(5)]), tmp_path / "d", [])
    assert (tmp_path / "b").read_bytes() == (tmp_path / "d").read_bytes()


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a", [b"abc", b"defg"])
    data = path.read_bytes()
    for spoiled in (data[:-1], data[:8], data[:-24] + b"\xff" * 24, data[:16] + data[24:]):
        path.write_bytes(spoiled)
        with pytest.raises((ValueError, OSError)):
            PictureFile(path)


def test_a_copy_has_black_where_a_picture_was_erased_and_colours_where_others_have_them(tmp_path: Path) -> None:
    written(tmp_path / "a", [saved(picture(COLOURS)), b"", saved(picture(GREYS))])
    np.save(tmp_path / "b.npy", np.zeros((3, 6, 5, 3), np.uint8))
    decoding.copy_rows(str(tmp_path / "a"), str(tmp_path / "b.npy"), 0, 3, InputContract().model_dump_json(), 3)
    made = np.load(tmp_path / "b.npy")
    assert np.array_equal(made[0], COLOURS)
    assert not made[1].any()
    assert np.array_equal(made[2], np.repeat(GREYS[..., None], 3, axis=2))
    assert np.array_equal(geometry.prepared(COLOURS, InputContract()), COLOURS)


def test_pictures_of_which_no_copy_can_be_made_are_named_by_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "a", [saved(picture(COLOURS)), b"no picture", saved(picture(GREYS))])
    np.save(tmp_path / "b.npy", np.zeros((3, 6, 5, 3), np.uint8))
    prepared = geometry.prepared

    def is_full(image: Any, contract: Any) -> Any:
        if np.ptp(image, axis=2).any():
            return prepared(image, contract)
        raise MemoryError

    monkeypatch.setattr(geometry, "prepared", is_full)
    found = decoding.copy_rows(str(tmp_path / "a"), str(tmp_path / "b.npy"), 0, 3, InputContract().model_dump_json(), 3)
    assert found == [(1, "the image cannot be decoded"), (2, decoding.TOO_LARGE)]
    assert np.array_equal(np.load(tmp_path / "b.npy")[0], COLOURS)
