"""Files as people have them: folders with and without splits, tables of every encoding, arrays, WebDatasets, names."""

from __future__ import annotations

import codecs
import io
import json
import re
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.formats import archives, tars, uploads
from app.formats.addresses import of_folder
from app.formats.manifest import SourceError
from app.formats.options import Options
from app.formats.uploads import check, read
from engine.data import decoding
from engine.data.upload import load_content
from tests.app.formats.archive_cases import folder, npz, png, zipped


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def put(data: bytes) -> Path:
        path = tmp_path / "upload"
        path.write_bytes(data)
        return path

    return put


# -- image folders ---------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["holdout", "test", "val", "validation", "valid", "Val"])
def test_every_name_of_a_split_is_known(write: Any, split: str) -> None:
    found = check(write(zipped({"train/a/1.png": png(1), f"{split}/a/1.png": png(2)})))
    assert found.holdout == [False, True]
    assert found.ids == ["train/a/1.png", f"{split}/a/1.png"]


@pytest.mark.parametrize("root", ["pets", "data/pets v2"])
def test_folders_around_it_all_are_left_out_of_the_ids(write: Any, root: str) -> None:
    found = check(write(zipped({f"{root}/{name}": data for name, data in folder().items()})))
    assert found.ids == list(folder())
    assert found.notes == {"root-folder": 6}


def test_flat_class_folders_keep_a_fraction_out(write: Any) -> None:
    members = {f"{root}{name}/{row}.png": png(row) for root in ("",) for name in ("ant", "bee") for row in range(10)}
    path = write(zipped(members))
    found = check(path)
    assert (found.ids, found.class_names, found.holdout) == (list(members), ["ant", "bee"], None)
    assert load_content(path, 0.25, 0).holdout.sum() == 5
    wrapped = check(write(zipped({f"insects/{name}": data for name, data in members.items()})))
    assert (wrapped.ids, wrapped.class_names) == (list(members), ["ant", "bee"])


def test_folders_within_a_class_belong_to_it_and_are_told(write: Any) -> None:
    found = check(write(zipped({"ant/2024/1.png": png(1), "bee/1.png": png(2)})))
    assert (found.labels, found.ids) == ([0, 1], ["ant/2024/1.png", "bee/1.png"])
    assert found.notes == {"folders-within-classes": 1}
    found = check(write(zipped({"train/ant/a/1.png": png(1), "train/bee/b/c/2.png": png(2), "val/ant/3.png": png(3)})))
    assert (found.labels, found.class_names) == ([0, 1, 0], ["ant", "bee"])
    assert found.notes == {"folders-within-classes": 2}


TRAINING = ["training", "Train", "train2017", "train_set", "train-images", "TrainData", "train 1"]
HELD = ["testing", "dev", "eval", "evaluation", "val2017", "test_images", "holdout-1", "valid_set"]


@pytest.mark.parametrize(
    ("training", "held"), [*((name, "val") for name in TRAINING), *(("train", name) for name in HELD)]
)
def test_splits_are_known_by_the_names_that_people_give_them(write: Any, training: str, held: str) -> None:
    """As seen: classes of these names, in silence."""
    path = write(zipped({f"{training}/cat/1.png": png(1), f"{held}/dog/2.png": png(2), f"{held}/cat/3.png": png(3)}))
    found = check(path)
    assert (found.labels, found.class_names, found.holdout) == ([0, 1, 0], ["cat", "dog"], [False, True, True])
    assert found.ids == [f"{training}/cat/1.png", f"{held}/dog/2.png", f"{held}/cat/3.png"]


@pytest.mark.parametrize("held", ["val2017", "testing", "dev"])
def test_a_file_of_one_split_is_of_that_split(write: Any, held: str) -> None:
    """Its only folder is no folder around it all."""
    found = read(write(zipped({f"{held}/cat/1.png": png(1), f"{held}/dog/2.png": png(2)})))
    assert (found.holdout, found.ids) == ([True, True], [f"{held}/cat/1.png", f"{held}/dog/2.png"])


def test_a_class_may_be_called_as_a_split_is_below_one(write: Any) -> None:
    found = check(write(zipped({"train/train/1.png": png(1), "train/cat/2.png": png(2), "val/train/3.png": png(3)})))
    assert (found.labels, found.class_names, found.holdout) == ([1, 0, 1], ["cat", "train"], [False, False, True])


@pytest.mark.parametrize("name", ["trains", "latest", "value", "devices", "1", "set", "trainer", "contest"])
def test_other_names_are_classes(write: Any, name: str) -> None:
    found = check(write(zipped({f"{name}/1.png": png(1), "zebra/2.png": png(2)})))
    assert (found.class_names, found.holdout) == ([name, "zebra"], None)


UNCLEAR: dict[str, tuple[list[str], str]] = {
    "the class before the split": (["cat/train/1.png", "cat/test/2.png", "dog/train/3.png"], "the split comes first"),
    "two roots": (["a/train/cat/1.png", "b/test/dog/2.png"], "the split comes first"),
    "splits of splits": (["train/cat/val2017/1.png", "test/cat/2.png"], "the split comes first"),
    "splits within a split": (["train/train/cat/1.png", "train/val/dog/2.png"], "the split comes first"),
    "a split beside classes": (["training/cat/1.png", "cat/2.png"], "an image lies at"),
    "something around the classes": (
        ["root/images/cat/1.png", "root/images/dog/2.png", "root/masks/cat/1.png", "root/masks/dog/2.png"],
        "either may be the classes",
    ),
    "something around the classes of each split": (
        [f"{split}/{kind}/{name}.png" for split in ("train", "val") for kind in "ab" for name in ("cat/1", "dog/1")],
        "either may be the classes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNCLEAR)
def test_folders_that_may_mean_something_else_are_refused(write: Any, name: str) -> None:
    names, reason = UNCLEAR[name]
    with pytest.raises(SourceError) as refused:
        check(write(zipped({each: png(row) for row, each in enumerate(names)})))
    said = refused.value.detail + " ".join(refused.value.errors)
    assert reason in said
    assert "dog" not in said
    with pytest.raises(SourceError) as refused:
        of_folder([(each, 99) for each in names])
    assert reason in refused.value.detail + " ".join(refused.value.errors)


def test_folders_that_only_some_classes_have_or_that_lie_beside_pictures_are_no_classes(write: Any) -> None:
    for names in (
        ["ant/x/1.png", "ant/y/2.png", "bee/x/3.png"],
        ["ant/x/1.png", "ant/y/2.png", "ant/3.png", "bee/x/3.png", "bee/y/4.png", "bee/5.png"],
        ["ant/x/1.png", "bee/x/2.png"],
    ):
        found = check(write(zipped({each: png(row) for row, each in enumerate(names)})))
        assert found.class_names == ["ant", "bee"]
        assert found.notes["folders-within-classes"] == sum(each.count("/") == 2 for each in names)


def test_a_prefix_is_read_as_a_folder_is_and_tells_the_same() -> None:
    names = ["a/training/cat/1.png", "a/training/cat/.x/2.png", "a/dev/dog/2024/3.png", "a/dev/dog/Thumbs.db"]
    rows, notes = of_folder([(name, 99) for name in names])
    assert [(row["id"], row["label"], row["split"]) for row in rows] == [
        ("training/cat/1.png", "cat", "train"), ("dev/dog/2024/3.png", "dog", "holdout")
    ]  # fmt: skip
    assert notes == {"root-folder": 2, "folders-within-classes": 1, "passed-over": 2}


# -- names -----------------------------------------------------------------------------------------

NAME = "train/a/Jos\u00e9 \u00d1.png"


def unflagged(written: bytes, extra: bytes = b"") -> bytes:
    """An archive whose member has this name without the flag that it is UTF-8, as many programs write it."""
    placeholder = "x" * len(written)
    info = zipfile.ZipInfo(placeholder)
    info.extra = extra
    return zipped([(info, png(1))]).replace(placeholder.encode(), written)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_macs_names_are_what_they_are_called(write: Any, form: Any) -> None:
    """As seen: they became other names, so that the person could not be found."""
    found = check(write(unflagged(unicodedata.normalize(form, NAME).encode())))
    assert found.ids == [NAME]
    assert found.notes == ({"ids-composed": 1} if form == "NFD" else {})
    assert load_content(write(unflagged(NAME.encode())), 0, 0).ids == [NAME]


def test_a_code_page_is_named_or_refused(write: Any) -> None:
    path = write(unflagged(NAME.encode("cp1252")))
    with pytest.raises(SourceError) as refused:
        check(path)
    assert refused.value.errors == [
        "entry 0: the name is in a code page that it does not state; state it as the source's `names_encoding`"
    ]
    assert read(path, Options({}, "cp1252")).ids == [NAME]
    with pytest.raises(SourceError):
        read(path, Options({}, "cp932"))
    [(_, data)] = archives.pictures(path, Options({}, "cp1252"))
    assert data == png(1)


@pytest.mark.parametrize("page", ["cp936", "gb18030"])
def test_a_code_page_that_is_stated_holds_for_names_that_are_utf_8_by_chance(write: Any, page: str) -> None:
    """As seen: a name of two bytes that are one character of UTF-8 was read as that."""
    name = "train/\u5c0f/1.png"
    written = name.encode(page)
    assert written.decode() != name, "it is UTF-8, too"
    path = write(unflagged(written))
    found = read(path, Options({}, page))
    assert (found.ids, found.labels) == ([name], ["\u5c0f"])
    assert next(archives.pictures(path, Options({}, page)))[1] == png(1)


def test_info_zips_field_names_a_member(write: Any) -> None:
    written = NAME.encode("cp1252")
    field = struct.pack("<BI", 1, zlib.crc32(written)) + NAME.encode()
    extra = struct.pack("<HH", 0x7075, len(field)) + field
    assert check(write(unflagged(written, extra))).ids == [NAME]
    other = struct.pack("<HH", 0x7075, len(field)) + field[:1] + b"\0\0\0\0" + field[5:]
    with pytest.raises(SourceError):
        check(write(unflagged(written, other)))  # of another name


CLUTTER = [
    "train/ant/Thumbs.db", "train/desktop.ini", "__MACOSX/train/ant/._a.png", "train/ant/.ipynb_checkpoints/1.png",
    "train/ant/@eaDir/1.png", "train/__MACOSX/ant/1.png", "#recycle/ant/1.png", ".git/ant/1.png", "train/ant/._1.png",
]  # fmt: skip


def test_what_file_managers_and_editors_leave_is_passed_over_and_told(write: Any) -> None:
    """As seen: what lay in their folders was taken for samples."""
    found = check(write(zipped(folder() | dict.fromkeys(CLUTTER, png(1)))))
    assert (found.ids, found.notes) == (list(folder()), {"passed-over": len(CLUTTER)})
    found = check(write(tar(dict.fromkeys(CLUTTER, png(1)) | {"./ant/.x/2.cls": b"0", "1.png": png(1), "1.cls": b"0"})))
    assert (found.ids, found.notes) == (["1"], {"passed-over": len(CLUTTER) + 1})
    array = zipped({"images.npy": npy_of(np.zeros((2, 8, 8), np.uint8)), "labels.npy": npy_of([0, 1]), ".x": b""})
    assert check(write(array)).notes == {"ids-made": 2, "passed-over": 1}
    for data in (zipped(dict.fromkeys(CLUTTER, png(1))), tar(dict.fromkeys(CLUTTER, png(1)))):
        with pytest.raises(SourceError, match="the archive is empty, but for names that begin with a dot"):
            check(write(data))


def npy_of(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values))
    return buffer.getvalue()


# -- Parquet ---------------------------------------------------------------------------------------

N = 40
IDS = [f"person-{row}" for row in range(N)]
IMAGES = [png(row) for row in range(N)]


def table(tmp_path: Path, ids: Any, images: Any, **options: Any) -> Path:
    columns = {"image": images, "label": [row % 2 for row in range(N)]} | ({} if ids is None else {"id": ids})
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=16, **options)
    return tmp_path / "a.parquet"


LARGE = [bytes([row]) * 60_000 for row in range(N)]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
BOTH = [{"bytes": data, "path": f"{row}.png"} for row, data in enumerate(IMAGES)]
TABLES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "plain": (IDS, IMAGES, {}),
    "more than a dictionary holds": (IDS, LARGE, {}),
    "a struct with more than that": (IDS, pa.array([{"bytes": data} for data in LARGE]), {}),
    "large": (pa.array(IDS, pa.large_string()), pa.array(IMAGES, pa.large_binary()), {}),
    "views": (pa.array(IDS, pa.string_view()), pa.array(IMAGES, pa.binary_view()), {}),
    "dictionaries": (pa.array(IDS).dictionary_encode(), pa.array(IMAGES).dictionary_encode(), {}),
    "a struct": (IDS, pa.array(BOTH, STRUCT), {}),
    "a struct, delta": (
        IDS, pa.array(BOTH, STRUCT),
        {"use_dictionary": False, "column_encoding": {"id": "DELTA_BYTE_ARRAY", "image.bytes": "DELTA_BYTE_ARRAY"}},
    ),
    "delta": (
        IDS, IMAGES,
        {"use_dictionary": False, "column_encoding": {"id": "DELTA_BYTE_ARRAY", "image": "DELTA_BYTE_ARRAY"}},
    ),
    "delta lengths": (
        pa.array(IDS, pa.string_view()), IMAGES,
        {"use_dictionary": False, "column_encoding": {
            "id": "DELTA_LENGTH_BYTE_ARRAY", "image": "DELTA_LENGTH_BYTE_ARRAY", "label": "DELTA_BINARY_PACKED"}},
    ),
} | {f"codec {codec}": (IDS, IMAGES, {"compression": codec}) for codec in
     ("none", "snappy", "gzip", "brotli", "zstd", "lz4")}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_every_way_to_store_a_table_is_read(tmp_path: Path, name: str) -> None:
    ids, images, options = TABLES[name]
    path = table(tmp_path, ids, images, **options)
    assert check(path).ids == IDS
    given = [each["bytes"] if isinstance(each, dict) else each for each in pa.array(images).to_pylist()]
    assert [data for _, data in uploads.pictures(path, "parquet")] == given


def test_missing_ids_are_made_from_contents_and_told(tmp_path: Path) -> None:
    path = table(tmp_path, None, [*IMAGES[:-1], IMAGES[0]])
    assert check(path).notes == {"ids-made": N}
    ids = load_content(path, 0, 0).ids
    import hashlib

    assert ids[0] == "sha256:" + hashlib.sha256(IMAGES[0]).hexdigest()
    assert ids[-1] == ids[0] + "#2"
    assert len(set(ids)) == N


# -- npz -------------------------------------------------------------------------------------------


def test_channels_first_are_kept_last_and_told(write: Any) -> None:
    images = np.arange(6 * 3 * 8 * 7).astype(np.uint8).reshape(6, 3, 8, 7)
    path = write(npz(images=images))
    assert check(path).notes == {"channels-first": 6}
    assert np.array_equal(load_content(path, 0, 0).images, np.moveaxis(images, 1, 3))
    three = np.zeros((6, 3, 8, 3), np.uint8)
    assert load_content(write(npz(images=three)), 0, 0).images.shape == (6, 3, 8, 3), "channels last, where both may be"


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_are_kept_as_8_bits_and_told(write: Any, kind: Any) -> None:
    whole = np.arange(6 * 8 * 8).astype(np.uint8).reshape(6, 8, 8)
    path = write(npz(images=(whole / 255).astype(kind)))
    assert check(path).notes == {"floats": 6}
    assert np.array_equal(load_content(path, 0, 0).images[..., 0], whole)


def test_16_bits_are_kept_as_8(write: Any) -> None:
    images = np.full((6, 8, 8), 49151, np.uint16)
    path = write(npz(images=images))
    assert check(path).notes == {"16-bit": 6}
    assert set(load_content(path, 0, 0).images.flat) == {191}


def test_12_bits_in_16_are_told(tmp_path: Path) -> None:
    images = np.zeros((6, 8, 8), np.uint16)
    images[:4, 0, 0] = [255, 4095, 4096, 65535]
    (tmp_path / "a.npz").write_bytes(npz(images=images))
    said = decoding.unpack(str(tmp_path), [{"path": str(tmp_path / "a.npz")}], {})
    assert said["notes"] == {"16-bit": 6, "few-levels": 2}


@pytest.mark.parametrize("value", [1.5, -0.1, 255.0, np.nan, np.inf])
def test_floats_outside_0_and_1_are_refused(write: Any, value: float) -> None:
    images = np.zeros((6, 8, 8))
    images[3, 3, 3] = value
    with pytest.raises(SourceError, match=r"floats outside \[0, 1\]"):
        load_content(write(npz(images=images)), 0, 0)


def test_an_npz_may_name_splits_and_lack_ids(write: Any) -> None:
    path = write(npz(ids=None, split=np.array(["train", "val", "test", "train", "train", "train"])))
    found = check(path)
    assert found.holdout == [False, True, True, False, False, False]
    assert found.notes == {"ids-made": 6}
    assert len(set(load_content(path, 0, 0).ids)) == 6


@pytest.mark.parametrize(("pixels", "labels"), [("x_{}", "y_{}"), ("{}_images", "{}_labels")])
def test_arrays_of_each_split_are_taken_as_keras_and_medmnist_have_them(write: Any, pixels: str, labels: str) -> None:
    images = np.arange(6 * 8 * 8).astype(np.uint8).reshape(6, 8, 8)
    given = {
        pixels.format("test"): images[4:], labels.format("test"): np.array([[1], [0]]),
        pixels.format("train"): images[:4], labels.format("train"): np.array([[0], [1], [2], [0]], np.uint8),
    }  # fmt: skip
    path = write(npz(images=None, labels=None, ids=None, **given))
    found = check(path)
    assert (found.labels, found.holdout) == ([0, 1, 2, 0, 1, 0], [False] * 4 + [True] * 2)
    assert found.notes == {"ids-made": 6}
    loaded = load_content(path, 0, 0)
    assert np.array_equal(loaded.images[..., 0], images)
    one = write(npz(images=None, labels=None, ids=None, **{name: given[name] for name in [*given][2:]}))
    assert check(one).holdout == [False] * 4


KERAS = {"x_train": np.zeros((2, 8, 8), np.uint8), "y_train": np.arange(2), "x_test": np.ones((1, 8, 8), np.uint8)}
BAD_PAIRS: dict[str, tuple[dict[str, Any], str]] = {
    "labels of one split only": (KERAS, "an npz has the arrays"),
    "a third array": (KERAS | {"y_test": np.arange(1), "weights": np.arange(3)}, "an npz has the arrays"),
    "two sizes": (KERAS | {"x_test": np.ones((1, 9, 8), np.uint8), "y_test": np.arange(1)}, "of one shape"),
    "two kinds of labels": (KERAS | {"y_test": np.array(["a"])}, "of one type"),
    "too few labels": (KERAS | {"y_test": np.arange(2)}, "one for each image"),
    "several labels": (KERAS | {"y_test": np.zeros((1, 3), int)}, "must have one label"),
}


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_arrays_of_splits_that_do_not_fit_are_refused(write: Any, name: str) -> None:
    given, reason = BAD_PAIRS[name]
    with pytest.raises(SourceError, match=reason):
        check(write(npz(images=None, labels=None, ids=None, **given)))


def test_ids_and_subjects_may_be_numbers_in_every_form(write: Any, tmp_path: Path) -> None:
    expected = (["7", "8"], ["0", "12"], {})
    found = read(write(npz(images=np.ones((2, 8, 8), np.uint8), labels=[0, 1], ids=[7, 8], subject=[0, 12])))
    assert (found.ids, found.subjects, found.notes) == expected
    pq.write_table(
        pa.table({"image": [png(1), png(2)], "label": [0, 1], "id": [7, 8], "subject": [0, 12]}), tmp_path / "a"
    )
    found = read(tmp_path / "a")
    assert (found.ids, found.subjects, found.notes) == expected
    said = [{"label": 0, "id": 7, "subject": 0}, {"label": 1, "id": 8, "subject": 12}]
    members = {f"{row}.json": json.dumps(each).encode() for row, each in enumerate(said)} | {
        "0.png": png(1),
        "1.png": png(2),
    }
    found = read(write(tar(members)))
    assert (found.ids, found.subjects, found.notes) == expected
    for wrong in (True, 1.5, [1], {"a": 1}):
        with pytest.raises(SourceError) as refused:
            read(write(tar({"a.png": png(1), "a.json": json.dumps({"label": 0, "id": wrong}).encode()})))
        assert refused.value.errors == ["entry 0: id must be a string, or an integer"]


def test_a_holdout_that_is_drawn_is_told(tmp_path: Path) -> None:
    members = {f"train/{name}/{row}.png": png(row) for name in ("ant", "bee") for row in range(10)}
    (tmp_path / "a.zip").write_bytes(zipped(members))
    file = {"path": str(tmp_path / "a.zip")}
    assert decoding.unpack(str(tmp_path), [file], {"holdout_fraction": 0.2})["notes"] == {"holdout-drawn": 4}
    assert decoding.unpack(str(tmp_path), [file], {"holdout_fraction": 0.0})["notes"] == {}
    assert decoding.unpack(str(tmp_path), [file | {"split": "train"}], {"holdout_fraction": 0.2})["notes"] == {}


# -- WebDataset ------------------------------------------------------------------------------------


def tar(
    members: dict[str, bytes], kind: int = tarfile.USTAR_FORMAT, more: list[tarfile.TarInfo] | None = None
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in more or []:
            archive.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_webdataset_is_read_by_its_keys(write: Any, kind: int) -> None:
    members = {}
    for row in range(4):
        members |= {f"a/person{row}.seg.png": png(row), f"a/person{row}.cls": b"%d\n" % (row % 2)}
    path = write(tar(members, kind))
    found = check(path)
    assert (found.form, found.ids) == ("webdataset", [f"a/person{row}" for row in range(4)])
    assert (found.labels, found.class_names, found.holdout) == ([0, 1, 0, 1], None, None)
    assert load_content(path, 0, 0).images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_a_mark_before_what_a_webdataset_says_is_no_part_of_it(write: Any) -> None:
    """As seen: the class 0 and a class whose name was a byte order mark and 0."""
    members: dict[str, bytes] = {f"{row}.png": png(row) for row in range(4)}
    members |= {"0.cls": b"0", "1.cls": codecs.BOM_UTF8 + b"1", "2.cls": codecs.BOM_UTF8 + b"0\r\n"}
    members |= {"3.json": codecs.BOM_UTF8 + b'{"label": 1}'}
    found = check(write(tar(members)))
    assert (found.labels, found.class_names) == ([0, 1, 0, 1], None)


def test_a_webdatasets_json_says_label_split_subject_and_id(write: Any) -> None:
    said = [
        {"label": "bee", "split": "train", "subject": "eve", "id": "one", "width": 8},
        {"label": "ant", "split": "val"},
    ]
    members = {"1.txt": b"a caption", "./2.jpg": png(2)}  # as `tar -c .` writes names
    members |= {f"./{row}.json": json.dumps(each).encode() for row, each in enumerate(said, 1)} | {"1.jpg": png(1)}
    found = check(write(tar(members)))
    assert (found.ids, found.labels, found.class_names) == (["one", "2"], [1, 0], ["ant", "bee"])
    assert (found.holdout, found.subjects, found.notes) == (
        [False, True],
        ["eve", None],
        {"passed-over": 1, "untrained": 1},
    )


@pytest.mark.parametrize(
    ("said", "labels", "names"),
    [
        ({"0.cls": b"007", "1.cls": b"7", "2.cls": b"007"}, [0, 1, 0], ["007", "7"]),
        ({"0.cls": "\u0661".encode(), "1.cls": b"1", "2.cls": b"1"}, [1, 0, 0], ["1", "\u0661"]),
        ({"0.json": b'{"label": true}', "1.json": b'{"label": false}', "2.cls": b"true"}, [1, 0, 1], ["false", "true"]),
        ({"0.cls.txt": b"b", "1.cls": b"a", "2.seg.cls.txt": b"b"}, [1, 0, 1], ["a", "b"]),
        ({"0.cls": b"3", "0.json": b'{"cls": 3, "width": 8}', "1.cls": b"0", "2.cls": b"0"}, [1, 0, 0], ["0", "3"]),
    ],
)
def test_a_webdatasets_labels_are_what_is_written(
    write: Any, said: dict[str, bytes], labels: list[int], names: list[str]
) -> None:
    """As read: 007 and 7 were one class, and true was called True."""
    found = check(write(tar({f"{row}.png": png(row) for row in range(3)} | said)))
    assert (found.labels, found.class_names) == (labels, names)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"0.cls": b"1", "0.seg.cls": b"2"}, "a second label of its sample"),
        ({"0.cls": b"1", "0.json": b'{"label": 2}'}, "its .cls and its .json say different labels"),
        ({"0.cls": b"-1"}, "label"),
    ],
)
def test_a_webdatasets_sample_has_one_label(write: Any, said: dict[str, bytes], words: str) -> None:
    with pytest.raises(SourceError) as refused:
        check(write(tar({"0.png": png(0)} | said)))
    assert words in f"{refused.value} {refused.value.errors}"


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\x1f\x8b\x08", "compressed (gzip)"),
        (b"BZh91AY", "compressed (bzip2)"),
        (b"\x28\xb5\x2f\xfd", "compressed (zstandard)"),
        (b"\xfd7zXZ\x00", "compressed (xz)"),
        (b"PARE", "encrypted"),
        (b"GIF89a", "neither Parquet nor a zip archive nor a tar archive"),
    ],
)
def test_what_a_file_is_that_cannot_be_taken_is_said(write: Any, start: bytes, words: str) -> None:
    with pytest.raises(SourceError, match=re.escape(words)):
        check(write(start + bytes(600)))


@pytest.mark.parametrize("shape", [(6, 3, 8, 3), (6, 3, 3, 3), (6, 1, 8, 1), (6, 1, 1, 3)])
def test_axes_that_could_be_either_are_told(write: Any, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    assert check(write(npz(images=array))).notes["axes-either"] == 6
    assert load_content(write(npz(images=array)), 0, 0).images.shape[0] == 6


def link(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


GOOD = {"secret.png": png(1), "secret.cls": b"0"}
BAD_TARS: dict[str, tuple[bytes, str]] = {
    "no label": (tar({"secret.png": png(1)}), "entry 0: a sample is a picture"),
    "no picture": (tar({"secret.cls": b"0"}), "entry 0: a sample is a picture"),
    "two pictures": (tar(GOOD | {"secret.jpg": png(1)}), "entry 2: a second picture"),
    "several labels": (tar({"secret.png": png(1), "secret.json": b'{"label": [0, 1]}'}), "must have one label"),
    "a json that is none": (tar({"secret.png": png(1), "secret.json": b"{"}), "entry 1: the json is not readable"),
    "an unknown split": (tar({"a.png": png(1), "a.json": b'{"label": 0, "split": "x"}'}), "entry 1: the split"),
    "a link": (tar(GOOD, more=[link("x.png")]), "entry 2: it is a link"),
    "a path upwards": (tar(GOOD | {"../secret2.png": png(1)}), "entry 2: the name is not"),
    "an absolute path": (tar({"/etc/secret.png": png(1)}), "entry 0: the name is not"),
    "empty": (tar({}), ""),
    "cut off in a header": (tar(GOOD | {"b.png": png(2), "b.cls": b"0"})[:2400], "cut off"),
    "cut off in a picture": (tar(GOOD)[:560], "cut off"),
    "compressed": (b"\x1f\x8b" + tar(GOOD)[2:], ""),
    "broken in the middle": (tar(GOOD)[:1024] + b"\x01" * 512 + tar(GOOD)[1536:], "cut off"),
}


@pytest.mark.parametrize("name", BAD_TARS)
def test_bad_tars_are_refused_with_words(write: Any, name: str) -> None:
    data, line = BAD_TARS[name]
    with pytest.raises(SourceError) as refused:
        check(write(data))
    said = refused.value.detail + " ".join(refused.value.errors)
    assert line in said
    assert "secret" not in said


def test_the_members_of_a_tar_are_not_kept(write: Any) -> None:
    """As seen: more than a kilobyte for each of millions."""
    path = write(tar({f"{row}.cls": b"0" for row in range(50)}))
    with tarfile.open(path) as archive:
        for number, member in enumerate(tars._members(archive, path)):
            assert member.name == f"{number}.cls"
            assert not archive.members  # type: ignore[attr-defined]
    assert number == 49


def test_the_split_of_a_whole_file_is_said_beside_it(write: Any) -> None:
    assert read(write(tar(GOOD)), Options({}, split="val")).holdout == [True]
    assert read(write(npz()), Options({}, split="train")).holdout == [False] * 6
    held = np.array([False, True] * 3)
    assert read(write(npz(holdout=held)), Options({}, split="train")).holdout == held.tolist(), "the file's own first"
