"""A file of ids: what ends a line, and which bytes are no text."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import typer

from lethe.cli.common import read_lines


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb", ["a", "b"]),
        (b"\xef\xbb\xbfa\nb\n", ["a", "b"]),
        ("a\u2028b\n".encode(), ["a\u2028b"]),
        ("a\u2029b\u0085c\x0bd\x0ce\x1cf\x1dg\x1eh\n".encode(), ["a\u2029b\u0085c\x0bd\x0ce\x1cf\x1dg\x1eh"]),
        (b"a\rb\n", ["a\rb"]),
        (b"\n\na\n\n", ["a"]),
        ("\ufeffa\n\ufeffb\n".encode(), ["a", "\ufeffb"]),
        (b"", []),
    ],
)
def test_only_lf_and_crlf_end_a_line(tmp_path: Path, data: bytes, lines: list[str]) -> None:
    """As seen: other marks cut an id in two, and the request was for other people than named."""
    path = tmp_path / "ids.txt"
    path.write_bytes(data)
    assert read_lines(path) == lines


@pytest.mark.parametrize("data", ["a\nb\n".encode(name) for name in ("utf-16", "utf-16-le", "utf-32")] + [b"caf\xe9\n"])
def test_another_encoding_is_refused_and_none_is_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(data)
    with pytest.raises(typer.BadParameter, match="save it as UTF-8"):
        read_lines(path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with pytest.raises(typer.BadParameter, match="save it as UTF-8"):
        read_lines(Path("-"))
