"""The two files that strangers send: safetensors headers and Parquet manifests, whole, broken and hostile."""

from __future__ import annotations

import io
import json
import resource
import tempfile
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.formats import parquet as parquets
from app.formats.archives import MAX_IMAGE_BYTES
from app.formats.checkpoint_header import MAX_HEADER_BYTES, MAX_TENSORS, CheckpointError, read_header
from app.formats.manifest import MAX_ERRORS, SourceError
from app.formats.options import AS_THEY_ARE
from app.formats.uploads import read


def file(header: Any, data: bytes = b"", length: int | None = None) -> io.BytesIO:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    return io.BytesIO(size.to_bytes(8, "little") + text + data)


def tensor(start: int = 0, end: int = 4, shape: Any = (1,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def test_a_good_header_is_read() -> None:
    found = read_header(
        file({"__metadata__": {"format": "pt"}, "b": tensor(4, 8), "a.0-x": tensor(0, 4, ())}, b"x" * 8)
    )
    assert found.metadata == {"format": "pt"}
    assert {name: (spec.start, spec.end, spec.shape) for name, spec in found.tensors.items()} == {
        "b": (4, 8, (1,)),
        "a.0-x": (0, 4, ()),
    }


NAMES = ["", "../a", "a/b", "/a", "a b", "a\x00", ".a", "a.", "a..b", "é", "a\n", "x" * 257, "a\\b"]
HOSTILE: dict[str, tuple[Any, bytes]] = {
    "nothing": ({}, b""),
    "a list": ([1], b""),
    "no JSON": (b"{nonsense", b""),
    "not UTF-8": (b'{"\xff": 1}', b""),
    "leading space": (b' {"a": 1}', b""),
    "NaN": (b'{"a": NaN}', b""),
    "nested deep": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "a huge number": (b'{"a": ' + b"9" * 5000 + b"}", b""),
    "named twice": (b'{"a": %b, "a": %b}' % ((json.dumps(tensor()).encode(),) * 2), b"x" * 4),
    "metadata that is no text": ({"__metadata__": {"a": 1}, "a": tensor()}, b"x" * 4),
    "metadata that is a list": ({"__metadata__": [], "a": tensor()}, b"x" * 4),
    "a hole": ({"a": tensor(0, 4), "b": tensor(8, 12)}, b"x" * 12),
    "a hole before": ({"a": tensor(4, 8)}, b"x" * 8),
    "overlap": ({"a": tensor(0, 4), "b": tensor(2, 6)}, b"x" * 6),
    "bytes left over": ({"a": tensor()}, b"x" * 5),
    "bytes missing": ({"a": tensor()}, b"x" * 3),
    "a shape that does not fit": ({"a": tensor(shape=(2,))}, b"x" * 4),
    "a negative size": ({"a": tensor(shape=(-1, -1))}, b"x" * 4),
    "a size that is no integer": ({"a": tensor(shape=(1.0,))}, b"x" * 4),
    "a size that is true": ({"a": tensor(shape=(True,))}, b"x" * 4),
    "sizes that overflow": ({"a": tensor(0, 0, (2**53, 2**53, 0))}, b""),
    "too many dimensions": ({"a": tensor(shape=(1,) * 9)}, b"x" * 4),
    "offsets backwards": ({"a": tensor(4, 0)}, b"x" * 4),
    "three offsets": ({"a": tensor() | {"data_offsets": [0, 4, 4]}}, b"x" * 4),
    "an unknown dtype": ({"a": tensor(dtype="F8_E4M3")}, b"x" * 4),
    "a dtype that is a list": ({"a": tensor(dtype=["F32"])}, b"x" * 4),
    "a further key": ({"a": tensor() | {"more": 1}}, b"x" * 4),
    "a tensor that is a number": ({"a": 5}, b""),
    "too many tensors": ({f"t{n}": tensor(0, 0, (0,)) for n in range(MAX_TENSORS + 1)}, b""),
} | {f"the name {name[:9]!r}": ({name: tensor()}, b"x" * 4) for name in NAMES}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused_with_a_reason(name: str) -> None:
    header, data = HOSTILE[name]
    with pytest.raises(CheckpointError) as refused:
        read_header(file(header, data))
    assert refused.value.reason
    assert len(refused.value.reason) < 600


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_takes_little_memory(name: str) -> None:
    content = file(*HOSTILE[name])
    tracemalloc.start()  # the parser is Python alone
    with pytest.raises(CheckpointError):
        read_header(content)
    added = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{name}: {added / 2**20:.1f} MiB")
    assert added <= 64 * 2**20


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "not a safetensors"),
        (b"\x08\x00\x00", "not a safetensors"),
        (b"PK\x03\x04" + b"\xff" * 20, "zip"),
        (b"\x80\x04\x95" + b"\xff" * 20, "pickle"),
        (b"\x89HDF\r\n\x1a\n" + b"\xff" * 20, "HDF5"),
        (b"GGUF" + b"\xff" * 20, "GGUF"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{" * 10, "4 MiB"),
        ((2**64 - 1).to_bytes(8, "little"), "4 MiB"),
        ((100).to_bytes(8, "little") + b"{}", "cut off"),
    ],
)
def test_other_files_are_called_by_their_name(data: bytes, word: str) -> None:
    with pytest.raises(CheckpointError, match=word):
        read_header(io.BytesIO(data))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for content in (data, len(data).to_bytes(8, "little") + data):
        try:
            read_header(io.BytesIO(content))
        except CheckpointError:
            continue
        raise AssertionError("random bytes are no checkpoint")


# -- Parquet ---------------------------------------------------------------------------------------


def parquet(tmp_path: Path, **columns: Any) -> Path:
    path = tmp_path / "file.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_a_manifest_is_read_in_order(tmp_path: Path) -> None:
    path = parquet(tmp_path, id=[3, 1, 2], image=[b"x"] * 3, label=[0, 1, 0], split=["train", "test", "holdout"])
    found = read(path)
    assert (found.ids, found.labels, found.holdout) == (["3", "1", "2"], [0, 1, 0], [False, True, True])
    assert read(parquet(tmp_path, id=["a"], image=[{"bytes": b"x", "path": None}], label=[5])).holdout is None


def test_rows_are_named_and_ids_are_not(tmp_path: Path) -> None:
    path = parquet(tmp_path, id=["secret", "secret", "erased:secret"], image=[b"x"] * 3, label=[0, -1, 2**60])
    with pytest.raises(SourceError) as refused:
        read(path)
    rows = [line.partition(":")[0] for line in refused.value.errors]
    assert rows == ["row 1", "row 2", "row 1", "row 2"]
    assert "secret" not in str(refused.value) + str(refused.value.errors)


def bomb(tmp_path: Path, rows: int, **long: bytes | str) -> Path:
    """A small file whose columns `long` have one long value in every row, stored once."""
    columns = {"id": [f"i{row}" for row in range(rows)], "image": [b"x"] * rows, "label": [0] * rows}
    once = pa.array([0] * rows, pa.int32())
    coded = {name: pa.DictionaryArray.from_arrays(once, [value]) for name, value in long.items()}
    path = tmp_path / "bomb.parquet"
    pq.write_table(
        pa.table(columns | coded), path, compression="zstd", store_schema=False, dictionary_pagesize_limit=2**30
    )
    return path


@pytest.mark.parametrize("name", ["id", "subject", "split"])
def test_a_long_value_in_every_row_is_not_unpacked(tmp_path: Path, name: str) -> None:
    path = bomb(tmp_path, 2000, **{name: "a" * 2**20})
    assert path.stat().st_size < 2**17
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SourceError, match=name) as refused:
        read(path)
    assert "aaa" not in str(refused.value) + str(refused.value.errors)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB


def test_a_column_that_unpacks_to_too_much_is_refused_by_what_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.formats.parquet.MAX_COLUMN_BYTES", 2**20)
    with pytest.raises(SourceError, match="column subject"):
        read(bomb(tmp_path, 1, subject="a" * 2**21))


def test_at_most_so_many_errors_are_kept(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as refused:
        read(parquet(tmp_path, id=["a"] * 500, image=[b"x"] * 500, label=[0] * 500))
    assert "499" in refused.value.detail
    assert len(refused.value.errors) == MAX_ERRORS


@given(st.binary(max_size=100), st.integers(0, 400), st.integers(1, 40))
def test_damaged_files_are_read_or_refused(junk: bytes, place: int, length: int) -> None:
    """Never another error than ours: what a parser raises must not be a 500."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": ["a", "b"], "image": [b"x", b"y"], "label": [0, 1]}), buffer)
    data = buffer.getvalue()
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        file.write(data[:place] + junk + data[place + length :])
        file.flush()
        with suppress(SourceError):
            read(Path(file.name))


@pytest.mark.parametrize("nested", [False, True])
def test_an_image_that_is_too_long_is_not_unpacked_row_by_row(tmp_path: Path, nested: bool) -> None:
    rows = 200
    path = bomb(tmp_path, rows, image=bytes(MAX_IMAGE_BYTES + 1))
    if nested:
        coded = pa.StructArray.from_arrays(
            [pq.read_table(path, read_dictionary=["image"])["image"].chunk(0)], ["bytes"]
        )
        pq.write_table(
            pa.table({"image": coded}), path, compression="zstd", store_schema=False, dictionary_pagesize_limit=2**30
        )
    with pytest.raises(SourceError, match="16 MiB"):
        list(parquets.pictures(path, AS_THEY_ARE))
