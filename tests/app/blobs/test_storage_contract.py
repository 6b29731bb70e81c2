"""What every storage of blobs does, held against a folder and against a bucket on a server of its own."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.blobs import s3
from app.blobs.bucket import Bucket
from app.blobs.folder import BlobCorruptError, BlobMissingError, Folder, Stored
from app.blobs.open import Blobs, open_blobs
from app.core.config import Settings
from tests.app.blobs.s3_server import s3_server

DATA = bytes(range(256)) * 5000  # more than one piece of a read
ABSENT = "sha256:" + "0" * 64
SMALLEST_PART = 5 * 2**20


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Case:
    blobs: Blobs
    overwrite: Callable[[str, bytes], None]  # what is stored, behind the storage's back

    def kept(self) -> list[str]:
        return sorted(self.blobs.older_than(-60))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


def folder_case(settings: Settings) -> Case:
    blobs = open_blobs(settings)
    assert isinstance(blobs, Folder)
    return Case(blobs, lambda digest, data: blobs.place(digest).write_bytes(data) and None)


def bucket_case(settings: Settings) -> Case:
    blobs = open_blobs(settings)
    assert isinstance(blobs, Bucket)
    blobs._client.create_bucket(Bucket="blobs")

    def overwrite(digest: str, data: bytes) -> None:
        name = digest.removeprefix("sha256:")
        blobs._client.put_object(Bucket="blobs", Key=f"some/where/{name[:2]}/{name}", Body=data)

    return Case(blobs, overwrite)


@pytest.fixture(params=["folder", "bucket"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    if request.param == "folder":
        yield folder_case(Settings(data_dir=tmp_path))
        return
    url = request.getfixturevalue("server")
    settings = Settings(
        data_dir=tmp_path,
        blob_url="s3://blobs/some/where",
        s3_endpoint=url,
        s3_access_key="key",
        s3_secret_key="secret",
    )
    case = bucket_case(settings)
    yield case
    for digest in case.kept():
        case.blobs.delete(digest)


def read(blobs: Blobs, digest: str, start: int, stop: int) -> bytes:
    return b"".join(blobs.read(digest, start, stop))


def test_what_is_put_can_be_read_and_fetched(case: Case) -> None:
    stored = case.blobs.put(DATA)
    assert stored == Stored(digest_of(DATA), len(DATA))
    assert case.blobs.size(stored.digest) == len(DATA)
    assert read(case.blobs, stored.digest, 0, len(DATA)) == DATA
    assert case.blobs.fetch(stored.digest).read_bytes() == DATA
    assert case.kept() == [stored.digest]


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (7, 7), (255, 300_000), (len(DATA) - 1, len(DATA))])
def test_a_range_is_that_range(case: Case, start: int, stop: int) -> None:
    assert read(case.blobs, case.blobs.put(DATA).digest, start, stop) == DATA[start:stop]


def test_a_blob_may_be_empty(case: Case) -> None:
    stored = case.blobs.put(b"")
    assert stored == Stored(digest_of(b""), 0)
    assert case.blobs.size(stored.digest) == 0
    assert read(case.blobs, stored.digest, 0, 0) == b""
    assert case.blobs.fetch(stored.digest).read_bytes() == b""


@pytest.mark.parametrize("digest", [ABSENT, "sha256:../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "0" * 32, ""])
def test_what_is_not_there_is_missing(case: Case, digest: str) -> None:
    with pytest.raises(BlobMissingError):
        case.blobs.size(digest)
    with pytest.raises(BlobMissingError):
        read(case.blobs, digest, 0, 1)
    with pytest.raises(BlobMissingError):
        case.blobs.fetch(digest)


def test_a_writer_tells_size_digest_and_file_before_anything_is_kept(case: Case) -> None:
    with case.blobs.writer() as writer:
        writer.write(DATA[:1000])
        writer.write(DATA[1000:])
        assert writer.size == len(DATA)
        assert writer.digest == digest_of(DATA)
        assert writer.path.read_bytes() == DATA
        path = writer.path
        assert case.kept() == []
        assert writer.commit() == Stored(digest_of(DATA), len(DATA))
        assert case.kept() == [digest_of(DATA)]
    assert not path.exists()


def test_a_writer_that_is_left_or_fails_keeps_nothing(case: Case) -> None:
    with case.blobs.writer() as writer:
        writer.write(DATA)
        left = writer.path
    with pytest.raises(ZeroDivisionError), case.blobs.writer() as writer:
        writer.write(DATA)
        failed = writer.path
        _ = 1 / 0
    assert case.kept() == []
    assert not left.exists()
    assert not failed.exists()


def test_a_file_of_scratch_is_adopted(case: Case) -> None:
    with case.blobs.scratch("job") as path:
        path.write_bytes(DATA)
        assert case.kept() == []
        assert case.blobs.adopt(path) == Stored(digest_of(DATA), len(DATA))
    assert not path.exists()
    assert case.blobs.fetch(digest_of(DATA)).read_bytes() == DATA


def test_scratch_that_a_crash_left_is_cleared_by_its_owner_alone(case: Case) -> None:
    with case.blobs.scratch("one") as mine, case.blobs.scratch("two") as theirs:
        mine.write_bytes(b"1")
        theirs.write_bytes(b"2")
        case.blobs.clear_scratch("one")
        assert not mine.exists()
        assert theirs.exists()


def test_bytes_that_changed_in_storage_are_not_fetched_and_a_new_put_heals_them(case: Case) -> None:
    digest = case.blobs.put(DATA).digest
    case.overwrite(digest, DATA[:-1] + b"!")
    with pytest.raises(BlobCorruptError, match=digest):
        case.blobs.fetch(digest)
    case.blobs.put(DATA)
    assert case.blobs.fetch(digest).read_bytes() == DATA


def test_many_writers_of_the_same_bytes_do_no_harm(case: Case) -> None:
    stored: list[Stored] = []
    start = threading.Barrier(6)

    def put() -> None:
        with case.blobs.writer() as writer:
            writer.write(DATA)
            start.wait()
            stored.append(writer.commit())

    threads = [threading.Thread(target=put) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stored == [Stored(digest_of(DATA), len(DATA))] * 6
    assert case.kept() == [digest_of(DATA)]
    assert case.blobs.fetch(digest_of(DATA)).read_bytes() == DATA


def test_what_is_deleted_is_gone_also_where_it_was_fetched(case: Case) -> None:
    digest, other = case.blobs.put(DATA).digest, case.blobs.put(b"other").digest
    path = case.blobs.fetch(digest)
    assert case.blobs.delete(digest)
    assert not path.exists()
    with pytest.raises(BlobMissingError):
        case.blobs.fetch(digest)
    assert not case.blobs.delete(digest)
    assert case.kept() == [other]


def test_age_is_counted_from_the_last_put(case: Case) -> None:
    case.blobs.put(DATA)
    assert list(case.blobs.older_than(3600)) == []


def test_a_sweep_leaves_young_parts_alone_and_takes_old_ones(case: Case) -> None:
    with case.blobs.writer() as writer:
        writer.write(DATA)
        path = writer.path
        assert case.blobs.sweep_parts(3600) == 0
        assert path.exists()
        assert case.blobs.sweep_parts(-60) == 1
        assert not path.exists()


def test_copies_of_what_is_still_there_are_not_swept(case: Case) -> None:
    path = case.blobs.fetch(case.blobs.put(DATA).digest)
    assert case.blobs.sweep_copies() == 0
    assert path.exists()


@pytest.mark.parametrize("size", [SMALLEST_PART, SMALLEST_PART + 1, 2 * SMALLEST_PART + 12_345])
def test_large_blobs_arrive_whole(case: Case, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART", SMALLEST_PART)
    data = (DATA * (size // len(DATA) + 1))[:size]
    assert case.blobs.put(data) == Stored(digest_of(data), size)
    assert case.blobs.fetch(digest_of(data)).read_bytes() == data
    assert read(case.blobs, digest_of(data), SMALLEST_PART - 3, size) == data[SMALLEST_PART - 3 :]
