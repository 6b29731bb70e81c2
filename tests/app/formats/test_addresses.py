"""Lines of manifests: what ends one, and what comes before the first."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

from app.formats import addresses
from app.formats.manifest import SourceError
from app.formats.options import Options

ROWS = [{"address": f"s3://bkt/in/{n}.png", "label": n % 2, "id": f"i{n}"} for n in range(4)]
TEXTS = {
    "ndjson": "\n".join(map(json.dumps, ROWS)),
    "csv": "address,label,id\n" + "".join(f"{row['address']},{row['label']},{row['id']}\n" for row in ROWS),
}


def read(path: Path, form: str, data: bytes) -> list[str] | None:
    path.write_bytes(data)
    return addresses.read(path, Options.of({"columns": {}, "allowed": ["bkt/"]}), (form,)).ids


@pytest.mark.parametrize("form", TEXTS)
@pytest.mark.parametrize("before", [b"", codecs.BOM_UTF8, b"\n", b"\r\n\r\n", codecs.BOM_UTF8 + b"\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_and_blank_lines_before_the_first_change_nothing(
    tmp_path: Path, form: str, before: bytes, end: str
) -> None:
    data = before + TEXTS[form].replace("\n", end).encode()
    assert read(tmp_path / "m", form, data) == ["i0", "i1", "i2", "i3"]


@pytest.mark.parametrize("form", TEXTS)
def test_other_encodings_are_refused(tmp_path: Path, form: str) -> None:
    for name in ("utf-16", "utf-16-le", "utf-32"):
        with pytest.raises(SourceError):
            read(tmp_path / "m", form, TEXTS[form].encode(name))


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x0c", "\x85", "\u2028"])
def test_nothing_else_ends_a_line(tmp_path: Path, end: str) -> None:
    for form, text in TEXTS.items():
        with pytest.raises(SourceError):
            read(tmp_path / "m", form, text.replace("\n", end).encode())
