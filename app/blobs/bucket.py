"""Blobs in a bucket of S3-compatible object storage, under the interface of `app.blobs.open`.

Bytes on their way in lie in a local file until all have come, since a blob's key is its digest; then the object
appears in one step. Bytes on their way to a job become local copies, bounded in size, that go when the blob does.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from app.blobs import s3
from app.blobs.folder import (
    BlobCorruptError,
    BlobMissingError,
    Folder,
    Space,
    StorageRefusedError,
    StorageUnavailableError,
    Stored,
    Writer,
    relative_name,
)
from app.core.config import Settings

JUST_USED = 60.0  # seconds in which a copy that was fetched is opened
BRIEF_SECONDS = 2.0  # silence after which calls give up that others wait for: readiness, and calls made under locks
ABANDONED = 24 * 3600.0  # age of a local file that nobody can still be writing


def open_bucket(settings: Settings) -> Bucket:
    """The bucket of `blob_url`."""
    name, _, prefix = settings.blob_url.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    return Bucket(s3.connect(settings), name, f"{prefix}/" if prefix else "", settings)


class Bucket:
    """Objects `prefix/ab/abcd…`, named as in a folder of blobs, so that one can be copied to the other."""

    def __init__(self, client: Any, bucket: str, prefix: str, settings: Settings) -> None:
        self._client, self._bucket, self._prefix = client, bucket, prefix
        self._root = settings.data_dir / "copies"
        self._copies = Folder(self._root)
        self._settings = settings
        self._abilities = s3.Abilities()
        self._versioned: bool | None = None  # None: not asked yet
        self._probe = f"probe-{secrets.token_hex(8)}"  # one name: where nothing can be removed, one object is left

    @cached_property
    def _brief(self) -> Any:
        """A client that tries once and does not wait long."""
        patience = min(BRIEF_SECONDS, self._settings.s3_timeout_seconds)
        return s3.connect(self._settings.model_copy(update={"s3_timeout_seconds": patience}), attempts=1)

    def _at(self, digest: str) -> s3.Place:
        return {"Bucket": self._bucket, "Key": self._prefix + relative_name(digest)}

    def check(self) -> None:
        """Put, get, list and remove a small object of this process: a bucket that answers HEAD may refuse each."""
        place = {"Bucket": self._bucket, "Key": self._prefix + self._probe}
        body = secrets.token_bytes(32)
        with s3.asking():
            self._brief.put_object(**place, Body=body)
        try:
            with s3.asking():
                same = self._brief.get_object(**place)["Body"].read() == body
            next(self._pages("list_objects_v2", place["Key"], self._brief), None)
        finally:
            self._erase(self._brief, place)
        if not same:
            raise StorageUnavailableError("the object storage does not give back what was put")
        self._copies.check()

    # -- in ----------------------------------------------------------------------------------------

    def space(self, owner: str = "") -> Space:
        return self._copies.space(owner)

    def writer(self, expected: int = 0, owner: str = "") -> AbstractContextManager[Writer]:
        return self._copies.writer(expected, owner, self._upload)

    def put(self, data: bytes) -> Stored:
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    def scratch(self, owner: str) -> AbstractContextManager[Path]:
        return self._copies.scratch(owner)

    def clear_scratch(self, owner: str) -> None:
        self._copies.clear_scratch(owner)

    def scratch_owners(self, older_than_seconds: float) -> set[str]:
        return self._copies.scratch_owners(older_than_seconds)

    def adopt(self, path: Path, announce: Callable[[str], object] = lambda _digest: None) -> Stored:
        with path.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        announce(digest)
        self._upload(path, digest)
        return Stored(digest, path.stat().st_size)

    def _upload(self, path: Path, digest: str) -> None:
        """Make the object, unless another writer of the same digest does so first.

        One that is there already is written again: it is then whole, and as young as this call, so that a sweep
        for orphans leaves it alone until the caller has recorded it.
        """
        size = path.stat().st_size
        try:
            with path.open("rb") as file:
                new = not self._has(digest)
                s3.store(self._client, self._at(digest), file, digest, self._abilities, new=new)
        except s3.BeatenError:
            if not self._has(digest) or self.size(digest) != size:
                raise

    # -- out ---------------------------------------------------------------------------------------

    def size(self, digest: str) -> int:
        return self._size(self._client, digest)

    def confirm(self, digest: str) -> None:
        self._size(self._brief, digest)

    def _size(self, client: Any, digest: str) -> int:
        try:
            with s3.asking(digest):
                return int(client.head_object(**self._at(digest))["ContentLength"])
        except BlobMissingError:
            with s3.asking():  # HEAD says 404 of a bucket that is not there, too
                client.head_bucket(Bucket=self._bucket)
            raise

    def _has(self, digest: str, client: Any = None) -> bool:
        try:
            self._size(client or self._client, digest)
        except BlobMissingError:
            return False
        return True

    def read(self, digest: str, start: int, stop: int) -> Iterator[bytes]:
        patience = self._settings.s3_timeout_seconds
        return s3.read(self._client, self._at(digest), digest, start, stop, patience)

    def fetch(self, digest: str) -> Path:
        """A copy on this machine, verified now. A blob that is gone from the bucket is gone here, too."""
        try:
            size = self.size(digest)
        except BlobMissingError:
            self._copies.delete(digest)
            raise
        with suppress(BlobMissingError, BlobCorruptError, FileNotFoundError):
            path = self._copies.fetch(digest)
            os.utime(path)
            return path
        self._make_room(size)
        with self._copies.writer() as writer:
            for piece in self.read(digest, 0, size):
                writer.write(piece)
            if writer.digest != digest:
                raise BlobCorruptError(digest)
            writer.commit()
        return self._copies.place(digest)

    def _make_room(self, size: int) -> None:
        """Remove the copies that were used longest ago until `size` bytes more are within the bound."""
        copies = []
        for path in self._root.glob("??/*"):
            with suppress(FileNotFoundError):
                found = path.stat()
                copies.append((found.st_mtime, found.st_size, path))
        total = size + sum(length for _, length, _ in copies)
        for used, length, path in sorted(copies):
            if total <= self._settings.s3_copies_bytes or time.time() - used < JUST_USED:
                return
            path.unlink(missing_ok=True)
            total -= length

    # -- away --------------------------------------------------------------------------------------

    def delete(self, digest: str) -> bool:
        """Remove the object with all its versions, and this machine's copy; False if it was not there."""
        client, place = self._brief, self._at(digest)
        there = self._has(digest, client)
        self._copies.delete(digest)
        self._erase(client, place)
        return there

    def _erase(self, client: Any, place: s3.Place) -> None:
        """Remove an object with all its versions."""
        with s3.asking():
            reply = client.delete_object(**place)
        # Where the bucket keeps versions the bytes are still there. Not every storage says so in its reply.
        if reply.get("DeleteMarker") or self._keeps_versions(client):
            for page in self._pages("list_object_versions", place["Key"], client):
                for version in page.get("Versions", []) + page.get("DeleteMarkers", []):
                    if version["Key"] == place["Key"]:
                        with s3.asking():
                            client.delete_object(**place, VersionId=version["VersionId"])

    def _keeps_versions(self, client: Any) -> bool:
        """Whether the bucket keeps versions, or once did; asked once. Not where the storage does not say."""
        if self._versioned is None:
            try:
                with s3.asking():
                    self._versioned = bool(client.get_bucket_versioning(Bucket=self._bucket).get("Status"))
            except StorageUnavailableError as error:
                if error.code not in s3.NOT_KNOWN and not isinstance(error, StorageRefusedError):
                    raise
                self._versioned = False
        return self._versioned

    def older_than(self, seconds: float) -> Iterator[str]:
        for page in self._pages("list_objects_v2", self._prefix):
            limit = _clock(page) - timedelta(seconds=seconds)
            for entry in page.get("Contents", []):
                digest = self._digest(entry["Key"])
                if digest and entry["LastModified"] < limit:
                    yield digest

    def sweep_parts(self, older_than_seconds: float) -> int:
        removed = self._copies.sweep_parts(older_than_seconds)
        try:
            return removed + self._sweep_uploads(older_than_seconds)
        except StorageUnavailableError as error:
            if error.code in s3.NOT_KNOWN:  # a storage without uploads in parts has none that were left
                return removed
            raise

    def _sweep_uploads(self, older_than_seconds: float) -> int:
        removed = 0
        for page in self._pages("list_multipart_uploads", self._prefix):
            limit = _clock(page) - timedelta(seconds=older_than_seconds)
            for entry in page.get("Uploads", []):
                if self._digest(entry["Key"]) and entry["Initiated"] < limit:
                    upload = {"Bucket": self._bucket, "Key": entry["Key"], "UploadId": entry["UploadId"]}
                    with suppress(s3.BeatenError), s3.asking():
                        self._client.abort_multipart_upload(**upload)
                        removed += 1
        return removed

    def sweep_copies(self) -> int:
        """Also removes the files that writers of this machine left half done."""
        removed = self._copies.sweep_parts(ABANDONED)
        for digest in self._copies.older_than(0.0):
            if not self._has(digest):
                removed += self._copies.delete(digest)
        return removed

    def _pages(self, operation: str, prefix: str, client: Any = None) -> Iterator[dict[str, Any]]:
        with s3.asking():
            yield from (client or self._client).get_paginator(operation).paginate(Bucket=self._bucket, Prefix=prefix)

    def _digest(self, key: str) -> str | None:
        """Of a key of ours; None for what others keep under the same prefix."""
        name = re.fullmatch(r"([0-9a-f]{2})/(\1[0-9a-f]{62})", key.removeprefix(self._prefix))
        return f"sha256:{name.group(2)}" if name else None


def _clock(reply: dict[str, Any]) -> datetime:
    """The storage's own, which dates its objects; this machine's may differ."""
    said = reply["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(said) if said else datetime.now(UTC)
