"""Manifests of addresses: CSV, NDJSON or Parquet that say where the pictures of a dataset lie, and stay.

An address is `s3://bucket/key`. Only a child process reads manifests (`app.formats.sandbox`). What is allowed is a list
of `bucket/prefix/`, or of `bucket/` for all of a bucket.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

from app.formats import parquet
from app.formats.archives import (
    BUT_CLUTTER,
    MAX_COLUMN_BYTES,
    fault_of_name,
    images_of,
    is_clutter,
    notes_of,
    splits_of,
)
from app.formats.manifest import (
    MAX_ADDRESS,
    MAX_ERRORS,
    MAX_ROWS,
    Columns,
    SourceError,
    check_columns,
    repeated,
    require_form,
)
from app.formats.options import Options

_ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(.+)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
MOST_BEFORE = 4096  # bytes, of white space and blank lines before what tells the form
DELIMITERS = (",", ";", "\t")
NAMES = ("address", "id", "label", "split", "subject")
LAYOUT = "a manifest has an address and a label for each sample and, optionally, an id, a split and a subject"
OUTSIDE = "the address lies outside of the storage that this service may read"


def parts(address: str) -> tuple[str, str]:
    """Bucket and key of an address, or of a prefix that ends with `/`.

    Raises:
        ValueError: it is none; says why.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or len(address) > MAX_ADDRESS or len(match[2].encode()) > 1024:
        raise ValueError("an address is s3://bucket/key")
    # Some storages read such keys as paths, and would give what lies elsewhere.
    if _CONTROL.search(match[2]) or {"", ".", ".."} & set(match[2].removesuffix("/").split("/")):
        raise ValueError("the key must be a plain path")
    return match[1], match[2]


def fault_of(address: Any, allowed: Sequence[str]) -> str:
    """What is wrong with the address; nothing where it is one of an object that may be read."""
    try:
        bucket, key = parts(address if isinstance(address, str) else "")
    except ValueError as error:
        return str(error)
    if key.endswith("/"):
        return "an address is s3://bucket/key"
    return "" if f"{bucket}/{key}".startswith(tuple(allowed)) else OUTSIDE


def read(path: Path, options: Options, forms: Sequence[str]) -> Columns:
    """A manifest with the addresses of its samples.

    Raises:
        SourceError: which rows are wrong, and how; never an address.
    """
    with path.open("rb") as file:
        first = file.read(MOST_BEFORE)
    if first.startswith(b"PAR1"):
        require_form("parquet", forms)
        found, addresses = parquet.referring(path, options)
    else:
        begins = first.removeprefix(codecs.BOM_UTF8).lstrip()
        found, addresses = _read_text(path, options, "ndjson" if begins.startswith(b"{") else "csv", forms)
    faults = ((row, fault_of(address, options.allowed or ())) for row, address in enumerate(addresses))
    errors = [f"row {row}: {fault}" for row, fault in faults if fault]
    pairs = repeated([str(address) for address in addresses])
    errors += [f"row {row}: the same address as row {first}" for row, first in pairs]
    if errors:
        raise SourceError(f"{len(errors)} addresses cannot be taken", errors)
    return replace(found, form="addresses", addresses=[str(address) for address in addresses])


def _read_text(path: Path, options: Options, form: str, forms: Sequence[str]) -> tuple[Columns, list[Any]]:
    require_form(form, forms)
    if path.stat().st_size > MAX_COLUMN_BYTES:
        raise SourceError(f"the manifest is over {MAX_COLUMN_BYTES // 2**20} MiB; use Parquet, or several files")
    values: dict[str, list[Any]] = {name: [] for name in NAMES}
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:  # only LF and CRLF end a line
            for row in _csv(file, options) if form == "csv" else _ndjson(file, options):
                for name, value in zip(NAMES, row, strict=True):
                    values[name].append(value)
                if len(values["label"]) > MAX_ROWS:
                    raise SourceError(f"the manifest has more than {MAX_ROWS:,} rows")
    except UnicodeDecodeError:
        raise SourceError("the manifest is not UTF-8 text") from None
    addresses, labels = values["address"], values["label"]
    if not labels:
        raise SourceError("the manifest has no row")
    if form == "csv" and all(isinstance(label, str) and re.fullmatch("0|[1-9][0-9]{0,15}", label) for label in labels):
        labels = [int(label) for label in labels]
    if wrong := [row for row, label in enumerate(labels) if not isinstance(label, str | int)]:
        lines = [f"row {row}: the label must be an integer or a name" for row in wrong[:MAX_ERRORS]]
        raise SourceError(f"{len(wrong)} samples have no label", lines)
    if len({isinstance(label, str) for label in labels}) > 1:
        labels = [str(label) for label in labels]
    ids, splits, subjects = (
        values[name] if any(value is not None for value in values[name]) else None
        for name in ("id", "split", "subject")
    )
    notes = {} if ids is not None else {"ids-are-addresses": len(labels)}
    return check_columns(addresses if ids is None else ids, labels, splits, subjects, notes=notes), addresses


def _csv(file: io.TextIOWrapper, options: Options) -> Iterator[list[str | None]]:
    first = next((line for line in iter(lambda: file.readline(2**16), "") if line.strip()), "")
    file.seek(0)
    delimiter = max(DELIMITERS, key=first.count)
    try:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        header = [name.strip() for name in next((row for row in rows if row), [])]
        place = _places(header, options)
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise SourceError(f"line {rows.line_num} of the manifest has {len(row)} values, not {len(header)}")
            yield [None if at is None else row[at] or None for at in place]
    except csv.Error as error:
        raise SourceError("the manifest is not a readable CSV file") from error


def _places(header: Sequence[str], options: Options) -> list[int | None]:
    called = [options.column(name) for name in NAMES]
    if repeated := [name for name in called if header.count(name) > 1]:
        raise SourceError(f"the manifest has more than one column {repeated[0]}")
    if missing := [options.column(name) for name in ("address", "label") if options.column(name) not in header]:
        raise SourceError(f"the manifest has no column {' and no column '.join(missing)}: {LAYOUT}")
    return [header.index(name) if name in header else None for name in called]


def _ndjson(file: io.TextIOWrapper, options: Options) -> Iterator[list[Any]]:
    called = [options.column(name) for name in NAMES]
    for number, line in enumerate(file):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise SourceError(f"line {number + 1} of the manifest is no JSON object: {LAYOUT}")
        row = [said.get(name) for name in called]
        if wrong := [
            name for name, value in zip(called, row, strict=True) if isinstance(value, bool | float | list | dict)
        ]:
            raise SourceError(f"line {number + 1} of the manifest: {wrong[0]} must be a string, or an integer")
        yield [None if value == "" else value for value in row]


@dataclass(frozen=True)
class _Listed:
    number: int
    name: str
    size: int


def of_folder(found: Sequence[tuple[str, int]]) -> tuple[list[dict[str, str | None]], dict[str, int]]:
    """The manifest, but for the addresses, of an image folder that lies in object storage: `<split>/<class>/<name>` or
    `<class>/<name>`. found: path and bytes of each object. Returns `path`, `id`, `label` and `split` of each image, and
    what there is to tell (`NOTES`).

    Raises:
        SourceError: something else lies there, or nothing does.
    """
    files = [_Listed(number, name, size) for number, (name, size) in enumerate(found) if not is_clutter(name)]
    if not files:
        raise SourceError(f"there are no objects under the prefix{BUT_CLUTTER if found else ''}")
    if len(files) > MAX_ROWS:
        raise SourceError(f"there are more than {MAX_ROWS:,} objects under the prefix")
    faults = ((each.number, fault_of_name(each.name)) for each in files)
    if errors := [f"object {number}: {fault}" for number, fault in faults if fault]:
        raise SourceError(f"{len(errors)} objects under the prefix cannot be taken", errors)
    images = images_of(files)
    splits = splits_of(images) or repeat(None, len(images))
    rows: list[dict[str, str | None]] = [
        {"path": image.member.name, "id": image.path, "label": image.class_name, "split": split}
        for image, split in zip(images, splits, strict=True)
    ]
    passed_over = len(found) - len(files)
    return rows, notes_of(images) | ({"passed-over": passed_over} if passed_over else {})
