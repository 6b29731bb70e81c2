"""The cheap checks of uploaded content, in any form: the file, ids, labels and splits, without its images.

Parquet is checked here, the two kinds of zip archive (npz, image folder) in `app.formats.archives`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.formats import archives
from app.formats.archives import MAX_COLUMN_BYTES
from app.formats.manifest import MAX_ID_LENGTH, MAX_ROWS, Manifest, SourceError, check_columns, require_form

# By Content-Type, what the file may be. A zip archive is an npz when all of its members are `.npy`.
FORMS: Mapping[str, tuple[str, ...]] = {
    "application/vnd.apache.parquet": ("parquet",),
    "application/x-npz": ("npz",),
    "application/zip": ("image folder", "npz"),
}
ALL_FORMS = ("parquet", "npz", "image folder")


def check(path: Path, class_names: Sequence[str] | None = None, forms: Sequence[str] = ALL_FORMS) -> Manifest:
    """Check content of any form; decode no image.

    class_names: by label; None: of an image folder its own, sorted. forms: those that are taken.

    Raises:
        SourceError: what is wrong with it.
    """
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


def refuse_unfit(path: str, class_names: Sequence[str] | None, forms: Sequence[str]) -> None:
    """`check` for `app.formats.sandbox`: raises SourceError, or says nothing."""
    check(Path(path), class_names, forms)


def check_parquet(path: Path) -> Manifest:
    """Check a file with columns `id`, `image`, `label` and, optionally, `split`, `subject`; decode no image.

    id: string or integer. image: binary, or a struct with a binary `bytes`. label: integer in [0, 10000).
    split: `train`, `holdout` or `test` (the same as holdout). subject: whose the sample is, or null.

    Raises:
        SourceError: what is wrong with it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {}
    try:
        with pq.ParquetFile(path) as file:
            _check_schema(file.schema_arrow)
            if not 0 < file.metadata.num_rows <= MAX_ROWS:
                raise SourceError(f"the file has {file.metadata.num_rows} rows; it must have 1 to {MAX_ROWS:,}")
            wanted = [name for name in ("id", "label", "split", "subject") if name in file.schema_arrow.names]
            _check_sizes(file.metadata, wanted)
        # As the file has them, each value once: a file of a few bytes may repeat a long one in millions of rows.
        with pq.ParquetFile(path, read_dictionary=wanted) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=wanted)
                for name in wanted:
                    column = table.column(name)
                    if longest(column) > 4 * MAX_ID_LENGTH:  # bytes of UTF-8
                        raise SourceError(f"column {name} has a value of more than {MAX_ID_LENGTH} characters")
                    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
                    columns.setdefault(name, []).extend(plain.to_pylist())
    except MemoryError:  # pyarrow's own is an ArrowException, too
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError("the file is not a readable Parquet file") from error
    return check_columns(columns["id"], columns["label"], columns.get("split"), columns.get("subject"))


def longest(column: Any) -> int:
    """Bytes of the longest value of a column that was read as a dictionary; 0 of any other."""
    import pyarrow.compute as pc

    chunks = [chunk.dictionary for chunk in getattr(column, "chunks", [column]) if hasattr(chunk, "dictionary")]
    return max((pc.max(pc.binary_length(values)).as_py() or 0 for values in chunks), default=0)


def _check_sizes(metadata: Any, names: Sequence[str]) -> None:
    sizes = dict.fromkeys(names, 0)
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema in sizes:
                sizes[column.path_in_schema] += column.total_uncompressed_size
    for name, size in sizes.items():
        if size > MAX_COLUMN_BYTES:
            raise SourceError(f"column {name} is over {MAX_COLUMN_BYTES // 2**20} MiB")


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
