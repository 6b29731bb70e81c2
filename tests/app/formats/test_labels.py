"""Labels as people have them: numbers, names, categories, `ClassLabel`s, booleans, with gaps; and what is no label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.formats import manifest
from app.formats.manifest import Manifest, SourceError, check_columns, join, repeated
from app.formats.options import Options
from app.formats.uploads import check, read
from tests.app.formats.archive_cases import npz


def table(path: Path, labels: Any, names: list[str] | None = None, **more: Any) -> Path:
    n = len(labels)
    made = pa.table({"id": [f"person-{row}" for row in range(n)], "image": [b"x"] * n, "label": labels} | more)
    if names is not None:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(made, path / "data.parquet")
    return path / "data.parquet"


CATEGORIES = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1]), ["ant", "bee"])
# Labels, label names of the file, class names of the client; what is kept, and what is told.
TAKEN: dict[str, tuple[Any, Any, Any, list[int], Any, dict[str, int]]] = {
    "numbers": ([0, 1, 2], None, None, [0, 1, 2], None, {}),
    "names": (["bee", "ant", "bee"], None, None, [1, 0, 1], ["ant", "bee"], {}),
    "large strings": (pa.array(["b", "a"], pa.large_string()), None, None, [1, 0], ["a", "b"], {}),
    "views": (pa.array(["b", "a"], pa.string_view()), None, None, [1, 0], ["a", "b"], {}),
    "categories": (CATEGORIES, None, None, [1, 0, 1], ["ant", "bee"], {}),
    "a ClassLabel": ([1, 0, 1], ["cat", "ant", "bee"], None, [1, 0, 1], ["cat", "ant", "bee"], {}),
    "booleans": ([True, False, True], None, None, [1, 0, 1], ["false", "true"], {}),
    "gaps": ([0, 1000, 42, 7], None, None, [0, 3, 2, 1], ["0", "7", "42", "1000"], {"labels-with-gaps": 4}),
    "none is zero": ([1, 2], None, None, [0, 1], ["1", "2"], {"labels-with-gaps": 2}),
    "numbers of named classes": ([0, 2], None, ["x", "y", "z"], [0, 2], ["x", "y", "z"], {}),
    "numbers as names": ([7, 1000], None, ["1000", "7"], [1, 0], ["1000", "7"], {}),
    "names in another order": (["ant", "bee"], None, ["bee", "ant"], [1, 0], ["bee", "ant"], {}),
    "a ClassLabel in another order": ([0, 1], ["ant", "bee"], ["bee", "ant"], [1, 0], ["bee", "ant"], {}),
    "decomposed and composed": (["e\u0301", "\u00e9"], None, None, [0, 0], ["\u00e9"], {}),
    "a decomposed ClassLabel": ([1, 0], ["e\u0301", "b"], None, [1, 0], ["\u00e9", "b"], {}),
    "decomposed names of the client": (["\u00e9", "b"], None, ["b", "e\u0301"], [1, 0], ["b", "\u00e9"], {}),
    "numbers of decomposed names": ([0, 1], None, ["b", "e\u0301"], [0, 1], ["b", "\u00e9"], {}),
    "a very large number": ([2**40, 0], None, None, [1, 0], ["0", str(2**40)], {"labels-with-gaps": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_labels_become_places_in_a_list_of_classes(tmp_path: Path, name: str) -> None:
    labels, names, class_names, kept, classes, told = TAKEN[name]
    found = check(table(tmp_path, labels, names), class_names)
    assert (found.labels, found.class_names, found.notes) == (kept, classes, told)


REFUSED: dict[str, tuple[Any, Any, Any, str]] = {
    "lists": ([[0, 1], [1]], None, None, "each sample must have one label"),
    "floats": ([0.0, 1.0], None, None, "integers, strings, categories or booleans"),
    "a missing number": ([0, None], None, None, "row 1: the label must be"),
    "a missing name": (["a", None], None, None, "row 1: the label must"),
    "a missing boolean": ([True, None], None, None, "row 1: the label must"),
    "an empty name": (["a", ""], None, None, "row 1: the label must"),
    "a long name": (["a", "x" * 201], None, None, "row 1: the label must"),
    "a name of two lines": (["a", "b\nc"], None, None, "row 1: the label must"),
    "below zero": ([0, -1], None, None, "row 1: the label must be"),
    "unlabelled, as the library datasets has it": ([0, -1], ["a", "b"], None, "row 1: the label must be an integer"),
    "beyond its label names": ([0, 2], ["a", "b"], None, "row 1: the label must be an integer from 0 to 1"),
    "label names that are one": ([0, 1], ["a", "a"], None, "not distinct"),
    "label names that are one composed": ([0, 1], ["e\u0301", "\u00e9"], None, "not distinct"),
    "an empty label name": ([0, 0], ["a", ""], None, "a label name in the file's metadata must have 1 to 200"),
    "a long label name": ([0, 0], ["a", "x" * 201], None, "a label name in the file's metadata must"),
    "a label name of two lines": ([0, 0], ["a", "b\nc"], None, "a label name in the file's metadata must"),
    "a name that the client lacks": (["ant", "wasp"], None, ["ant"], "row 1: the class is not among"),
    "a number that the client lacks": ([0, 2], None, ["x", "y"], "beyond the 2 classes"),
    "too many classes": (list(range(10_001)), None, None, "at most 10,000"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_label_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    labels, names, class_names, line = REFUSED[name]
    with pytest.raises(SourceError) as refused:
        check(table(tmp_path, labels, names), class_names)
    said = refused.value.detail + " ".join(refused.value.errors)
    assert line in said
    assert "person" not in said
    assert "wasp" not in said


def test_metadata_that_are_no_label_names_are_passed_over(tmp_path: Path) -> None:
    path = table(tmp_path, [0, 1])
    for text in (b"", b"{", b"[]", b'{"info": 1}', b'{"info": {"features": {"label": {"names": 1}}}}', b"\xff"):
        pq.write_table(pq.read_table(path).replace_schema_metadata({b"huggingface": text}), path)
        assert check(path).class_names is None


def test_columns_of_other_names_are_named_by_the_client(tmp_path: Path) -> None:
    path = table(tmp_path, [5, 6], None, fine_label=[0, 1], img=[b"y"] * 2)
    options = Options({"label": "fine_label", "image": "img"})
    assert read(path, options).labels == [0, 1]
    with pytest.raises(SourceError, match=r"one column each of: coarse\. Name others in the source's `columns`"):
        read(path, Options({"label": "coarse"}))


@pytest.mark.parametrize(
    ("labels", "kept", "classes"),
    [
        (np.array(["b", "a", "b", "a", "b", "a"]), [1, 0] * 3, ["a", "b"]),
        (np.array([True, False] * 3), [1, 0] * 3, ["false", "true"]),
        (np.array([[0], [1], [2]] * 2), [0, 1, 2] * 2, None),
    ],
)
def test_labels_of_an_npz(tmp_path: Path, labels: Any, kept: list[int], classes: Any) -> None:
    (tmp_path / "a").write_bytes(npz(labels=labels))
    found = check(tmp_path / "a")
    assert (found.labels, found.class_names) == (kept, classes)


# -- several files ---------------------------------------------------------------------------------


def joined(*labels: Any, names: Any = None, client: Any = None, splits: Any = None) -> Manifest:
    """`labels` of several files; names: label names of each."""
    parts = []
    for number, each in enumerate(labels):
        ids = [f"{number}-{row}" for row in range(len(each))]
        given = names[number] if names else None
        parts.append(check_columns(ids, each, splits[number] if splits else None, None, label_names=given))
    return join(parts, client)


def test_classes_are_those_of_all_files() -> None:
    found = joined(["bee", "ant"], ["cat", "ant"])
    assert (found.labels, found.class_names) == ([1, 0, 2, 0], ["ant", "bee", "cat"])
    assert joined([0, 2], [1]).class_names is None, "no gap, once all have come"
    found = joined([0, 1], [0], names=[["x", "y"], ["z"]])
    assert (found.labels, found.class_names) == ([0, 1, 2], ["x", "y", "z"])


def test_classes_of_files_that_say_an_order_keep_it_and_others_follow() -> None:
    """As those of a file that another dataset has: the numbers of classes do not change in silence."""
    found = joined([0, 1], ["wasp", "bee"], names=[["cat", "ant"], None])
    assert (found.labels, found.class_names) == ([0, 1, 3, 2], ["cat", "ant", "bee", "wasp"])


def test_numbers_that_are_names_join_with_numbers() -> None:
    found = joined([0, 2, 1], [42, 1000], names=[["0", "7", "42"], None])
    assert (found.labels, found.class_names) == ([0, 2, 1, 2, 3], ["0", "7", "42", "1000"])
    assert found.notes == {"labels-with-gaps": 5}
    assert joined([0, 1], [1], names=[["0", "2"], None]).class_names is None, "no gap any more"


def test_numbers_are_places_in_the_clients_list_beside_names() -> None:
    found = joined([1, 0], [0, 2], names=[["bee", "cat"], None], client=["ant", "bee", "cat"])
    assert (found.labels, found.class_names) == ([2, 1, 0, 2], ["ant", "bee", "cat"])
    with pytest.raises(SourceError, match="beyond the 2 classes"):
        joined(["a"], [2], client=["a", "b"])


def test_files_that_do_not_fit_together_are_refused() -> None:
    for labels, names in (((["a"], [0]), None), ((["1"], [0]), None), (([0], [0]), [["a"], None])):
        with pytest.raises(
            SourceError, match=r"some shards have class names .* state it as the source's `class_names`"
        ):
            joined(*labels, names=names)
    parts = [check_columns(["a", "b"], [0, 1], None, None), check_columns(["c", "a"], [0, 1], None, None)]
    with pytest.raises(SourceError, match="1 ids are in two shards") as refused:
        join(parts)
    assert refused.value.errors == ["shard 1, row 1: the same id as shard 0, row 0"]


def test_ids_that_are_there_twice_are_named_by_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["b", "a", "c", "a", "b", "a", "d"]
    found = [(3, 1), (4, 0), (5, 1)]
    assert repeated(names) == found
    monkeypatch.setattr(manifest, "hash", lambda _: 7, raising=False)  # names of one hash are not the same
    assert repeated(names) == found
    assert repeated([]) == []
    parts = [check_columns(ids, [0, 1], None, None) for ids in (["a", "b"], None, ["c", "b"])]
    with pytest.raises(SourceError) as refused:
        join(parts)
    assert refused.value.errors == ["shard 2, row 1: the same id as shard 0, row 1"]


def test_a_class_that_only_the_holdout_has_is_taken_and_told() -> None:
    found = joined(["a", "b", "b"], splits=[["train", "validation", "test"]])
    assert (found.class_names, found.notes) == (["a", "b"], {"untrained": 2})


def test_a_file_without_splits_beside_one_with_them_is_for_training() -> None:
    found = joined([0, 1], [1], splits=[None, ["val"]])
    assert found.holdout == [False, False, True]
    assert found.notes == {"no-split": 2}
    with pytest.raises(SourceError, match="no training sample"):
        joined([0], [0], splits=[["test"], ["valid"]])
