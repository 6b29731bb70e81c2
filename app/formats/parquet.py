"""Parquet files of samples: their columns, checked, and their pictures as they came.

Only a child process calls this (`app.formats.sandbox`): no parser of strangers' bytes runs in one that serves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from app.formats.archives import MAX_COLUMN_BYTES, MAX_IMAGE_BYTES
from app.formats.manifest import (
    CLASS_NAME,
    MAX_ADDRESS,
    MAX_ID_LENGTH,
    MAX_ROWS,
    MULTI_LABEL,
    Columns,
    SourceError,
    check_columns,
    is_class_name,
)
from app.formats.names import normal
from app.formats.options import Options

ROWS_AT_ONCE = 1024
FEW_ROWS = 32  # where a long value that is repeated in them is there as often
# Bytes a row that a file takes: then values are hardly repeated, and looking for it costs more than reading. Below it
# few rows at once would cost more.
UNLIKELY = 4096


def read(path: Path, options: Options) -> Columns:
    """The columns of a file without its pictures.

    id (optional): text or integer. image: binary, or a struct with a binary `bytes`. label: integer, text, boolean or
    category. split (optional): a name of `HOLDOUT`. subject (optional): text, integer or null.

    Raises:
        SourceError: what is wrong with it.
    """
    return _read(path, options, "image")[0]


def referring(path: Path, options: Options) -> tuple[Columns, list[str | None]]:
    """The same of a table with a column `address` (text) instead of pictures, and what is in that."""
    return _read(path, options, "address")


def _read(path: Path, options: Options, pictures: str) -> tuple[Columns, list[Any]]:
    """pictures: the column that has them, or says where they are."""
    import pyarrow.parquet as pq

    values: dict[str, list[Any]] = {}
    with _reading():
        with pq.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            _check_schema(schema, options, pictures)
            if not 0 < metadata.num_rows <= MAX_ROWS:
                raise SourceError(f"the file has {metadata.num_rows} rows; it must have 1 to {MAX_ROWS:,}")
            wanted = [options.column(name) for name in ("id", "label", "split", "subject")]
            wanted += [options.column("address")] if pictures == "address" else []
            wanted = [name for name in wanted if name in schema.names]
            _check_sizes(metadata, wanted)
            texts = [name for name in wanted if kind_of(schema.field(name).type) == "text"]
        # As the file has them, each value once: a file of a few bytes may repeat a long one in millions of rows.
        with pq.ParquetFile(path, read_dictionary=_repeated(metadata, texts)) as file:
            for batch in file.iter_batches(batch_size=2**16, columns=wanted):
                for name in wanted:
                    column = batch.column(batch.schema.get_field_index(name))
                    most = MAX_ADDRESS if name == options.column("address") else MAX_ID_LENGTH
                    if longest(column) > 4 * most:  # bytes of UTF-8
                        raise SourceError(f"column {name} has a value of more than {most:,} characters")
                    values.setdefault(name, []).extend(_plain(column))
    ids, labels, splits, subjects = (values.get(options.column(name)) for name in ("id", "label", "split", "subject"))
    names = _class_label(schema, options.column("label"))
    if labels and isinstance(next((label for label in labels if label is not None), None), bool):
        labels, names = [None if label is None else int(label) for label in labels], ["false", "true"]
    notes = {"ids-made": len(labels or [])} if ids is None else {}
    if pictures == "address":
        found = values[options.column("address")]
        ids, notes = (ids, {}) if ids is not None else (found, {"ids-are-addresses": len(found)})
    checked = check_columns(ids, labels or [], splits, subjects, label_names=names, notes=notes)
    return checked, values.get(options.column("address"), [])


def pictures(path: Path, options: Options) -> Iterator[bytes | None]:
    """The encoded pictures of a file that was checked, in its order; None where it has none.

    Raises:
        SourceError: one is too large, or the file lies.
    """
    import pyarrow.parquet as pq
    import pyarrow.types as is_type

    with _reading():
        with pq.ParquetFile(path) as file:
            nested = is_type.is_struct(file.schema_arrow.field(options.column("image")).type)
            name = options.column("image") + (".bytes" if nested else "")
            # Within a struct the reader can do neither that nor a batch of two row groups; there few are read at once.
            repeated = [] if nested or _average(file.metadata, name) > UNLIKELY else _repeated(file.metadata, [name])
            groups, rows = file.num_row_groups, ROWS_AT_ONCE if repeated else FEW_ROWS
        with pq.ParquetFile(path, read_dictionary=repeated) as file:
            batches = (file.iter_batches(rows, [group], [name]) for group in range(groups))
            for batch in chain.from_iterable(batches):
                images = batch.column(0).field("bytes") if nested else batch.column(0)
                if longest(images) > MAX_IMAGE_BYTES:
                    raise SourceError(f"an image is over {MAX_IMAGE_BYTES // 2**20} MiB")
                if longest(images) * len(images) <= MAX_IMAGE_BYTES:
                    yield from images.to_pylist()
                else:  # one after the other: a long one may be repeated in every row
                    yield from (cell.as_py() for cell in images)


@contextmanager
def _reading() -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except MemoryError:  # pyarrow's own is an ArrowException, too
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:  # the system's, not the file's
            raise
        if "Not yet implemented" in str(error):
            raise SourceError("a column has an encoding that cannot be read; write it with a dictionary") from error
        raise SourceError("the file is not a readable Parquet file") from error


def kind_of(kind: Any) -> str:
    """What an Arrow type holds, however it stores it: text, integer, boolean, binary, list or something else."""
    import pyarrow.types as is_type

    if is_type.is_dictionary(kind):
        kind = kind.value_type
    if is_type.is_string(kind) or is_type.is_large_string(kind) or is_type.is_string_view(kind):
        return "text"
    if is_type.is_integer(kind):
        return "integer"
    if is_type.is_boolean(kind):
        return "boolean"
    if is_type.is_binary(kind) or is_type.is_large_binary(kind) or is_type.is_binary_view(kind):
        return "binary"
    if is_type.is_list(kind) or is_type.is_large_list(kind) or is_type.is_fixed_size_list(kind):
        return "list"
    return str(kind)


def longest(column: Any) -> int:
    """Bytes of the longest value of a column of text or binary, each different value of a dictionary once; else 0."""
    import pyarrow.compute as pc

    chunks = getattr(column, "chunks", [column])
    values = [chunk.dictionary if hasattr(chunk, "dictionary") else chunk for chunk in chunks]
    known = [each for each in values if kind_of(each.type) in ("text", "binary")]
    return max((pc.max(_length(each)).as_py() or 0 for each in known), default=0)


def _length(values: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string_view(values.type) or pa.types.is_binary_view(values.type):
        values = values.cast(pa.large_binary())
    return pc.binary_length(values)


def _plain(column: Any) -> list[Any]:
    import pyarrow as pa

    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    found: list[Any] = plain.to_pylist()
    return found


def _repeated(metadata: Any, names: Sequence[str]) -> list[str]:
    """Those of the columns that can be read with each value once: the reader has no such way for DELTA encodings."""
    wanted, wrong = set(names), set()
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema in wanted and any("DELTA" in each for each in column.encodings):
                wrong.add(column.path_in_schema)
    return sorted(wanted - wrong)


def _average(metadata: Any, name: str) -> float:
    """Bytes a row that a column takes in the file, uncompressed."""
    sizes = [
        column.total_uncompressed_size
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for column in map(group.column, range(group.num_columns))
        if column.path_in_schema == name
    ]
    average: float = sum(sizes) / max(1, metadata.num_rows)
    return average


def _class_label(schema: Any, label: str) -> list[str] | None:
    """The names of a `ClassLabel` that the library `datasets` leaves in a file's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"] if features[label].get("_type") == "ClassLabel" else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    names = [normal(name) for name in names]
    if not all(map(is_class_name, names)):
        raise SourceError(f"a label name in the file's metadata must have {CLASS_NAME}")
    if len(set(names)) < len(names):
        raise SourceError("the label names in the file's metadata are not distinct")
    return names


def _check_sizes(metadata: Any, names: Sequence[str]) -> None:
    sizes = dict.fromkeys(names, 0)
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema in sizes:
                sizes[column.path_in_schema] += column.total_uncompressed_size
    for name, size in sizes.items():
        if size > MAX_COLUMN_BYTES:
            raise SourceError(f"column {name} is over {MAX_COLUMN_BYTES // 2**20} MiB")


def _check_schema(schema: Any, options: Options, pictures: str) -> None:
    import pyarrow.types as is_type

    errors = []
    called = {name: options.column(name) for name in ("id", pictures, "label", "split", "subject")}
    if missing := [called[name] for name in (pictures, "label") if schema.names.count(called[name]) != 1]:
        raise SourceError(
            f"the file must have one column each of: {', '.join(missing)}. Name others in the source's `columns`"
        )
    for name in ("id", "split", "subject"):
        if schema.names.count(called[name]) > 1:
            raise SourceError(f"the file has more than one column {called[name]}")
    for name in ("id", "subject"):
        if called[name] in schema.names and kind_of(schema.field(called[name]).type) not in ("text", "integer"):
            errors.append(f"column {called[name]} must hold strings or integers")
    kind = schema.field(called[pictures]).type
    if is_type.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if pictures == "image" and kind_of(kind) != "binary":
        errors.append(f"column {called['image']} must hold binary, or a struct with a binary field bytes")
    if pictures == "address" and kind_of(kind) != "text":
        errors.append(f"column {called['address']} must hold strings")
    kind = kind_of(schema.field(called["label"]).type)
    if kind == "list":
        errors.append(f"column {called['label']} holds lists: {MULTI_LABEL}")
    elif kind not in ("integer", "text", "boolean"):
        errors.append(f"column {called['label']} must hold integers, strings, categories or booleans")
    if called["split"] in schema.names and kind_of(schema.field(called["split"]).type) != "text":
        errors.append(f"column {called['split']} must hold strings")
    if errors:
        raise SourceError("the columns are not of the right types", errors)
