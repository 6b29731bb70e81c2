"""The cheap checks of uploaded content: the form of the file, ids, labels and splits, without its images.

Parquet is checked here, the two kinds of zip archive (npz, image folder) in `app.archives`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MAX_ROWS = 5_000_000
MAX_CLASSES = 10_000
MAX_ID_LENGTH = 200
ERASED_PREFIX = "erased:"  # of what stands in the place of an erased id; no sample may be called so
MAX_ERRORS = 20
HOLDOUT = {"train": False, "holdout": True, "test": True}

# By Content-Type, what the file may be. A zip archive is an npz when all of its members are `.npy`.
FORMS: Mapping[str, tuple[str, ...]] = {
    "application/vnd.apache.parquet": ("parquet",),
    "application/x-npz": ("npz",),
    "application/zip": ("image folder", "npz"),
}
ALL_FORMS = ("parquet", "npz", "image folder")
MAX_SIDE = 1024  # pixels
MAX_BYTES = 16 * 2**30  # of all decoded pixels, and of all that an archive unpacks to


class SourceError(Exception):
    """A dataset that cannot be taken. `errors` names rows, counted from 0, never ids; at most 20."""

    def __init__(self, detail: str, errors: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors[:MAX_ERRORS])


@dataclass(frozen=True)
class Manifest:
    """What a file says of its samples, in its order; None where it says nothing of splits or subjects.

    class_names: by label, where the file or the client says. form: one of ALL_FORMS.
    """

    ids: list[str]
    labels: list[int]
    holdout: list[bool] | None
    subjects: list[str | None] | None = None
    class_names: list[str] | None = None
    form: str = "parquet"


def check(path: Path, class_names: Sequence[str] | None = None, forms: Sequence[str] = ALL_FORMS) -> Manifest:
    """Check content of any form; decode no image.

    class_names: by label; None: of an image folder its own, sorted. forms: those that are taken.

    Raises:
        SourceError: what is wrong with it.
    """
    from app import archives  # which imports this module

    with path.open("rb") as file:
        magic = file.read(4)
    if magic == b"PAR1":
        require_form("parquet", forms)
        found = check_parquet(path)
    elif magic == b"PK\x03\x04":
        found = archives.check(path, class_names, forms)
    else:
        raise SourceError("the file is neither Parquet nor a zip archive")
    if class_names and max(found.labels) >= len(class_names):
        raise SourceError(f"a label is beyond the {len(class_names)} classes that the dataset has names for")
    return found if class_names is None else replace(found, class_names=list(class_names))


def require_form(form: str, forms: Sequence[str]) -> None:
    if form not in forms:
        raise SourceError(f"the file is of the form {form}; its Content-Type says {' or '.join(forms)}")


def check_parquet(path: Path) -> Manifest:
    """Check a file with columns `id`, `image`, `label` and, optionally, `split`, `subject`; decode no image.

    id: string or integer. image: binary, or a struct with a binary `bytes`. label: integer in [0, 10000).
    split: `train`, `holdout` or `test` (the same as holdout). subject: whose the sample is, or null.

    Raises:
        SourceError: what is wrong with it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_schema(file.schema_arrow)
            if not 0 < file.metadata.num_rows <= MAX_ROWS:
                raise SourceError(f"the file has {file.metadata.num_rows} rows; it must have 1 to {MAX_ROWS:,}")
            wanted = [name for name in ("id", "label", "split", "subject") if name in file.schema_arrow.names]
            table = file.read(columns=wanted)
        columns = {name: table.column(name).to_pylist() for name in wanted}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError("the file is not a readable Parquet file") from error
    return manifest(columns["id"], columns["label"], columns.get("split"), columns.get("subject"))


def _check_schema(schema: Any) -> None:
    import pyarrow.types as is_type

    errors = []
    if missing := [name for name in ("id", "image", "label") if schema.names.count(name) != 1]:
        raise SourceError(f"the file must have one column each of: {', '.join(missing)}")
    for name in ("split", "subject"):
        if schema.names.count(name) > 1:
            raise SourceError(f"the file has more than one column {name}")
    kind = schema.field("id").type
    if not (is_type.is_string(kind) or is_type.is_large_string(kind) or is_type.is_integer(kind)):
        errors.append("column id must hold strings or integers")
    kind = schema.field("image").type
    if is_type.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (is_type.is_binary(kind) or is_type.is_large_binary(kind)):
        errors.append("column image must hold binary, or a struct with a binary field bytes")
    if not is_type.is_integer(schema.field("label").type):
        errors.append("column label must hold integers")
    for name in {"split", "subject"} & set(schema.names):
        kind = schema.field(name).type
        if not (is_type.is_string(kind) or is_type.is_large_string(kind)):
            errors.append(f"column {name} must hold strings")
    if errors:
        raise SourceError("the columns are not of the right types", errors)


def manifest(
    ids: Sequence[Any], labels: Sequence[Any], splits: Sequence[Any] | None, subjects: Sequence[Any] | None
) -> Manifest:
    """Check the values that any form brings.

    Raises:
        SourceError: which rows are wrong, and how.
    """
    errors: list[str] = []
    names: list[str] = []
    seen: dict[str, int] = {}
    for row, sample in enumerate(ids):
        name = "" if sample is None else str(sample)
        names.append(name)
        if not 0 < len(name) <= MAX_ID_LENGTH or "\x00" in name:
            errors.append(f"row {row}: the id must have 1 to {MAX_ID_LENGTH} characters, none of them NUL")
        elif name.startswith(ERASED_PREFIX):
            errors.append(f"row {row}: the id must not begin with {ERASED_PREFIX}")
        elif name in seen:
            errors.append(f"row {row}: the same id as row {seen[name]}")
        else:
            seen[name] = row
    errors += _rows(
        labels,
        lambda label: label is not None and 0 <= label < MAX_CLASSES,
        f"the label must be an integer from 0 to {MAX_CLASSES - 1}",
    )
    errors += _rows(splits or [], HOLDOUT.__contains__, "the split must be train, holdout or test")
    errors += _rows(
        subjects or [],
        lambda name: name is None or (0 < len(name) <= MAX_ID_LENGTH and "\x00" not in name),
        f"the subject must have 1 to {MAX_ID_LENGTH} characters, none of them NUL",
    )
    if errors:
        raise SourceError(f"{len(errors)} problems with ids, labels, splits or subjects", errors)
    holdout = None if splits is None else [HOLDOUT[split] for split in splits]
    if holdout is not None and all(holdout):
        raise SourceError("the file has no training sample")
    return Manifest(names, list(labels), holdout, None if subjects is None else list(subjects))


def _rows(values: Iterable[Any], good: Any, text: str) -> list[str]:
    return [f"row {row}: {text}" for row, value in enumerate(values) if not good(value)]
