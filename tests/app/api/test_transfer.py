"""The Range header against a slow reading of RFC 9110, and If-None-Match."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from app.api.http.conditional import matches as condition
from app.api.http.transfer import FilePart, _span
from app.core.errors import RangeNotSatisfiable

NUMBER = st.integers(0, 30)


@given(st.integers(0, 20), st.none() | NUMBER, st.none() | NUMBER)
def test_a_span_holds_exactly_the_bytes_that_were_asked_for(size: int, first: int | None, last: int | None) -> None:
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    if first is None:
        wanted = [] if last is None else list(range(size))[-last:] if last else []
    else:
        wanted = [place for place in range(size) if place >= first and (last is None or place <= last)]
    if (first is None and last is None) or (first is not None and last is not None and last < first):
        assert _span(header, size) is None
    elif not wanted:
        with pytest.raises(RangeNotSatisfiable) as refused:
            _span(header, size)
        assert refused.value.headers == {"Content-Range": f"bytes */{size}"}
    else:
        start, stop = _span(header, size) or (0, 0)
        assert list(range(start, stop)) == wanted


@given(st.text(max_size=20))
def test_anything_else_is_ignored(header: str) -> None:
    if not header.startswith("bytes="):
        assert _span(header, 10) is None


def test_a_file_is_not_read_to_its_end_for_a_client_that_has_gone(tmp_path: Path) -> None:
    """The server drops, without an error, what is sent to it then."""
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 2**26)
    sent = 0

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal sent
        sent += len(message.get("body", b""))

    asyncio.run(FilePart(path.open("rb"), 0, 2**26, 200, {}, "a/b")({}, receive, send))
    assert 0 < sent < 2**23


@pytest.mark.parametrize(
    ("header", "matches"),
    [
        (None, False), ("", False), ("*", True), (" * ", True), ('"a"', True), ('W/"a"', True), ('"b"', False),
        ('"b", "a"', True), ('"b",W/"a"', True), ('"b", W/"c"', False), ("a", False), ('"*"', False),
    ],
)  # fmt: skip
def test_if_none_match(header: str | None, matches: bool) -> None:
    assert condition(header, '"a"') is matches
