"""Objects that belong to others: pictures in object storage that datasets refer to, and that the operator allowed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from typing import Any

from app.blobs import s3
from app.blobs.folder import BlobMissingError, StorageRefusedError, StorageUnavailableError
from app.core.config import Settings
from app.datasets import storage
from app.datasets.storage import ObjectError
from app.formats.addresses import parts
from app.formats.archives import MAX_IMAGE_BYTES
from app.formats.references import Reference

REFUSED = {"403", "AccessDenied", "Forbidden", "AllAccessDisabled", "InvalidObjectState", "NoSuchBucket"}
TO_MEND = "let the key of LETHE_OBJECTS_ACCESS_KEY get and list objects, and delete versions, where the settings say so"


class Objects:
    """Of one tenant. Whatever asks the storage may raise StorageUnavailableError; of what only a person can mend,
    StorageRefusedError."""

    def __init__(self, settings: Settings, tenant_id: str) -> None:
        self._settings, self._tenant_id = settings, tenant_id

    @cached_property
    def _client(self) -> Any:
        given = self._settings
        return s3.connect(
            given.model_copy(
                update={
                    "s3_endpoint": given.objects_endpoint or given.s3_endpoint,
                    "s3_region": given.objects_region or given.s3_region,
                    "s3_access_key": given.objects_access_key or given.s3_access_key,
                    "s3_secret_key": given.objects_secret_key if given.objects_access_key else given.s3_secret_key,
                }
            )
        )

    def may_read(self, address: str) -> bool:
        """Whether the operator (still) allows it."""
        return storage.covers(storage.allowed(self._settings, self._tenant_id), address)

    def may_erase(self, address: str) -> bool:
        return storage.covers(storage.erasable(self._settings, self._tenant_id), address)

    def under(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and bytes of each object under `s3://bucket/folder/`, in the order of their keys."""
        bucket, _, folder = prefix.removeprefix("s3://").partition("/")
        with _asking():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
                for entry in page.get("Contents", []):
                    if not entry["Key"].endswith("/"):  # what tools leave for a folder
                        yield entry["Key"], int(entry["Size"])

    def read(self, address: str, digest: str | None = None) -> bytes:
        """The whole object. digest: the SHA-256 (hexadecimal) that it must have.

        Raises:
            ObjectError: it is gone, no longer allowed, too large, or has changed.
        """
        if not self.may_read(address):
            raise ObjectError("object-refused", "the operator does not allow its storage any more")
        try:
            data = self._read(address)
        except BlobMissingError:
            raise ObjectError("object-gone", "there is no such object") from None
        except StorageRefusedError as error:
            if error.code in REFUSED:
                raise ObjectError("object-refused", f"the storage refuses to give it ({error.code})") from None
            raise
        if digest is not None and hashlib.sha256(data).hexdigest() != digest:
            raise ObjectError("object-changed", "the object has other content than when it was taken in")
        return data

    def picture(self, reference: Reference) -> bytes:
        """The object as it was when it was taken in. Raises ObjectError, as `read`."""
        return self.read(reference.address, reference.digest)

    def _read(self, address: str) -> bytes:
        place, tries = self._at(address), 0
        while True:
            with _asking(address):
                reply = self._client.get_object(**place)
            tries += 1
            try:
                with closing(reply["Body"]) as body, _asking():
                    if int(reply["ContentLength"]) > MAX_IMAGE_BYTES:
                        raise ObjectError("object-changed", f"the object is over {MAX_IMAGE_BYTES // 2**20} MiB")
                    data: bytes = body.read()
                    return data
            except StorageUnavailableError:  # the body broke off
                if tries == s3.ATTEMPTS:
                    raise

    def is_there(self, address: str) -> bool:
        """Whether the object, or an earlier version of it, is still there."""
        place = self._at(address)
        try:
            return any(version.get("Size") is not None for version in self._versions(place))
        except StorageUnavailableError as error:
            if error.code not in (*s3.NOT_KNOWN, "403", "AccessDenied"):
                raise
        try:  # a storage without versions, or a key that may not list them
            with _asking(address):
                self._client.head_object(**place)
        except BlobMissingError:
            return False
        return True

    def erase(self, address: str) -> None:
        """Delete the object with all its versions; one that is gone is gone."""
        place = self._at(address)
        with _asking():
            self._client.delete_object(**place)
        try:
            versions = list(self._versions(place))
        except StorageUnavailableError as error:
            if error.code in s3.NOT_KNOWN:  # a storage without versions has none that were left
                return
            raise
        for version in versions:
            with _asking():
                self._client.delete_object(**place, VersionId=version["VersionId"])

    def _versions(self, place: s3.Place) -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator("list_object_versions")
        with _asking():
            for page in pages.paginate(Bucket=place["Bucket"], Prefix=place["Key"]):
                for version in page.get("Versions", []) + page.get("DeleteMarkers", []):
                    if version["Key"] == place["Key"]:
                        yield version

    def _at(self, address: str) -> s3.Place:
        bucket, key = parts(address)
        return {"Bucket": bucket, "Key": key}


@contextmanager
def _asking(address: str | None = None) -> Iterator[None]:
    """As `s3.asking`, with what is to be mended of this storage."""
    try:
        with s3.asking(address):
            yield
    except StorageRefusedError as error:
        refused = StorageRefusedError(f"{str(error).partition(': ')[0]}: {TO_MEND}")
        refused.code = error.code
        raise refused from error
