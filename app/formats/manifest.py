"""What uploaded content says of its samples, and the rules that its values obey in whatever form they come."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.formats.names import normal

MAX_ROWS = 5_000_000
MAX_CLASSES = 10_000
MAX_ID_LENGTH = 200
MAX_ADDRESS = 1100  # characters: S3 keys have up to 1,024 bytes
MAX_SIDE = 1024  # pixels, of arrays; of an encoded picture see `app.formats.pictures`
MAX_BYTES = 16 * 2**30  # of all pixels of arrays, and of all that an archive unpacks to
MAX_ERRORS = 20
ERASED_PREFIX = "erased:"  # of what stands in the place of an erased id; no sample may be called so
HOLDOUT = {"train": False, "holdout": True, "test": True, "val": True, "validation": True, "valid": True}
SPLITS = ", ".join(HOLDOUT)
NO_TRAINING = "the file has no training sample"
MULTI_LABEL = (
    "each sample must have one label. Lethe unlearns classifiers of one class a sample; data with several labels a "
    "sample are not taken"
)
CLASS_NAME = f"1 to {MAX_ID_LENGTH} characters, none of them a control character"
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class SourceError(Exception):
    """A dataset that cannot be taken. `errors` names rows, counted from 0, never ids; at most 20."""

    def __init__(self, detail: str, errors: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors[:MAX_ERRORS])


@dataclass(frozen=True)
class Columns:
    """What one file says of its samples, in its order.

    ids: None where it has none; they are then made from the contents. labels: all integers or all names.
    label_names: by integer label, where the file has them. holdout, subjects: None where it says nothing of them.
    form: as in `app.formats.uploads.FORMS`. notes: what was made of the file, by a code of `NOTES`, with the number
    of samples.
    """

    rows: int
    ids: list[str] | None
    labels: list[Any]
    label_names: list[str] | None
    holdout: list[bool] | None
    subjects: list[str | None] | None
    form: str
    notes: dict[str, int] = field(default_factory=dict)
    entries: list[int] | None = None  # of archives, the place in the listing of each sample
    addresses: list[str] | None = None  # of pictures that stay where they are (`app.formats.addresses`)


NOTES = {
    "ids-made": "the file has no ids; each is made from the content of its picture",
    "ids-are-addresses": "the manifest has no ids; each is the address of its picture",
    "ids-composed": "ids and subjects were written in decomposed Unicode; they are kept composed (NFC)",
    "labels-with-gaps": "the labels have gaps; each label that occurs is a class, named by its number",
    "root-folder": "all lay in one folder; its name is not part of the ids",
    "folders-within-classes": "pictures lie in folders within that of their class; they belong to the class",
    "axes-either": "the array could have its channels first or last; it was taken as (N, H, W, C)",
    "channels-first": "the array has its channels first (N, C, H, W); they are kept last",
    "floats": "pixels were floats in [0, 1]; they are kept as 8 bits",
    "16-bit": "pixels had 16 bits; they are kept as 8 bits",
    "12-bit": "pixels had 12 bits; they are kept as 8 bits",
    "few-levels": "pixels had 16 bits and values below 4,096 alone, of which 8 bits keep 16 levels; if they have 12 "
    "bits or fewer, multiply them before you send them",
    "holdout-drawn": "no file says which samples are held out; these were drawn at random",
    "no-split": "some files name no split beside files that do; their samples are for training",
    "untrained": "the holdout has samples of classes that no training sample has",
    "passed-over": "files that are neither pictures nor labels, begin with a dot or are left by file managers were "
    "passed over",
    "turned": "turned as their orientation (EXIF) says",
    "transparent": "transparent pictures were laid on white",
    "cmyk": "CMYK became RGB without a colour profile",
    "1-bit": "black and white became 0 and 255",
    "palette": "colours of a palette became RGB",
    "first-frame": "of several frames or pages the first is kept as the picture",
    "left-out": "erased before; left out",
}
"""What was converted, for the ingest report."""


@dataclass(frozen=True)
class Manifest:
    """What all files of a dataset say of its samples, in their order; None where they say nothing.

    class_names: by label, where files or the client say.
    """

    ids: list[str] | None
    labels: list[int]
    holdout: list[bool] | None
    subjects: list[str | None] | None
    class_names: list[str] | None
    form: str
    notes: dict[str, int]


def check_columns(
    ids: Sequence[Any] | None,
    labels: Sequence[Any],
    splits: Sequence[Any] | None,
    subjects: Sequence[Any] | None,
    *,
    form: str = "parquet",
    label_names: Sequence[str] | None = None,
    notes: dict[str, int] | None = None,
    entries: list[int] | None = None,
) -> Columns:
    """Check the values that any form brings. entries: of archives, by which errors name samples; else by their rows.

    Raises:
        SourceError: which rows are wrong, and how.
    """
    errors: list[str] = []
    composed = 0
    names: list[str] | None = None
    whole = Columns(len(labels), None, [], None, None, None, form, {}, entries)

    def faults(values: Iterable[Any], good: Callable[[Any], bool], text: str) -> list[str]:
        return [f"{_place(whole, row)}: {text}" for row, value in enumerate(values) if not good(value)]

    if ids is not None:
        names, wrong = [], {}
        for row, sample in enumerate(ids):
            sent = "" if sample is None else str(sample)
            name = normal(sent)
            composed += name != sent
            names.append(name)
            if not 0 < len(name) <= MAX_ID_LENGTH or "\x00" in name:
                wrong[row] = f"the id must have 1 to {MAX_ID_LENGTH} characters, none of them NUL"
            elif name.startswith(ERASED_PREFIX):
                wrong[row] = f"the id must not begin with {ERASED_PREFIX}"
        for row, first in repeated(names):
            wrong.setdefault(row, f"the same id as {_place(whole, first)}")
        errors = [f"{_place(whole, row)}: {wrong[row]}" for row in sorted(wrong)]
    errors += faults(labels, *_label_rule(labels, label_names))
    errors += faults(splits or [], HOLDOUT.__contains__, f"the split must be one of {SPLITS}")
    people: list[str | None] | None = None
    if subjects is not None:
        people = [None if name is None else normal(str(name)) for name in subjects]
        composed += sum(name is not None and name != str(sent) for name, sent in zip(people, subjects, strict=True))
        errors += faults(
            people,
            lambda name: name is None or (0 < len(name) <= MAX_ID_LENGTH and "\x00" not in name),
            f"the subject must have 1 to {MAX_ID_LENGTH} characters, none of them NUL",
        )
    if errors:
        raise SourceError(
            f"{len(errors)} problem{'s' * (len(errors) > 1)} with ids, labels, splits or subjects", errors
        )
    holdout = None if splits is None else [HOLDOUT[split] for split in splits]
    told = dict(notes or {}) | ({"ids-composed": composed} if composed else {})
    given = list(label_names) if label_names is not None else None
    plain = [normal(label) for label in labels] if labels and isinstance(labels[0], str) else list(labels)
    return Columns(len(labels), names, plain, given, holdout, people, form, told, entries)


def repeated(names: Sequence[str]) -> list[tuple[int, int]]:
    """Rows whose name an earlier row has, with the first such row. By their hashes: a table of millions is large."""
    hashes = np.fromiter(map(hash, names), np.int64, len(names))
    order = np.argsort(hashes, kind="stable")
    alike = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    seen: dict[str, int] = {}
    rows = np.sort(order[np.union1d(alike, alike + 1)]).tolist()
    return [(row, first) for row in rows if (first := seen.setdefault(names[row], row)) != row]


def _label_rule(labels: Sequence[Any], names: Sequence[str] | None) -> tuple[Callable[[Any], bool], str]:
    if any(isinstance(label, str) for label in labels):
        return is_class_name, f"the label must have {CLASS_NAME}"
    most = 2**53 if names is None else len(names)
    text = f"the label must be an integer from 0{f' to {most - 1}' if names is not None else ''}"
    return lambda label: label is not None and 0 <= label < most, text


def is_class_name(label: Any) -> bool:
    return isinstance(label, str) and 0 < len(label) <= MAX_ID_LENGTH and not _CONTROL.search(label)


def join(parts: Sequence[Columns], class_names: Sequence[str] | None = None) -> Manifest:
    """One manifest of the files of a dataset. class_names: by label, where the client says.

    Raises:
        SourceError: an id in two files, classes that do not fit together, nothing to train on.
    """
    notes: dict[str, int] = {}
    for part in parts:
        for code, count in part.notes.items():
            notes[code] = notes.get(code, 0) + count
    _refuse_shared_ids(parts)
    holdout = _holdout(parts, notes)
    labels, names = _classes(parts, class_names, notes)
    if holdout is not None:
        trained = {label for label, held in zip(labels, holdout, strict=True) if not held}
        if untrained := sum(label not in trained for label in labels):
            notes["untrained"] = untrained
    subjects = None
    if any(part.subjects is not None for part in parts):
        subjects = [name for part in parts for name in part.subjects or [None] * part.rows]
    ids = None if any(part.ids is None for part in parts) else [name for part in parts for name in part.ids or []]
    forms = {part.form for part in parts}
    return Manifest(ids, labels, holdout, subjects, names, forms.pop() if len(forms) == 1 else "several", notes)


def place_of(parts: Sequence[Columns], row: int) -> str:
    """How an error names a row of all: its row or its entry, and its file as well where there are several."""
    if len(parts) == 1:
        return _place(parts[0], row)
    for number, part in enumerate(parts):
        if row < part.rows:
            return f"shard {number}, {_place(part, row)}"
        row -= part.rows
    raise IndexError(row)


def _place(part: Columns, row: int) -> str:
    return f"row {row}" if part.entries is None else f"entry {part.entries[row]}"


def _refuse_shared_ids(parts: Sequence[Columns]) -> None:
    if len(parts) < 2:
        return
    named = [(number, part) for number, part in enumerate(parts) if part.ids is not None]

    def place(row: int) -> str:
        for number, part in named:
            if row < part.rows:
                return f"shard {number}, {_place(part, row)}"
            row -= part.rows
        raise IndexError(row)

    pairs = repeated([name for _, part in named for name in part.ids or []])
    errors = [f"{place(row)}: the same id as {place(first)}" for row, first in pairs]
    if errors:
        raise SourceError(f"{len(errors)} ids are in two shards", errors)


def _holdout(parts: Sequence[Columns], notes: dict[str, int]) -> list[bool] | None:
    if all(part.holdout is None for part in parts):
        return None
    if unsaid := sum(part.rows for part in parts if part.holdout is None):
        notes["no-split"] = unsaid
    holdout = [held for part in parts for held in part.holdout or [False] * part.rows]
    if all(holdout):
        raise SourceError(NO_TRAINING)
    return holdout


def _classes(
    parts: Sequence[Columns], class_names: Sequence[str] | None, notes: dict[str, int]
) -> tuple[list[int], list[str] | None]:
    """Labels as places in the list of classes, and that list; None where classes have numbers only.

    Where files say their class names in an order, that is kept, and what others add follows.
    """
    named = [bool(part.label_names) or isinstance(part.labels[0], str) for part in parts]
    if class_names is not None:
        names = [normal(name) for name in class_names]
        values = [name for part in parts for name in _texts(part, names)]
        return _placed(parts, values, names), names
    if all(named):
        values = [name for part in parts for name in _texts(part)]
        said = dict.fromkeys(name for part in parts for name in part.label_names or [])
        names = [*said, *sorted(set(values) - said.keys())]
        return _placed(parts, values, names), names
    if not all(_are_numbers(part.label_names) for part, each in zip(parts, named, strict=True) if each):
        raise SourceError(
            "some shards have class names as labels and others have numbers; if the numbers are places in a list of "
            "names, state it as the source's `class_names`"
        )
    numbers = [int(label) for part in parts for label in (_texts(part) if part.label_names else part.labels)]
    occurring = sorted(set(numbers))
    _refuse_too_many(len(occurring))
    if len(occurring) == occurring[-1] + 1:
        return numbers, None
    notes["labels-with-gaps"] = len(numbers)
    place = {label: number for number, label in enumerate(occurring)}
    return [place[label] for label in numbers], [str(label) for label in occurring]


def _are_numbers(names: Sequence[str] | None) -> bool:
    """Whether class names are numbers, as those of integers with gaps are."""
    return bool(names) and all(_NUMBER.fullmatch(name) for name in names or ())


def _texts(part: Columns, known: Sequence[str] = ()) -> Sequence[str]:
    """The class names of the samples. known: those of the client, whose places, or names, numbers are."""
    if part.label_names:
        return [part.label_names[label] for label in part.labels]
    if isinstance(part.labels[0], str):
        return part.labels
    if all(name.isdecimal() for name in known):
        return [str(label) for label in part.labels]
    if max(part.labels) >= len(known):
        raise SourceError(f"a label is beyond the {len(known)} classes that the dataset has names for")
    return [known[label] for label in part.labels]


def _placed(parts: Sequence[Columns], labels: Sequence[str], known: Sequence[str]) -> list[int]:
    _refuse_too_many(len(known))
    place = {name: number for number, name in enumerate(known)}
    unknown = [row for row, label in enumerate(labels) if label not in place]
    if unknown:
        whose = "the dataset's class names"
        raise SourceError(
            f"{len(unknown)} samples are of a class that is not among {whose}",
            [f"{place_of(parts, row)}: the class is not among {whose}" for row in unknown[:MAX_ERRORS]],
        )
    return [place[label] for label in labels]


def _refuse_too_many(classes: int) -> None:
    if classes > MAX_CLASSES:
        raise SourceError(f"there are {classes:,} classes; at most {MAX_CLASSES:,} are taken")


def require_form(form: str, forms: Sequence[str]) -> None:
    if form not in forms:
        raise SourceError(f"the file is of the form {form}; its Content-Type says {' or '.join(forms)}")
