"""Downloading a checkpoint: conditions, ranges and digests by RFC 9110 and 9530."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from tests.helpers import is_problem
from tests.trained import Trained


@pytest.fixture(scope="module")
def file(shared: Trained) -> tuple[Any, str, bytes, str]:
    """HTTP client, path, bytes and ETag of version 1."""
    path = f"{shared.where}/versions/1/checkpoint"
    response = shared.account.http.get(path)
    return shared.account.http, path, response.content, response.headers["etag"]


def test_the_bytes_are_those_of_the_digest(shared: Trained, file: tuple[Any, str, bytes, str]) -> None:
    http, path, data, etag = file
    version = shared.account.get(f"{shared.where}/versions/1")
    response = http.get(path)
    assert response.status_code == 200
    assert response.content == data
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == version["digest"]
    assert etag == f'"{version["digest"]}"', "strong"
    assert len(data) == version["size"] == int(response.headers["content-length"])
    assert response.headers["repr-digest"] == f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["content-type"] == "application/vnd.safetensors"
    assert response.headers["content-disposition"].startswith("attachment")
    assert response.headers["cache-control"] == "private, no-cache", "it may be withheld tomorrow"


def test_if_none_match(file: tuple[Any, str, bytes, str]) -> None:
    http, path, _, etag = file
    for method in ("GET", "HEAD"):
        for header in (etag, f"W/{etag}", "*", f'"other", {etag}', f'W/"other",W/{etag}', f" {etag} "):
            response = http.request(method, path, headers={"If-None-Match": header})
            assert (response.status_code, response.content) == (304, b""), header
            assert response.headers["etag"] == etag
        for header in ('"other"', 'W/"other"', etag.strip('"'), '"*"'):
            response = http.request(method, path, headers={"If-None-Match": header})
            assert response.status_code == 200, header
    response = http.get(path, headers={"If-None-Match": etag, "Range": "bytes=0-1"})
    assert response.status_code == 304, "the condition comes before the range"


def test_ranges(file: tuple[Any, str, bytes, str]) -> None:
    http, path, data, etag = file
    size = len(data)
    for header, start, stop in (
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=10-", 10, size),
        (f"bytes={size - 1}-", size - 1, size),
        ("bytes=-5", size - 5, size),
        (f"bytes=-{size * 2}", 0, size),
        (f"bytes=5-{size * 2}", 5, size),
    ):
        response = http.get(path, headers={"Range": header})
        assert response.status_code == 206, header
        assert response.content == data[start:stop], header
        assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
        assert int(response.headers["content-length"]) == stop - start
        assert response.headers["etag"] == etag
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        assert response.headers["repr-digest"] == f"sha-256=:{digest}:", "of the whole, not of the part"


@pytest.mark.parametrize(
    "header",
    ["bytes=", "bytes=-", "bytes=a-b", "bytes=5-3", "bytes 0-1", "items=0-1", "bytes=0-1,5-6", "bytes=--1", "0-1",
     "bytes=1.0-2", "bytes=0-" + "9" * 30],
)  # fmt: skip
def test_malformed_and_several_ranges_are_ignored(file: tuple[Any, str, bytes, str], header: str) -> None:
    http, path, data, _ = file
    response = http.get(path, headers={"Range": header})
    assert (response.status_code, response.content) == (200, data)
    assert "content-range" not in response.headers


def test_a_range_beyond_the_end_is_416(file: tuple[Any, str, bytes, str]) -> None:
    http, path, data, _ = file
    for header in (f"bytes={len(data)}-", f"bytes={len(data) + 5}-{len(data) + 9}", "bytes=-0"):
        response = http.get(path, headers={"Range": header})
        is_problem(response, 416, "range-not-satisfiable")
        assert response.headers["content-range"] == f"bytes */{len(data)}"


def test_if_range_needs_the_strong_tag(file: tuple[Any, str, bytes, str]) -> None:
    http, path, data, etag = file
    response = http.get(path, headers={"Range": "bytes=0-9", "If-Range": etag})
    assert (response.status_code, response.content) == (206, data[:10])
    for header in ('"other"', f"W/{etag}", "Wed, 21 Oct 2026 07:28:00 GMT"):
        response = http.get(path, headers={"Range": "bytes=0-9", "If-Range": header})
        assert (response.status_code, response.content) == (200, data), header


def test_head_says_what_get_would_send_and_knows_no_ranges(file: tuple[Any, str, bytes, str]) -> None:
    http, path, data, _ = file
    whole = http.get(path)
    for headers in ({}, {"Range": "bytes=0-9"}, {"Range": f"bytes={len(data)}-"}):
        response = http.head(path, headers=headers)
        assert (response.status_code, response.content) == (200, b""), headers
        for name in ("etag", "content-length", "repr-digest", "content-type", "accept-ranges"):
            assert response.headers[name] == whole.headers[name]


def test_an_interrupted_download_is_taken_up_where_it_stopped(file: tuple[Any, str, bytes, str]) -> None:
    http, path, data, etag = file
    got = data[: len(data) // 3]
    while len(got) < len(data):
        last = min(len(got) + 4096, len(data)) - 1
        got += http.get(path, headers={"Range": f"bytes={len(got)}-{last}", "If-Range": etag}).content
    assert got == data


def test_there_is_no_such_version(shared: Trained) -> None:
    http = shared.account.http
    is_problem(http.get(f"{shared.where}/versions/2/checkpoint"), 404, "not-found")
    for number in ("0", "-1", "1.5", "x", str(2**31), "9" * 40):
        assert http.get(f"{shared.where}/versions/{number}/checkpoint").status_code == 422
