"""Files that broke an earlier version, each made anew here; and the files themselves where they lie beside the
checkout. Each goes through the child that takes content in."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from app.catalog import UploadSource
from app.formats.manifest import SourceError
from app.formats.pictures import PictureFile, decode
from engine.data.upload import Taken, take_in
from tests.app.formats.archive_cases import zipped

BESIDE = Path(__file__).parents[4] / "shared" / "cases"
N = 40
RANDOM = np.random.default_rng(0)


def png(pixels: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def plain(row: int, height: int = 16, width: int = 16) -> bytes:
    return png(np.random.default_rng(row).integers(0, 256, (height, width, 3), dtype=np.uint8))


def table(images: list[bytes] | None = None, labels: Any = None, names: list[str] | None = None, **more: Any) -> bytes:
    columns = {
        "id": [f"s{row}" for row in range(N)],
        "image": images or [plain(row) for row in range(N)],
        "label": labels or [row % 2 for row in range(N)],
    }
    made = pa.table(columns | more)
    if names:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(info)})
    buffer = io.BytesIO()
    pq.write_table(made, buffer)
    return buffer.getvalue()


def turned() -> bytes:
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8] = 255  # white above, which is the right once it is turned
    exif = Image.Exif()
    exif[0x0112] = 6
    return png(pixels, exif=exif)


def deep() -> bytes:
    return png(np.repeat(np.repeat(np.array([[16384, 49152]], np.uint16), 16, 0), 8, 1))


def clear() -> bytes:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[..., 0] = 255  # red, and half of it clear
    pixels[:8, :, 3] = 255
    return png(pixels)


MADE = {
    "png16.parquet": lambda: table([deep()] * N),
    "exif.parquet": lambda: table([turned()] * N),
    "rgba.parquet": lambda: table([clear()] * N),
    "gaps.parquet": lambda: table(labels=[(0, 7, 42, 1000)[row % 4] for row in range(N)]),
    "strlabels.parquet": lambda: table(labels=[("cat", "dog")[row % 2] for row in range(N)]),
    "hfclass.parquet": lambda: table(names=["cat", "dog"]),
    "valsplit.parquet": lambda: table(split=[("train", "validation")[row % 2] for row in range(N)]),
    "mixed.parquet": lambda: table([plain(row, 64 + row % 3, 64) for row in range(N)]),
    "wrapped-root.zip": lambda: zipped(
        {f"pets/{('train', 'test')[row % 5 == 0]}/{('cat', 'dog')[row % 2]}/{row}.png": plain(row) for row in range(N)}
    ),
}


@pytest.fixture(params=["made", "beside"])
def taken(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def take(name: str) -> Taken:
        path = BESIDE / name
        if request.param == "made":
            path = tmp_path / name
            path.write_bytes(MADE[name]())
        elif not path.exists():
            pytest.skip("the files are not beside this checkout")
        (tmp_path / "folder").mkdir()
        return take_in(tmp_path / "folder", [{"path": str(path)}], UploadSource(holdout_fraction=0), [b"k" * 32])

    return take


def first(taken: Taken) -> Any:
    return decode(PictureFile(taken.images)[0]).pixels


def test_16_bits_are_scaled(taken: Any) -> None:
    found = taken("png16.parquet")
    pixels = first(found)
    assert set(pixels[:, :8].flat) == {64}
    assert set(pixels[:, -8:].flat) == {192}  # its low bytes are all 0
    assert found.notes == {"16-bit": N}


def test_orientation_is_applied(taken: Any) -> None:
    found = taken("exif.parquet")
    assert found.shape[:2] == [24, 16]
    pixels = first(found)
    assert pixels[:, -4:].min() > 250
    assert pixels[:, :4].max() < 5
    assert found.notes == {"turned": N}


def test_transparency_lies_on_white(taken: Any) -> None:
    found = taken("rgba.parquet")
    assert found.notes == {"transparent": N}
    colours = {tuple(pixel) for pixel in first(found).reshape(-1, 3).tolist()}
    assert (255, 255, 255) in colours


def test_four_labels_are_four_classes(taken: Any) -> None:
    found = taken("gaps.parquet")
    assert found.class_names == ["0", "7", "42", "1000"]
    assert found.notes == {"labels-with-gaps": N}
    [rows] = found.rows(100)
    assert [row[2] for row in rows[:5]] == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("name", ["strlabels.parquet", "hfclass.parquet", "wrapped-root.zip"])
def test_classes_have_their_names(taken: Any, name: str) -> None:
    assert taken(name).class_names == ["cat", "dog"]


def test_validation_is_held_out(taken: Any) -> None:
    [rows] = taken("valsplit.parquet").rows(100)
    assert [row[3] for row in rows[:4]] == [False, True, False, True]


def test_the_root_folder_is_no_part_of_ids(taken: Any) -> None:
    found = taken("wrapped-root.zip")
    [rows] = found.rows(100)
    assert {row[0].split("/")[0] for row in rows} == {"train", "test"}
    assert all(row[3] == row[0].startswith("test") for row in rows)


def test_sizes_may_differ(taken: Any) -> None:
    found = taken("mixed.parquet")
    assert found.shape == [None, None, 3]
    assert set(found.looked["height"].tolist()) == {64, 65, 66}


@pytest.mark.parametrize("name", ["one-encrypted-column.parquet", "damaged-statistics.parquet"])
def test_what_ends_its_parser_is_refused_and_this_process_lives(tmp_path: Path, name: str) -> None:
    """Such files are made anew in tests/app/formats/test_sandbox.py."""
    if not (BESIDE / name).exists():
        pytest.skip("the files are not beside this checkout")
    with pytest.raises(SourceError, match=r"cannot be read|not a readable Parquet file"):
        take_in(tmp_path, [{"path": str(BESIDE / name)}], UploadSource(), [b"k" * 32])
