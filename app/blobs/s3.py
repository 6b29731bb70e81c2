"""Object storage by the S3 protocol: a bounded client, its errors as ours, checked uploads, reads that resume."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from io import BufferedReader
from itertools import product
from typing import Any

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)

from app.blobs.folder import BlobCorruptError, BlobMissingError, StorageRefusedError, StorageUnavailableError
from app.core.config import Settings

log = logging.getLogger("lethe.storage")

PART = 2**24  # bytes of one request's body, all that is in memory; 10,000 parts make 156 GiB
PIECE = 2**18  # bytes of one read
ATTEMPTS = 3  # at one request, and at one body that breaks off
SLOWEST = 2**15  # bytes per second under which a body counts as stuck
POOL = 64  # connections kept open: the API's threads and more
ABSENT = {"404", "NoSuchKey"}
BEATEN = {"412", "PreconditionFailed", "ConditionalRequestConflict", "NoSuchUpload"}

NOT_ALLOWED = "let the key of LETHE_S3_ACCESS_KEY get, put, delete and list objects in the bucket of LETHE_BLOB_URL"
NO_BUCKET = "make the bucket, or name another in LETHE_BLOB_URL"
ELSEWHERE = "set LETHE_S3_REGION and LETHE_S3_ENDPOINT to those of the bucket"
NOT_BUILT = "this storage lacks the operation: use another, or a newer version of it"
FULL = "make room in the object storage, or raise its quota"
KEYS = "set LETHE_S3_ACCESS_KEY and LETHE_S3_SECRET_KEY"
# What only a person can mend, by the code of the refusal (a reply to HEAD has the status alone), with what to do.
TO_MEND = {
    **dict.fromkeys(("403", "AccessDenied", "Forbidden", "AllAccessDisabled", "AccountProblem"), NOT_ALLOWED),
    **dict.fromkeys(("InvalidAccessKeyId", "NotSignedUp"), f"the storage does not know the access key: {KEYS}"),
    **dict.fromkeys(("SignatureDoesNotMatch", "401", "Unauthorized"), f"the two keys do not fit each other: {KEYS}"),
    **dict.fromkeys(("ExpiredToken", "InvalidToken", "TokenRefreshRequired"), "the credentials are over: renew them"),
    "NoSuchBucket": NO_BUCKET,
    "InvalidBucketName": NO_BUCKET,
    **dict.fromkeys(("301", "PermanentRedirect", "AuthorizationHeaderMalformed", "InvalidRegion"), ELSEWHERE),
    "RequestTimeTooSkewed": "set the clock of this machine",
    **dict.fromkeys(("405", "MethodNotAllowed", "501", "NotImplemented"), NOT_BUILT),
    **dict.fromkeys(("507", "QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"), FULL),
    "ObjectLocked": "switch the bucket's object lock off: what is erased must be erased",
}

Place = dict[str, str]  # Bucket and Key


class BeatenError(StorageUnavailableError):
    """Another writer was first, or an earlier try of this request whose reply was lost."""


@contextmanager
def asking(digest: str | None = None) -> Iterator[None]:
    """The library's errors as ours; with `digest`, what is not there is that blob."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if digest is not None and code in ABSENT:
            raise BlobMissingError(digest) from None
        said = f"the object storage answered {code} to {error.operation_name}"
        if code in ABSENT and error.operation_name == "HeadBucket":
            code = "NoSuchBucket"
        found = StorageUnavailableError(said)
        if code in TO_MEND:
            found = StorageRefusedError(f"{said}: {TO_MEND[code]}")
        elif code in BEATEN:
            found = BeatenError(said)
        found.code = code
        raise found from error
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
        raise StorageRefusedError(f"there are no credentials for the object storage: {KEYS}") from error
    except SSLError as error:
        raise StorageRefusedError(
            "the certificate of the object storage is not trusted: name a file with its authority in SSL_CERT_FILE"
        ) from error
    except BotoCoreError as error:
        raise StorageUnavailableError(f"the object storage: {type(error).__name__}") from error


def connect(settings: Settings, attempts: int = ATTEMPTS) -> Any:
    """A client, safe to share between threads. Nothing is sent: a service starts while its storage is away."""
    patience, endpoint = settings.s3_timeout_seconds, settings.s3_endpoint or None
    return Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key or None,
        aws_secret_access_key=settings.s3_secret_key.get_secret_value() or None,
        verify=settings.authorities,
        config=Config(
            connect_timeout=min(patience, 5.0),
            read_timeout=patience,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=POOL,
            tcp_keepalive=True,
            # The checksums are ours: SHA-256, so that the one of an object in one part is its digest. None comes as a
            # trailer, which few storages but Amazon's know. The signature holds the body's SHA-256, too: a storage
            # that knows no checksums compares that one.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if endpoint else "auto", "payload_signing_enabled": True},
        ),
    )


NEW = {"IfNoneMatch": "*"}  # the condition of a write


class Abilities:
    """What a storage does that not every one does: taken for granted until it refuses, then done without.

    Without conditions two writers of a blob write the same bytes twice. Without checksums the signature has one.
    Without parts a blob is sent in one request.
    """

    def __init__(self) -> None:
        self.conditions = self.checksums = self.parts = True

    def without(self, name: str) -> None:
        if getattr(self, name):
            setattr(self, name, False)
            log.warning("the object storage refuses %s; blobs are stored without them from now on", WORDS[name])


WORDS = {
    "conditions": "conditions of writes (If-None-Match)",
    "checksums": "checksums (x-amz-checksum-sha256)",
    "parts": "uploads in parts",
}
# What storages say to a header or a call that they do not know.
NOT_KNOWN = {
    *("NotImplemented", "501", "405", "MethodNotAllowed", "400", "BadRequest", "InvalidArgument", "InvalidRequest"),
    *("MalformedXML", "InvalidHeader", "UnsupportedOperation", "UnsupportedArgument"),
}
LARGEST = 5 * 2**30  # bytes of one request, by the protocol


def store(client: Any, place: Place, file: BufferedReader, digest: str, abilities: Abilities, *, new: bool) -> None:
    """Store a file; nothing can be seen of it before it is whole. `new`: there is none yet.

    Raises:
        BlobCorruptError: the file is not what was hashed.
        BeatenError: another writer was first.
        StorageRefusedError: it is too large for a storage that takes no parts.
    """
    wanted = {"parts": _size(file) > PART, "checksums": True, "conditions": new}
    choices = [(True, False) if wanted[name] and getattr(abilities, name) else (False,) for name in wanted]
    first: StorageUnavailableError | None = None
    for chosen in product(*choices):
        parts, checksums, conditions = chosen
        file.seek(0)
        try:
            (_put_parts if parts else _put_whole)(client, place, file, digest, NEW if conditions else {}, checksums)
        except StorageUnavailableError as error:
            if error.code not in NOT_KNOWN and not (parts and error.code in ("403", "AccessDenied")):
                raise
            first = first or error
        else:
            for name, had, used in zip(wanted, choices, chosen, strict=True):
                if had[0] and not used:
                    abilities.without(name)
            return
    raise first or StorageUnavailableError("the object storage was not asked")


def _size(file: BufferedReader) -> int:
    return os.fstat(file.fileno()).st_size


def _put_whole(
    client: Any, place: Place, file: BufferedReader, digest: str, condition: dict[str, str], checksums: bool
) -> None:
    if _size(file) > LARGEST:
        raise StorageRefusedError("the object storage takes no uploads in parts, so none of over 5 GiB: use another")
    checksum = hashlib.file_digest(file, "sha256")
    _require(checksum, digest)
    told = {"ChecksumSHA256": _base64(checksum)} if checksums else {}
    file.seek(0)
    body = file.read() if _size(file) <= PART else file
    with asking():
        client.put_object(**place, Body=body, **told, **condition)


def _put_parts(
    client: Any, place: Place, file: BufferedReader, digest: str, condition: dict[str, str], checksums: bool
) -> None:
    whole, parts = hashlib.sha256(), []
    with _multipart(client, place, checksums) as upload:
        for number, data in enumerate(iter(lambda: file.read(PART), b""), 1):
            whole.update(data)
            part: dict[str, Any] = {"PartNumber": number}
            if checksums:
                part["ChecksumSHA256"] = _base64(hashlib.sha256(data))
            with asking():
                reply = client.upload_part(**upload, **part, Body=data)
            parts.append(part | {"ETag": reply["ETag"]})
        _require(whole, digest)
        with asking():
            client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, **condition)


@contextmanager
def _multipart(client: Any, place: Place, checksums: bool) -> Iterator[dict[str, str]]:
    told = {"ChecksumAlgorithm": "SHA256"} if checksums else {}
    with asking():
        reply = client.create_multipart_upload(**place, **told)
    upload = place | {"UploadId": reply["UploadId"]}
    try:
        yield upload
    except BaseException:
        with suppress(StorageUnavailableError), asking():  # where this fails, a later sweep does it
            client.abort_multipart_upload(**upload)
        raise


def _require(found: Any, digest: str) -> None:
    if f"sha256:{found.hexdigest()}" != digest:
        raise BlobCorruptError(digest)


def _base64(checksum: Any) -> str:
    return base64.b64encode(checksum.digest()).decode()


def read(client: Any, place: Place, digest: str, start: int, stop: int, patience: float) -> Iterator[bytes]:
    """Bytes `start` to `stop`; a body that breaks off or gets stuck is taken up where it was left."""
    tries = 0
    while start < stop:
        with asking(digest):
            reply = client.get_object(**place, Range=f"bytes={start}-{stop - 1}")
        body, tries = reply["Body"], tries + 1
        before = 0 if "ContentRange" in reply else start  # bytes of a storage that sends the whole
        try:
            with closing(body):
                for whole in _pieces(body, patience):
                    piece, before = whole[before:][: stop - start], max(0, before - len(whole))
                    start += len(piece)
                    if piece:
                        yield piece
                    if start == stop:
                        break
        except StorageUnavailableError as error:
            log.warning("a read broke off: %s", error)
        if start < stop and tries == ATTEMPTS:
            raise StorageUnavailableError(f"the object storage broke off a read {ATTEMPTS} times")


def _pieces(body: Any, patience: float) -> Iterator[bytes]:
    came, waited = 0, 0.0  # seconds spent on the storage, not on whom the pieces are for
    while True:
        began = time.monotonic()
        with asking():
            piece = body.read(PIECE)
        waited += time.monotonic() - began
        if not piece:
            return
        came += len(piece)
        yield piece
        if waited > patience + came / SLOWEST:
            raise StorageUnavailableError(f"the object storage sent {came} bytes in {waited:.0f} seconds")
