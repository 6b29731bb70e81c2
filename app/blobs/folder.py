"""Content-addressed blobs: put, read, verified copy, delete. The name of a blob is `sha256:<hex>` of its bytes.

Here they lie in a folder; `app.blobs.bucket` keeps them in a bucket, and `app.blobs.open` says which of the two
is in use.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.core.config import PlainError, private_folder

CHUNK = 2**20
SILENT = 600.0  # seconds after which a writer that writes nothing is taken for dead
OF_RUST = "(os error "


class BlobMissingError(Exception):
    """There is no blob of that digest."""


class BlobCorruptError(Exception):
    """The stored bytes are not those of the digest."""


class StorageUnavailableError(PlainError):
    """The storage does not answer, or refuses: nothing is known of the blob, and a later try may do.

    `code`: with which object storage refused.
    """

    code = ""


class StorageRefusedError(StorageUnavailableError):
    """The storage answers, and refuses until a person changes something: the text says what."""


def is_away(error: Exception) -> bool:
    """Whether the storage does not answer, so that the next blob would fare no better."""
    return isinstance(error, StorageUnavailableError) and not isinstance(error, StorageRefusedError)


@dataclass(frozen=True)
class Stored:
    digest: str
    size: int


@dataclass(frozen=True)
class Space:
    """Bytes of a disk: free ones, and those of them that writers under way, all or of one owner, claim."""

    free: int
    claimed: int
    own: int


@contextmanager
def touching() -> Iterator[None]:
    """What the system refuses (a full, read-only or broken disk, a folder that is not mounted) as a storage that is
    not available; a missing blob was reported before."""
    try:
        yield
    except OSError as error:
        raise _refused(error.strerror or type(error).__name__, error.errno) from error


# What only a person can mend, with what to do about it.
TO_MEND = {
    errno.EACCES: "let the user that the service runs as read and write it",
    errno.EPERM: "let the user that the service runs as read and write it",
    errno.EROFS: "mount it so that it can be written",
    errno.ENOTDIR: "a part of its path is a file: set LETHE_DATA_DIR to a folder",
    errno.ENOSPC: "free space on its disk",
    errno.EDQUOT: "free space within the quota of its user",
}


def is_refusal(error: OSError) -> bool:
    """Whether a disk is full, read-only or broken, so that time or a person may mend it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def _refused(reason: str, number: int | None = None) -> StorageUnavailableError:
    if number in TO_MEND:
        return StorageRefusedError(f"the blob folder: {reason}; {TO_MEND[number]}")
    return StorageUnavailableError(f"the blob folder: {reason}")


class Writer:
    """Bytes on their way in: hashed as they are written, visible only once `commit` has kept them.

    The file is as long as the bytes that are expected. What it does not have yet of them is its claim, and its name
    says whose claim that is (`Folder.space`).
    """

    def __init__(self, folder: Path, keep: Callable[[Path, str], None], expected: int = 0, owner: str = "") -> None:
        self._path = folder / f"{int(time.time())}-{owner}-{secrets.token_hex(8)}.part"
        with touching():
            self._file = self._path.open("xb")
        self._hash = hashlib.sha256()
        self._keep = keep
        self.size = self.expected = 0
        if expected:
            self.expect(expected)

    def expect(self, size: int) -> None:
        """Claim room for that number of bytes in all."""
        with touching():
            os.truncate(self._file.fileno(), size)
        self.expected = size

    def _finish(self) -> None:
        with touching():
            self._file.flush()
        if self.expected > self.size:
            self.expect(self.size)

    def write(self, data: bytes) -> None:
        with touching():
            self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    @property
    def path(self) -> Path:
        """The temporary file, whole: for checks that must read it before it is kept."""
        self._finish()
        return self._path

    @property
    def digest(self) -> str:
        """Of what has been written so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def commit(self) -> Stored:
        self._finish()
        with touching():
            os.fsync(self._file.fileno())
            self._file.close()
            self._keep(self._path, self.digest)
        return Stored(self.digest, self.size)

    def abort(self) -> None:
        with suppress(OSError):  # closing writes what is buffered, and may be refused again
            self._file.close()
        with suppress(OSError):  # a later sweep removes it
            self._path.unlink(missing_ok=True)


def relative_name(digest: str) -> str:
    """Where a blob lies in its storage: `ab/abcd…`.

    Raises:
        BlobMissingError: that is no digest, so there is no such blob.
    """
    algorithm, _, name = digest.partition(":")
    if algorithm != "sha256" or len(name) != 64 or not set(name) <= set("0123456789abcdef"):
        raise BlobMissingError(digest)
    return f"{name[:2]}/{name}"


class Folder:
    """Blobs in a folder of a local or shared file system."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._parts = root / "incoming"
        private_folder(root, ours=True)
        self._parts.mkdir(mode=0o700, exist_ok=True)

    def check(self) -> None:
        """Write a little, keep it, read it and remove it: permissions alone do not say that a disk is full."""
        with self.scratch("check") as path:
            path.write_bytes(bytes(4096))
            kept = self._root / path.name
            try:
                path.replace(kept)
                if len(kept.read_bytes()) != 4096:
                    raise _refused("what was written there was not what is read")
            finally:
                kept.unlink(missing_ok=True)

    def place(self, digest: str) -> Path:
        return self._root / relative_name(digest)

    def space(self, owner: str = "") -> Space:
        with touching():
            disk = os.statvfs(self._parts)
            claims = Counter[str]()
            with os.scandir(self._parts) as found:
                for entry in found:
                    claims[entry.name.partition("-")[2].partition("-")[0]] += _missing(entry)
        return Space(disk.f_bavail * disk.f_frsize, claims.total(), claims[owner])

    @contextmanager
    def writer(
        self, expected: int = 0, owner: str = "", keep: Callable[[Path, str], None] | None = None
    ) -> Iterator[Writer]:
        """A writer that is aborted unless the block commits it. `keep` takes its file and digest, instead of
        this folder."""
        writer = Writer(self._parts, keep or self._rename, expected, owner)
        try:
            yield writer
        finally:
            writer.abort()

    def put(self, data: bytes) -> Stored:
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    @contextmanager
    def scratch(self, owner: str) -> Iterator[Path]:
        """A path to write a file at before `adopt` takes it; a crash leaves it to `clear_scratch`."""
        path = self._parts / f"{owner}-{secrets.token_hex(8)}.part"
        try:
            with touching():
                yield path
        except Exception as error:
            if OF_RUST in str(error):  # safetensors' own kind of error holds the system's in words
                raise _refused("a file could not be written") from error
            raise
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def clear_scratch(self, owner: str) -> None:
        """Remove what interrupted writers of that owner left behind."""
        for path in self._parts.glob(f"{owner}-*.part"):
            path.unlink(missing_ok=True)

    def scratch_owners(self, older_than_seconds: float) -> set[str]:
        limit = time.time() - older_than_seconds
        return {path.name.rpartition("-")[0] for path in self._parts.glob("*.part") if stored_at(path) < limit}

    def adopt(self, path: Path, announce: Callable[[str], object] = lambda _digest: None) -> Stored:
        """Make a file of `scratch` a blob, without copying it."""
        found, size = hashlib.sha256(), path.stat().st_size
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                found.update(chunk)
            os.fsync(file.fileno())
        digest = f"sha256:{found.hexdigest()}"
        announce(digest)
        self._rename(path, digest)
        return Stored(digest, size)

    def _rename(self, path: Path, digest: str) -> None:
        target = self.place(digest)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.replace(target)
        _sync_folder(target.parent)

    @contextmanager
    def _asking(self, digest: str) -> Iterator[None]:
        """A file that is not there is a missing blob, but only where the folder itself is there."""
        with touching():
            try:
                yield
            except FileNotFoundError:
                self._parts.stat()
                raise BlobMissingError(digest) from None

    def size(self, digest: str) -> int:
        with self._asking(digest):
            return self.place(digest).stat().st_size

    def confirm(self, digest: str) -> None:
        self.size(digest)

    def open(self, digest: str) -> BinaryIO:
        """The bytes, unverified: for streaming to a client that knows the digest."""
        with self._asking(digest):
            return self.place(digest).open("rb")

    def read(self, digest: str, start: int, stop: int) -> Iterator[bytes]:
        """Bytes `start` to `stop` in pieces, unverified."""
        with self.open(digest) as file:
            file.seek(start)
            while start < stop:
                with touching():
                    piece = file.read(min(CHUNK, stop - start))
                if not piece:
                    return
                start += len(piece)
                yield piece

    def fetch(self, digest: str) -> Path:
        """A local file with exactly the bytes of `digest`, verified now."""
        found = hashlib.sha256()
        with self.open(digest) as file, touching():
            while chunk := file.read(CHUNK):
                found.update(chunk)
        if f"sha256:{found.hexdigest()}" != digest:
            raise BlobCorruptError(digest)
        return self.place(digest)

    def delete(self, digest: str) -> bool:
        """Remove the bytes; False if they were not there."""
        place = self.place(digest)
        try:
            with self._asking(digest):
                place.unlink()
        except BlobMissingError:
            return False
        return True

    def older_than(self, seconds: float) -> Iterator[str]:
        """Digests of blobs that were stored at least this long ago."""
        limit = time.time() - seconds
        for path in self._root.glob("??/*"):
            if stored_at(path) < limit:
                yield f"sha256:{path.name}"

    def sweep_parts(self, older_than_seconds: float) -> int:
        """Remove what interrupted uploads left behind."""
        limit, removed = time.time() - older_than_seconds, 0
        for path in self._parts.glob("*.part"):
            if stored_at(path) < limit:
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def sweep_copies(self) -> int:
        """A folder has no copies."""
        return 0


def _missing(entry: os.DirEntry[str]) -> int:
    """Bytes that the writer of a file still expects; none where it has died."""
    try:
        found = entry.stat()
    except FileNotFoundError:  # it has just ended
        return 0
    return max(0, found.st_size - 512 * found.st_blocks) if time.time() - found.st_mtime < SILENT else 0


def stored_at(path: Path) -> float:
    """Its modification time; infinite for a file that another process has just removed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
