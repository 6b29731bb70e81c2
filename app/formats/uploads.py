"""Uploaded content in any form: the cheap checks of file, ids, labels and splits, and its pictures as they came.

A file is known by its first bytes. `app.formats.parquet`, `archives` (npz and image folders) and `tars` read them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.formats import addresses, archives, parquet, tars
from app.formats.manifest import HOLDOUT, Columns, Manifest, SourceError, join, require_form
from app.formats.options import AS_THEY_ARE, Options

# By Content-Type, what the file may be. A zip archive is an npz when all of its members are `.npy`.
FORMS: Mapping[str, tuple[str, ...]] = {
    "application/vnd.apache.parquet": ("parquet",),
    "application/x-npz": ("npz",),
    "application/zip": ("image folder", "npz"),
    "application/x-tar": ("webdataset",),
}
ALL_FORMS = ("parquet", "npz", "image folder", "webdataset", "csv", "ndjson")
MANIFESTS: Mapping[str, tuple[str, ...]] = {
    "text/csv": ("csv",),
    "application/x-ndjson": ("ndjson",),
    "application/vnd.apache.parquet": ("parquet",),
}
"""The same of manifests of addresses (`app.formats.addresses`)."""


def read(path: Path, options: Options = AS_THEY_ARE, forms: Sequence[str] = ALL_FORMS) -> Columns:
    """Check one file of any form; decode no image. forms: those that are taken.

    Raises:
        SourceError: what is wrong with it.
    """
    magic = _magic(path)
    if options.allowed is not None:
        found = addresses.read(path, options, forms)
    elif magic.startswith(b"PAR1"):
        require_form("parquet", forms)
        found = parquet.read(path, options)
    elif magic.startswith(b"PK\x03\x04"):
        found = archives.read(path, options, forms)
    elif magic[257:262] == b"ustar":
        require_form("webdataset", forms)
        found = tars.read(path)
    else:
        raise SourceError(_unknown(magic))
    if found.holdout is None and options.split is not None:
        return replace(found, holdout=[HOLDOUT[options.split]] * found.rows)
    return found


COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstandard", b"\xfd7zXZ": "xz"}


def _unknown(magic: bytes) -> str:
    if magic.startswith(b"PARE"):
        return "the Parquet file is encrypted as a whole; send it without encryption"
    for start, name in COMPRESSED.items():
        if magic.startswith(start):
            return f"the file is compressed ({name}); send what is in it, a tar archive or a Parquet file, as it is"
    return "the file is neither Parquet nor a zip archive nor a tar archive"


def pictures(
    path: Path, form: str, options: Options = AS_THEY_ARE, told: Counter[str] | None = None
) -> Iterator[tuple[str, Any]]:
    """(what it is, picture) of each sample of a file that was read, in its order. told: counts what there is to tell
    of pixels that came as an array (`NOTES`).

    A picture is its encoded bytes, None where there is none, a SourceError where its member is damaged, or an array
    (H, W, C) of pixels. What it is names the row or the entry of the archive.
    """
    if form == "parquet":
        return ((f"row {row}", data) for row, data in enumerate(parquet.pictures(path, options)))
    if form == "webdataset":
        return tars.pictures(path)
    if form == "npz":
        return ((f"row {row}", pixels) for row, pixels in enumerate(_rows(path, Counter() if told is None else told)))
    return archives.pictures(path, options)


def _rows(path: Path, told: Counter[str]) -> Iterator[NDArray[np.uint8]]:
    for block in archives.pixels(path, told):
        yield from block


def check(path: Path, class_names: Sequence[str] | None = None, forms: Sequence[str] = ALL_FORMS) -> Manifest:
    """Check content that is one file of any form; decode no image.

    class_names: by label; None: of an image folder its own, sorted.

    Raises:
        SourceError: what is wrong with it.
    """
    return join([read(path, forms=forms)], class_names)


def refuse_unfit(path: str, params: Mapping[str, Any], forms: Sequence[str], split: str | None, alone: bool) -> int:
    """`read` for `app.formats.sandbox`: the number of samples. params: of the source. alone: it is all content."""
    columns = read(Path(path), Options.of(params, split), forms)
    if alone:
        join([columns], params.get("class_names"))
    return columns.rows


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)
