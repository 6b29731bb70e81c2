"""Blobs in a folder: visible when whole, verified when read, gone when deleted."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from app.blobs.folder import CHUNK, BlobCorruptError, BlobMissingError, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "blobs")


def files(folder: Folder) -> list[Path]:
    return [path for path in folder._root.rglob("*") if path.is_file()]


def test_a_blob_is_named_by_its_bytes(folder: Folder) -> None:
    data = os.urandom(3 * CHUNK + 5)
    stored = folder.put(data)
    assert stored.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert (stored.size, folder.size(stored.digest)) == (len(data), len(data))
    assert folder.fetch(stored.digest).read_bytes() == data
    assert folder.put(data) == stored
    assert len(files(folder)) == 1


def test_nothing_is_visible_before_the_commit_and_nothing_stays_without_one(folder: Folder) -> None:
    with folder.writer() as writer:
        writer.write(b"half")
        assert writer.path.read_bytes() == b"half", "flushed, for checks that must read it"
        with pytest.raises(BlobMissingError):
            folder.size(writer.digest)
    assert files(folder) == []

    def fails() -> None:
        with folder.writer() as writer:
            writer.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert files(folder) == []


def test_damaged_bytes_are_noticed(folder: Folder) -> None:
    stored = folder.put(b"good bytes")
    folder.fetch(stored.digest).write_bytes(b"goof bytes")
    with pytest.raises(BlobCorruptError):
        folder.fetch(stored.digest)


def test_a_deleted_blob_is_missing(folder: Folder) -> None:
    stored = folder.put(b"x")
    assert folder.delete(stored.digest)
    assert not folder.delete(stored.digest)
    for use in (folder.size, folder.fetch):
        with pytest.raises(BlobMissingError):
            use(stored.digest)


@pytest.mark.parametrize(
    "digest",
    ["", "sha256:", "x", "sha256:" + "0" * 63, "sha256:" + "G" * 64, "sha256:../../../../etc/passwd",
     "md5:" + "0" * 64, "sha256:" + "0" * 64 + "/", "sha256:" + "A" * 64],
)  # fmt: skip
def test_a_name_that_is_no_digest_is_a_blob_that_is_missing(folder: Folder, digest: str) -> None:
    with pytest.raises(BlobMissingError):
        folder.fetch(digest)
    with pytest.raises(BlobMissingError):
        folder.delete(digest)


def test_old_parts_and_old_blobs_are_told_from_young_ones(folder: Folder) -> None:
    old, young = folder.put(b"old").digest, folder.put(b"young").digest
    os.utime(folder.fetch(old), (1, 1))
    assert list(folder.older_than(3600)) == [old]
    assert set(folder.older_than(-60)) == {old, young}
    for name, age in (("1-a.part", 1), ("2-b.part", None)):
        path = folder._root / "incoming" / name
        path.write_bytes(b"x")
        if age is not None:
            os.utime(path, (age, age))
    assert folder.sweep_parts(3600) == 1
    assert [path.name for path in (folder._root / "incoming").iterdir()] == ["2-b.part"]


def test_storing_again_makes_an_old_blob_young(folder: Folder) -> None:
    """Else the sweep for orphans could take it between the storing and the row that points at it."""
    digest = folder.put(b"again").digest
    os.utime(folder.fetch(digest), (1, 1))
    folder.put(b"again")
    assert list(folder.older_than(3600)) == []
