"""Zip archives that strangers send: image folders and npz, whole, broken and hostile."""

from __future__ import annotations

import io
import json
import tempfile
import tracemalloc
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.formats import archives
from app.formats.manifest import MAX_ERRORS, SourceError
from app.formats.uploads import ALL_FORMS, FORMS, MANIFESTS, check
from engine.data.upload import load_content
from tests.app.formats.archive_cases import folder, npy, npz, patched, png, symbolic_link, zipped


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def put(data: bytes) -> Path:
        path = tmp_path / "upload"
        path.write_bytes(data)
        return path

    return put


# -- image folders ---------------------------------------------------------------------------------


def test_an_image_folder_is_read_in_the_order_of_its_listing(write: Any) -> None:
    found = check(write(zipped(folder())))
    assert found.form == "image folder"
    assert found.ids == list(folder())
    assert (found.labels, found.holdout) == ([0, 1, 0, 1, 0, 1], [False, False, True, False, False, True])
    assert found.class_names == ["ant", "bee"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_image_folder_is_decoded(write: Any, method: int) -> None:
    raw = load_content(write(zipped(folder(), method)), 0.5, 0)
    assert raw.images.shape == (6, 8, 8, 1)
    assert raw.images[:, 0, 0, 0].tolist() == [0, 20, 40, 60, 80, 100]
    assert raw.holdout.tolist() == [False, False, True, False, False, True]
    assert raw.class_names == ["ant", "bee"]


def test_grey_becomes_colour_where_one_image_is_coloured_and_jpeg_is_taken(write: Any) -> None:
    members = {"train/a/1.png": png(7), "train/a/2.JPG": png(200, kind="JPEG", mode="RGB")}
    raw = load_content(write(zipped(members)), 0.0, 0)
    assert raw.images.shape == (2, 8, 8, 3)
    assert raw.images[0, 0, 0].tolist() == [7, 7, 7]
    assert raw.images[1, 0, 0, 0] > 150


def test_folders_and_what_file_managers_leave_are_passed_over(write: Any) -> None:
    members = {"train/": b"", "train/ant/": b"", "__MACOSX/train/ant/._a.png": b"x", "train/.DS_Store": b"x"}
    assert check(write(zipped(members | folder()))).ids == list(folder())


def test_without_a_holdout_folder_a_share_is_drawn(write: Any) -> None:
    path = write(zipped({f"train/a/{row}.png": png(row) for row in range(8)}))
    assert check(path).holdout is None
    assert load_content(path, 0.25, 0).holdout.sum() == 2


def test_classes_are_sorted_as_text_or_as_the_client_says(write: Any) -> None:
    path = write(zipped({f"train/{name}/x.png": png(1) for name in ("2", "10", "1")}))
    assert (check(path).labels, check(path).class_names) == ([2, 1, 0], ["1", "10", "2"])
    given_names = ["0", "1", "2", "10"]
    assert (check(path, given_names).labels, check(path, given_names).class_names) == ([2, 3, 1], given_names)
    with pytest.raises(SourceError, match="class names"):
        check(path, ["1", "2"])


def test_the_same_stem_in_two_classes_is_two_samples(write: Any) -> None:
    assert len(set(check(write(zipped({"train/a/1.png": png(1), "train/b/1.png": png(2)}))).ids)) == 2


def links() -> bytes:
    return zipped([(symbolic_link("train/ant/secret.png"), b"/etc/passwd"), *folder().items()])


GOOD = zipped(folder())
FIRST = "train/ant/person-0.png"
INNER = zipped({"a.png": png(1)})
BOMB = zipped({"train/a/zeros.png": b"\0" * 2**20, "train/a/x.png": png(1)})

HOSTILE: dict[str, tuple[bytes, str]] = {
    "a path upwards": (zipped(folder() | {"train/../../secret.png": png(1)}), "entry 6: the name is not"),
    "an absolute path": (zipped(folder() | {"/train/ant/secret.png": png(1)}), "entry 6: the name is not"),
    "a drive": (zipped(folder() | {"C:/ant/secret.png": png(1)}), "entry 6: the name is not"),
    "a backslash": (zipped(folder() | {"train\\ant\\secret.png": png(1)}), "entry 6: the name is not"),
    "a dot": (zipped(folder() | {"train/./secret.png": png(1)}), "entry 6: the name is not"),
    "an empty part": (zipped(folder() | {"train//secret.png": png(1)}), "entry 6: the name is not"),
    "a control character": (zipped(folder() | {"train/ant/secret\n.png": png(1)}), "entry 6: the name is not"),
    "a name too long": (zipped(folder() | {f"train/ant/{'secret' * 40}.png": png(1)}), "entry 6: the name has more"),
    "a link": (links(), "entry 0: it is a link"),
    "a name twice": (zipped([*folder().items(), (FIRST, png(1))]), "entry 6: the name of entry 0"),
    "names that differ by case": (zipped(folder() | {FIRST.upper(): png(1)}), "entry 6: the name of entry 0"),
    "names that differ by composition": (
        zipped({"train/a/secret\u00e9.png": png(1), "train/a/secrete\u0301.png": png(2)}),
        "entry 1: the name of entry 0",
    ),
    "encrypted": (patched(GOOD, FIRST, flags=1), "entry 0: it is encrypted"),
    "another compression": (zipped(folder(), zipfile.ZIP_BZIP2), "entry 0: it is compressed"),
    "an unknown compression": (patched(GOOD, FIRST, method=99), "entry 0: it is compressed"),
    "no image by name": (zipped(folder() | {"train/ant/secret.txt": b"x"}), "entry 6: it is no image"),
    "an archive within": (zipped(folder() | {"train/ant/secret.zip": INNER}), "entry 6: it is no image"),
    "an image elsewhere": (zipped(folder() | {"secret.png": png(1)}), "entry 6: an image lies"),
    "an unknown split": (zipped(folder() | {"trial/ant/secret.png": png(1)}), "entry 6: an image lies"),
    "a split without classes": (zipped(folder() | {"test/secret.png": png(1)}), "entry 6: an image lies"),
    "an npy among images": (zipped(folder() | {"images.npy": b"x"}), "entry 6: it is no image"),
    "nothing to train on": (zipped({"test/ant/secret.png": png(1)}), ""),
    "an image over its bound": (zipped(folder() | {"train/ant/secret.png": b"\0" * (2**24 + 1)}), "entry 6: the file"),
    "only folders": (zipped({"train/": b"", "train/ant/": b""}), ""),
    "no member": (zipped({}), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_folders_are_refused_by_entry_and_not_by_name(write: Any, name: str) -> None:
    data, line = HOSTILE[name]
    with pytest.raises(SourceError) as refused:
        check(write(data))
    said = refused.value.detail + " ".join(refused.value.errors)
    assert line in said
    assert "secret" not in said
    assert "person" not in said


def test_a_name_behind_a_nul_is_seen(write: Any) -> None:
    data = GOOD.replace(b"train/ant/person-0.png", b"train/ant/person-\x00.png")
    with pytest.raises(SourceError) as refused:
        check(write(data))
    assert "entry 0: the name is not" in str(refused.value.errors) + refused.value.detail


def test_at_most_so_many_errors_are_kept(write: Any) -> None:
    with pytest.raises(SourceError) as refused:
        check(write(zipped({f"{row}.txt": b"x" for row in range(100)})))
    assert len(refused.value.errors) == MAX_ERRORS
    assert "100" in refused.value.detail


# -- bombs -----------------------------------------------------------------------------------------


def test_an_archive_that_unpacks_to_too_much_is_refused_by_its_directory(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "FREE_OF_RATIO", 2**18)
    with pytest.raises(SourceError, match="200 times"):
        check(write(BOMB))
    monkeypatch.setattr(archives, "MAX_BYTES", 2**19)
    with pytest.raises(SourceError, match="more than"):
        check(write(BOMB))


def test_a_directory_that_lies_about_a_size_unpacks_to_no_more(write: Any) -> None:
    """A member says 100 bytes and holds 32 MiB: a piece is unpacked at most, and its checksum does not fit."""
    bomb = zipped({"train/a/zeros.png": b"\0" * 2**25, "train/a/x.png": png(1)})
    path = write(patched(bomb, "train/a/zeros.png", size=100))
    check(path)  # the directory is plausible
    tracemalloc.start()
    with pytest.raises(SourceError) as refused:
        load_content(path, 0, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.errors == ["entry 0: the member is damaged"]
    assert peak < 4 * archives.CHUNK


def test_a_directory_that_promises_more_than_there_is(write: Any) -> None:
    path = write(patched(GOOD, FIRST, size=10_000))
    with pytest.raises(SourceError) as refused:
        load_content(path, 0, 0)
    assert refused.value.errors == ["entry 0: the member is damaged"]


def test_too_many_members_and_too_long_a_directory(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(GOOD)
    with monkeypatch.context() as patch:
        patch.setattr(archives, "MAX_MEMBERS", 5)
        with pytest.raises(SourceError, match="6 members"):
            check(path)
    monkeypatch.setattr(archives, "MAX_DIRECTORY", 100)
    with pytest.raises(SourceError, match="directory is over"):
        check(path)


def test_a_decompression_bomb_of_one_image_is_refused_by_its_header(write: Any) -> None:
    members = {"train/a/0.png": png(1), "train/a/1.png": png(1, (70_000, 1)), "train/a/2.png": png(1, (20_000, 20_000))}
    with pytest.raises(SourceError) as refused:
        load_content(write(zipped(members)), 0, 0)
    first, second = refused.value.errors
    assert first.startswith(
        "entry 1: the image has 70000 x 1 pixels; at most 134,217,728 are taken, and sides of 65,535"
    )
    assert second.startswith("entry 2: the image has")


# -- damage ----------------------------------------------------------------------------------------


def test_images_that_cannot_be_taken_are_named_by_entry(write: Any) -> None:
    members = {
        "train/": b"",
        "train/a/0.png": png(1),
        "train/a/1.png": png(1)[:-40],
        "train/a/2.png": b"no image",
        "train/a/4.png": b"",
        "train/a/5.png": INNER,
    }
    with pytest.raises(SourceError) as refused:
        load_content(write(zipped(members)), 0, 0)
    assert refused.value.errors == [
        "entry 2: the image cannot be decoded",
        "entry 3: the image cannot be decoded",
        "entry 4: there is no image",
        "entry 5: the image cannot be decoded",
    ]


def test_a_wrong_checksum_is_seen(write: Any) -> None:
    path = write(patched(GOOD, FIRST, crc=1))
    with pytest.raises(SourceError) as refused:
        load_content(path, 0, 0)
    assert refused.value.errors == ["entry 0: the member is damaged"]
    data = patched(npz(), "images.npy", crc=1)
    with pytest.raises(SourceError, match="damaged"):
        load_content(write(data), 0, 0)


@pytest.mark.parametrize("cut", [1, 30, len(GOOD) // 2, len(GOOD) - 5])
def test_an_archive_that_is_cut_off_is_refused(write: Any, cut: int) -> None:
    with pytest.raises(SourceError):
        check(write(GOOD[:-cut]))


def test_other_files_are_refused(write: Any) -> None:
    for data in (b"", b"PK", b"PK\x03\x04", b"7z\xbc\xaf'\x1c" + b"x" * 50, b"\x1f\x8b" + b"x" * 50, b"x" * 100):
        with pytest.raises(SourceError):
            check(write(data))


@settings(deadline=None)
@given(st.sampled_from([GOOD, npz()]), st.binary(max_size=60), st.floats(0, 1), st.integers(1, 40))
def test_damaged_archives_are_read_or_refused(data: bytes, junk: bytes, place: float, length: int) -> None:
    """Never another error than ours."""
    at = int(place * len(data))
    with tempfile.NamedTemporaryFile() as file:
        file.write(data[:at] + junk + data[at + length :])
        file.flush()
        with suppress(SourceError):
            load_content(Path(file.name), 0.2, 0)


# -- npz -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
def test_an_npz_is_taken(write: Any, compressed: bool) -> None:
    """numpy writes every member with zip64 fields."""
    held, whose = np.array([0, 0, 1, 0, 0, 1], bool), np.array(["eve", "", "eve", "ann", "", ""])
    path = write(npz(compressed, holdout=held, subject=whose))
    raw = load_content(path, 0.5, 0)
    assert raw.ids == [f"person-{row}" for row in range(6)]
    assert raw.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert raw.holdout.tolist() == held.tolist()
    assert raw.subjects == ["eve", None, "eve", "ann", None, None]
    assert np.array_equal(raw.images, np.arange(6 * 8 * 8 * 3).astype(np.uint8).reshape(6, 8, 8, 3))
    assert raw.class_names is None


def test_grey_images_integer_ids_and_other_byte_orders(write: Any) -> None:
    images = np.arange(6 * 4 * 5).astype(np.uint8).reshape(6, 4, 5)
    labels, ids = np.array([0, 1, 2, 0, 1, 2], ">i2"), np.arange(6)
    raw = load_content(write(npz(images=images, labels=labels, ids=ids)), 0.0, 0)
    assert raw.images.shape == (6, 4, 5, 1)
    assert np.array_equal(raw.images[..., 0], images)
    assert raw.ids == ["0", "1", "2", "3", "4", "5"]


def test_images_longer_than_a_piece_are_put_together(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 7, 128, 129, 1000):
        monkeypatch.setattr(archives, "CHUNK", size)
        assert np.array_equal(
            np.concatenate(list(archives.pixels(write(npz()), Counter()))), np.load(io.BytesIO(npz()))["images"]
        ), size


U8 = np.uint8
OBJECTS = np.empty(6, dtype=object)
OBJECTS[:] = "secret"
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no images": ({"images": None}, "an npz has the arrays"),
    "two ways to hold out": ({"holdout": np.zeros(6, bool), "split": np.array(["train"] * 6)}, "an npz has the arrays"),
    "another array": ({"weights": np.zeros(6)}, "an npz has the arrays"),
    "images of whole numbers": ({"images": np.zeros((6, 8, 8, 3), int)}, "images must be uint8"),
    "images of two dimensions": ({"images": np.zeros((6, 64), U8)}, "images must be uint8"),
    "four channels": ({"images": np.zeros((6, 8, 8, 4), U8)}, "images must be uint8"),
    "no image": ({"images": np.zeros((0, 8, 8), U8)}, "there are 0 images"),
    "empty images": ({"images": np.zeros((6, 0, 8), U8)}, "sides of 1 to 1024"),
    "large images": ({"images": np.zeros((6, 1, 1025), U8)}, "sides of 1 to 1024"),
    "fortran": ({"images": np.asfortranarray(np.zeros((6, 8, 8, 3), U8))}, "Fortran"),
    "fewer labels": ({"labels": np.zeros(5, int)}, "labels must hold integers, strings or booleans, one for each"),
    "several labels": ({"labels": np.zeros((6, 2), int)}, "each sample must have one label"),
    "float labels": ({"labels": np.zeros(6)}, "labels must hold integers"),
    "a label below 0": ({"labels": np.array([-1, 0, 0, 0, 0, 0])}, "row 0"),
    "a label beyond all": ({"labels": np.array([0, 2**63, 0, 0, 0, 0], np.uint64)}, "row 1"),
    "bytes for ids": ({"ids": np.array([b"secret"] * 6)}, "ids must hold"),
    "an id twice": ({"ids": np.array(["secret"] * 2 + list("abcd"))}, "row 1: the same id"),
    "an empty id": ({"ids": np.array(["", *"abcde"])}, "row 0"),
    "ids that are all empty": ({"ids": np.array([""] * 6)}, ""),
    "an id too long": ({"ids": np.array(["secret" * 50, *"abcde"])}, "row 0"),
    "an id like an erased one": ({"ids": np.array(["erased:secret", *"abcde"])}, "row 0"),
    "half a character": ({"ids": np.array(["\ud800secret", *"abcde"])}, "no text"),
    "integers for holdout": ({"holdout": np.zeros(6, int)}, "holdout must hold booleans"),
    "nothing to train on": ({"holdout": np.ones(6, bool)}, "no training sample"),
    "objects": ({"ids": OBJECTS}, "ids holds objects"),
    "objects as subjects": ({"subject": OBJECTS}, "subject holds objects"),
    "records": ({"labels": np.zeros(6, [("secret", int)])}, "labels holds objects or records"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays_are_refused_without_an_id(write: Any, name: str) -> None:
    changes, line = BAD[name]
    with pytest.raises(SourceError) as refused:
        check(write(npz(**changes)))
    said = refused.value.detail + " ".join(refused.value.errors)
    assert line in said
    assert "secret" not in said


ARRAYS = {"labels": npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }", b"\0" * 8)}
ARRAYS |= {"ids": npy("{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }", b"a\0\0\0")}
SHAPES: dict[str, bytes] = {
    "more than there is": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 8, 8), }", b"\0" * 64),
    "less than there is": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 8, 8), }", b"\0" * 65),
    "negative": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -8, 8), }", b"\0" * 64),
    "overflow": npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({2**62}, 8, 8), }}", b"\0" * 64),
    "true": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (True, 8, 8), }", b"\0" * 64),
    "an object": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 8, 8), }", b"\0" * 512),
    "nested deep": npy("(" * 9000),
    "code": npy("__import__('os').abort()"),
    "another version": b"\x93NUMPY\x07\x00" + b"\0" * 100,
    "no header": b"x" * 100,
    "nothing": b"",
    "a header without end": b"\x93NUMPY\x02\x00" + b"\xff\xff\xff\xff" + b" " * 20_000,
}


@pytest.mark.parametrize("name", SHAPES)
def test_hostile_array_headers_are_refused(write: Any, name: str) -> None:
    arrays = ARRAYS | {"images": SHAPES[name]}
    with pytest.raises(SourceError):
        check(write(zipped({f"{each}.npy": data for each, data in arrays.items()})))


def test_a_good_header_by_hand_is_taken(write: Any) -> None:
    image = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 8, 8), }", bytes(range(64)))
    path = write(zipped({f"{name}.npy": data for name, data in (ARRAYS | {"images": image}).items()}))
    assert load_content(path, 0.0, 0).images.reshape(-1).tolist() == list(range(64))


# -- which form ------------------------------------------------------------------------------------


def test_the_content_type_says_what_a_file_may_be(write: Any) -> None:
    cases = {"npz": npz(), "image folder": GOOD}
    for form, data in cases.items():
        for content_type, forms in FORMS.items():
            if form in forms:
                assert check(write(data), forms=forms).form == form
            else:
                with pytest.raises(SourceError, match="Content-Type"):
                    check(write(data), forms=forms)
                assert content_type != "application/zip", "takes both"
    assert set(ALL_FORMS) == {form for each in (FORMS, MANIFESTS) for forms in each.values() for form in forms}
    assert json.dumps(FORMS)
