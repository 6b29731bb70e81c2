"""Object storage that answers slowly, wrongly or not at all: puts stay atomic, errors clear, tries bounded."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import boto3.session
import pytest
from pydantic import SecretStr

from app.blobs import bucket, s3
from app.blobs.bucket import Bucket
from app.blobs.folder import BlobCorruptError, BlobMissingError, StorageRefusedError, StorageUnavailableError
from app.blobs.open import open_blobs
from app.core.config import Settings
from tests.app.blobs.s3_server import Exchange, Fault, Proxy, error, patience, proxy, s3_server

PART = 5 * 2**20  # the protocol's smallest
SMALL = b"a blob of one part" * 40_000
LARGE = b"a blob of three parts" * 550_000
DIGEST = f"sha256:{hashlib.sha256(SMALL).hexdigest()}"
LARGE_DIGEST = f"sha256:{hashlib.sha256(LARGE).hexdigest()}"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def shim(server: str) -> Iterator[Proxy]:
    with proxy(server) as found:
        yield found


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path, shim: Proxy) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        blob_url="s3://bucket/prefix",
        s3_endpoint=shim.url,
        s3_access_key="key",
        s3_secret_key="the-secret",
        s3_timeout_seconds=patience(request, silent, stalls_in_the_reply),
    )


@pytest.fixture
def blobs(settings: Settings, server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket behind the proxy; nobody waits between tries."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    monkeypatch.setattr(s3, "PART", PART)
    direct = open_blobs(settings.model_copy(update={"s3_endpoint": server}))
    assert isinstance(direct, Bucket)
    direct._client.create_bucket(Bucket="bucket")
    found = open_blobs(settings)
    assert isinstance(found, Bucket)
    yield found
    for digest in direct.older_than(-60):
        direct.delete(digest)
    direct.sweep_parts(-60)


def kept(blobs: Bucket) -> list[str]:
    return sorted(blobs.older_than(-60))


def uploads(blobs: Bucket) -> list[Any]:
    found: list[Any] = blobs._client.list_multipart_uploads(Bucket="bucket").get("Uploads", [])
    return found


def count(shim: Proxy, method: str, part: str = "") -> int:
    return sum(line.startswith(method) and part in line for line in shim.seen)


# -- faults ----------------------------------------------------------------------------------------


def answers(status: int, code: str) -> Fault:
    def fault(exchange: Exchange) -> None:
        exchange.receive()
        exchange.answer(*error(status, code))

    return fault


def silent(exchange: Exchange) -> None:
    exchange.receive()
    exchange.stall()


def cuts_the_request(exchange: Exchange) -> None:
    exchange.receive(most=100_000)
    exchange.reset()


def loses_the_reply(exchange: Exchange) -> None:
    exchange.forward(exchange.receive())
    exchange.reset()


def damages_the_request(exchange: Exchange) -> None:
    body = bytearray(exchange.receive())
    body[1000] ^= 1
    exchange.answer(*exchange.forward(bytes(body)))


def cuts_the_reply(exchange: Exchange) -> None:
    status, headers, body = exchange.forward(b"")
    exchange.begin(status, headers)
    exchange.wfile.write(body[: len(body) // 2])
    exchange.reset()


def stalls_in_the_reply(exchange: Exchange) -> None:
    status, headers, body = exchange.forward(b"")
    exchange.begin(status, headers)
    exchange.wfile.write(body[: len(body) // 2])
    exchange.stall()


BROKEN = {
    "an error of the server": answers(500, "InternalError"),
    "a request to slow down": answers(503, "SlowDown"),
    "silence": silent,
    "a reset in the middle of the body": cuts_the_request,
}
broken = pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN.keys())


# -- writing ---------------------------------------------------------------------------------------


def test_a_put_carries_its_digest_and_its_condition(blobs: Bucket, shim: Proxy) -> None:
    headers: list[Any] = []

    def looks(exchange: Exchange) -> None:
        headers.append(exchange.headers)
        exchange.answer(*exchange.forward(exchange.receive()))

    shim.spoil("PUT", looks)
    blobs.put(b"hello")
    assert headers[0]["x-amz-checksum-sha256"] == "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="
    assert headers[0]["if-none-match"] == "*"


def refuses(header: str, code: str, status: int = 501) -> Fault:
    """A storage that does not know a header."""

    def fault(exchange: Exchange) -> None:
        body = exchange.receive()
        named = header in exchange.headers or (header.encode() in body and exchange.command == "POST")
        exchange.answer(*(error(status, code) if named else exchange.forward(body)))

    return fault


OTHERS = {
    "no conditions": [("PUT", refuses("if-none-match", "NotImplemented"), ""),
                      ("POST", refuses("if-none-match", "NotImplemented"), "")],
    "no checksums": [("PUT", refuses("x-amz-checksum-sha256", "InvalidRequest", 400), ""),
                     ("POST", refuses("x-amz-checksum-algorithm", "InvalidArgument", 400), "")],
    "no checksums of parts": [("PUT", refuses("x-amz-checksum-sha256", "InvalidArgument", 400), ""),
                              ("POST", refuses("ChecksumSHA256", "MalformedXML", 400), "")],
    "neither": [("PUT", refuses("x-amz-checksum-sha256", "NotImplemented"), ""),
                ("PUT", refuses("if-none-match", "InvalidHeader", 400), ""),
                ("POST", refuses("if-none-match", "InvalidHeader", 400), ""),
                ("POST", refuses("x-amz-checksum-algorithm", "NotImplemented"), "")],
    "no parts": [("POST", answers(501, "NotImplemented"), "uploads")],
    "parts forbidden": [("POST", answers(403, "AccessDenied"), "uploads")],
    "parts of another method": [("POST", answers(405, "MethodNotAllowed"), "uploads")],
}  # fmt: skip


@pytest.mark.parametrize("lacking", OTHERS.values(), ids=OTHERS.keys())
def test_a_storage_that_is_not_amazons_is_done_with_without_what_it_lacks(
    blobs: Bucket, shim: Proxy, lacking: list[tuple[str, Fault, str]], caplog: pytest.LogCaptureFixture
) -> None:
    for method, fault, path in lacking:
        shim.spoil(method, fault, path=path)
    assert blobs.put(SMALL).digest == DIGEST
    assert blobs.put(LARGE).digest == LARGE_DIGEST
    for digest, data in ((DIGEST, SMALL), (LARGE_DIGEST, LARGE)):
        assert blobs.fetch(digest).read_bytes() == data
    assert uploads(blobs) == []
    said = [record.getMessage() for record in caplog.records if "refuses" in record.getMessage()]
    assert 1 <= len(said) == len(set(said)) <= 2
    shim.seen.clear()
    blobs.put(b"found out once")
    blobs.put(LARGE[::-1])
    spoiled = count(shim, "PUT"), count(shim, "POST")
    assert spoiled in {(1 + 3, 2), (1 + 1, 0)}, "nothing is tried again"
    blobs.check()


def test_what_is_damaged_is_refused_without_checksums_too(blobs: Bucket, shim: Proxy) -> None:
    """The signature holds the body's digest, which every storage compares; the one behind the proxy does not."""

    def compares(exchange: Exchange) -> None:
        if "x-amz-checksum-sha256" in exchange.headers:
            exchange.receive()
            exchange.answer(*error(501, "NotImplemented"))
            return
        body = bytearray(exchange.receive())
        body[1000] ^= 1
        signed = exchange.headers["x-amz-content-sha256"] == hashlib.sha256(body).hexdigest()
        exchange.answer(*(exchange.forward(bytes(body)) if signed else error(400, "XAmzContentSHA256Mismatch")))

    shim.spoil("PUT", compares)
    with pytest.raises(StorageUnavailableError, match="Mismatch"):
        blobs.put(SMALL)
    assert kept(blobs) == []


def test_no_request_has_a_trailer(blobs: Bucket, shim: Proxy) -> None:
    headers: list[Any] = []

    def looks(exchange: Exchange) -> None:
        headers.append(exchange.headers)
        exchange.answer(*exchange.forward(exchange.receive()))

    shim.spoil("PUT", looks)
    shim.spoil("POST", looks)
    blobs.put(LARGE)
    blobs.check()
    for each in headers:
        assert "x-amz-trailer" not in each
        assert "aws-chunked" not in each.get("content-encoding", "")
        assert "STREAMING" not in each["x-amz-content-sha256"]


def test_a_blob_that_is_too_large_for_one_request_is_refused_with_words(
    blobs: Bucket, shim: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "LARGEST", PART)
    shim.spoil("POST", answers(501, "NotImplemented"), path="uploads")
    with pytest.raises(StorageUnavailableError, match=r"uploads in parts|NotImplemented"):
        blobs.put(LARGE)
    assert kept(blobs) == []


@pytest.mark.parametrize(("start", "stop"), [(0, 9), (100_000, 600_000), (len(SMALL) - 3, len(SMALL))])
def test_a_storage_that_sends_the_whole_for_a_range_is_read_rightly(
    blobs: Bucket, shim: Proxy, start: int, stop: int
) -> None:
    def ignores_the_range(exchange: Exchange) -> None:
        del exchange.headers["range"]
        exchange.answer(*exchange.forward(b""))

    blobs.put(SMALL)
    shim.spoil("GET", ignores_the_range, path="prefix")
    assert b"".join(blobs.read(DIGEST, start, stop)) == SMALL[start:stop]


def test_a_storage_that_lists_no_uploads_and_says_no_time_is_swept(blobs: Bucket, shim: Proxy) -> None:
    def says_no_time(exchange: Exchange) -> None:
        status, headers, body = exchange.forward(b"")
        exchange.answer(status, {k: v for k, v in headers.items() if k.lower() != "date"}, body)

    blobs.put(SMALL)
    shim.spoil("GET", answers(501, "NotImplemented"), path="uploads")
    shim.spoil("GET", says_no_time)
    assert blobs.sweep_parts(3600) == 0
    assert kept(blobs) == [DIGEST]


@broken
def test_a_put_outlives_one_failure(blobs: Bucket, shim: Proxy, fault: Fault) -> None:
    shim.spoil("PUT", fault, times=1)
    assert blobs.put(SMALL).digest == DIGEST
    assert count(shim, "PUT") == 2
    assert blobs.fetch(DIGEST).read_bytes() == SMALL


@broken
def test_a_put_that_keeps_failing_ends_in_one_error_and_leaves_nothing(
    blobs: Bucket, shim: Proxy, fault: Fault
) -> None:
    shim.spoil("PUT", fault)
    with pytest.raises(StorageUnavailableError, match="object storage") as caught:
        blobs.put(SMALL)
    assert "the-secret" not in str(caught.value)
    assert count(shim, "PUT") == s3.ATTEMPTS
    assert kept(blobs) == []
    assert list((blobs._root / "incoming").iterdir()) == []


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["one part", "three parts"])
def test_bytes_that_are_damaged_on_the_way_are_refused(blobs: Bucket, shim: Proxy, data: bytes) -> None:
    shim.spoil("PUT", damages_the_request)
    with pytest.raises(StorageUnavailableError, match="BadDigest"):
        blobs.put(data)
    assert kept(blobs) == []
    assert uploads(blobs) == []


@broken
def test_a_multipart_upload_cut_in_the_middle_leaves_nothing(blobs: Bucket, shim: Proxy, fault: Fault) -> None:
    shim.spoil("PUT", fault, path="partNumber=2")
    with pytest.raises(StorageUnavailableError):
        blobs.put(LARGE)
    assert count(shim, "PUT", "partNumber=2") == s3.ATTEMPTS
    assert kept(blobs) == []
    assert uploads(blobs) == []


@broken
def test_a_multipart_upload_outlives_a_failure_of_each_request(blobs: Bucket, shim: Proxy, fault: Fault) -> None:
    shim.spoil("POST", fault, times=1, path="uploads")
    shim.spoil("PUT", fault, times=1, path="partNumber=3")
    shim.spoil("POST", fault, times=1, path="uploadId")
    assert blobs.put(LARGE).digest == LARGE_DIGEST
    assert blobs.fetch(LARGE_DIGEST).read_bytes() == LARGE


@pytest.mark.parametrize(("data", "method", "path"), [(SMALL, "PUT", "prefix"), (LARGE, "POST", "uploadId")])
def test_a_write_whose_reply_was_lost_is_found_done(
    blobs: Bucket, shim: Proxy, data: bytes, method: str, path: str
) -> None:
    shim.spoil(method, loses_the_reply, times=1, path=path)
    stored = blobs.put(data)
    assert kept(blobs) == [stored.digest]
    assert uploads(blobs) == []


def test_what_an_abandoned_upload_left_is_swept_once_it_is_old(blobs: Bucket, shim: Proxy) -> None:
    began = [datetime.now(UTC)]

    def dates_the_upload(exchange: Exchange) -> None:  # the server behind says 2010 of every upload
        status, headers, body = exchange.forward(b"")
        body = body.replace(b"2010-11-10T20:48:33.000Z", f"{began[0]:%Y-%m-%dT%H:%M:%S.000Z}".encode())
        exchange.answer(status, headers, body)

    shim.spoil("GET", dates_the_upload, path="uploads")
    shim.spoil("PUT", answers(400, "Refused"), path="partNumber=2", times=1)
    shim.spoil("DELETE", answers(400, "Refused"), times=1)
    with pytest.raises(StorageUnavailableError, match="Refused to UploadPart"):
        blobs.put(LARGE)
    other = blobs._client.create_multipart_upload(Bucket="bucket", Key="prefix/of another program")
    assert len(uploads(blobs)) == 2
    assert blobs.sweep_parts(3600) == 0
    began[0] -= timedelta(hours=2)
    assert blobs.sweep_parts(3600) == 1
    assert [upload["UploadId"] for upload in uploads(blobs)] == [other["UploadId"]]
    blobs._client.abort_multipart_upload(Bucket="bucket", Key=other["Key"], UploadId=other["UploadId"])


def test_a_file_that_changed_after_it_was_hashed_is_not_stored(blobs: Bucket) -> None:
    for data in (SMALL, LARGE):
        with pytest.raises(BlobCorruptError), blobs.writer() as writer:
            writer.write(data)
            with writer.path.open("r+b") as file:
                file.write(b"!")
            writer.commit()
    assert kept(blobs) == []
    assert uploads(blobs) == []


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [cuts_the_reply, stalls_in_the_reply])
def test_a_read_that_breaks_off_is_taken_up_where_it_was(blobs: Bucket, shim: Proxy, fault: Fault) -> None:
    blobs.put(LARGE)
    shim.spoil("GET", fault, times=2, path="prefix")
    assert b"".join(blobs.read(LARGE_DIGEST, 5, len(LARGE) - 5)) == LARGE[5:-5]
    assert count(shim, "GET", "prefix") == 3


@pytest.mark.parametrize("fault", [cuts_the_reply, stalls_in_the_reply])
def test_a_read_that_keeps_breaking_off_ends_in_an_error(blobs: Bucket, shim: Proxy, fault: Fault) -> None:
    blobs.put(LARGE)
    shim.spoil("GET", fault, path="prefix")
    with pytest.raises(StorageUnavailableError, match="broke off"):
        blobs.fetch(LARGE_DIGEST)
    assert count(shim, "GET", "prefix") == s3.ATTEMPTS
    assert list(blobs._root.glob("??/*")) == []
    assert list((blobs._root / "incoming").iterdir()) == []


@pytest.mark.parametrize("fault", [answers(500, "InternalError"), silent])
def test_a_storage_that_is_away_is_not_a_blob_that_is_missing(blobs: Bucket, shim: Proxy, fault: Fault) -> None:
    blobs.put(SMALL)
    for method in ("HEAD", "GET", "DELETE"):
        shim.spoil(method, fault)
    patient = (blobs.size, blobs.fetch, lambda digest: list(blobs.read(digest, 0, 9)))
    brief = (blobs.confirm, blobs.delete)
    for ask in (*patient, *brief):
        asked = len(shim.seen)
        with pytest.raises(StorageUnavailableError):
            ask(DIGEST)
        assert len(shim.seen) - asked == (1 if ask in brief else s3.ATTEMPTS)
    with pytest.raises(StorageUnavailableError):
        kept(blobs)


def test_a_body_that_only_trickles_counts_as_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    class Trickle:
        def read(self, size: int) -> bytes:
            nonlocal now
            now += 60
            return b"x" * size

    with pytest.raises(StorageUnavailableError, match="in 120 seconds"):
        list(s3._pieces(Trickle(), patience=2 * 60 - 2 * s3.PIECE / s3.SLOWEST - 1))


def test_a_bucket_that_is_not_there_is_not_a_blob_that_is_missing(settings: Settings, blobs: Bucket) -> None:
    absent = open_blobs(settings.model_copy(update={"blob_url": "s3://no-such-bucket"}))
    for ask in (absent.size, absent.fetch, absent.delete, lambda digest: list(absent.read(digest, 0, 9))):
        with pytest.raises(StorageUnavailableError):
            ask(DIGEST)
    with pytest.raises(StorageUnavailableError):
        absent.put(SMALL)


@pytest.mark.parametrize(
    ("method", "status", "code", "said"),
    [
        ("PUT", 403, "AccessDenied", "get, put, delete and list"),
        ("GET", 403, "AccessDenied", "get, put, delete and list"),
        ("DELETE", 403, "AccessDenied", "get, put, delete and list"),
        ("DELETE", 403, "ObjectLocked", "object lock"),
        ("PUT", 403, "InvalidAccessKeyId", "set LETHE_S3_ACCESS_KEY and LETHE_S3_SECRET_KEY"),
        ("PUT", 403, "SignatureDoesNotMatch", "set LETHE_S3_ACCESS_KEY and LETHE_S3_SECRET_KEY"),
        ("PUT", 404, "NoSuchBucket", "make the bucket"),
        ("PUT", 400, "AuthorizationHeaderMalformed", "LETHE_S3_REGION"),
        ("PUT", 403, "RequestTimeTooSkewed", "set the clock"),
        ("PUT", 507, "XMinioStorageFull", "make room"),
    ],
)
def test_a_storage_that_allows_head_and_refuses_what_is_needed_says_what_to_change(
    blobs: Bucket, shim: Proxy, method: str, status: int, code: str, said: str
) -> None:
    """As seen: a bucket that allowed HEAD and refused PUT `did not answer`, for ever."""
    shim.spoil(method, answers(status, code), path="prefix")
    with pytest.raises(StorageRefusedError, match=said) as caught:
        blobs.check()
    assert "the-secret" not in str(caught.value)


def test_a_look_leaves_nothing_in_the_bucket(blobs: Bucket) -> None:
    before = blobs._client.list_objects_v2(Bucket="bucket").get("Contents", [])
    blobs.check()
    assert blobs._client.list_objects_v2(Bucket="bucket").get("Contents", []) == before


def test_a_bucket_that_is_not_there_and_missing_keys_are_refusals(
    settings: Settings, blobs: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ask in (lambda found: found.check(), lambda found: found.size(DIGEST)):
        with pytest.raises(StorageRefusedError, match="make the bucket"):
            ask(open_blobs(settings.model_copy(update={"blob_url": "s3://no-such-bucket"})))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("app.blobs.s3.Session", boto3.session.Session)
    keyless = settings.model_copy(update={"s3_access_key": "", "s3_secret_key": SecretStr("")})
    with pytest.raises(StorageRefusedError, match="no credentials"):
        open_blobs(keyless).check()


def test_a_refusal_is_letter_sent_at_once(blobs: Bucket, shim: Proxy) -> None:
    shim.spoil("PUT", answers(403, "AccessDenied"))
    with pytest.raises(StorageUnavailableError, match="answered AccessDenied to PutObject"):
        blobs.put(SMALL)
    assert count(shim, "PUT") == 1


def test_a_service_starts_while_its_storage_is_away(tmp_path: Path) -> None:
    blobs = open_blobs(Settings(data_dir=tmp_path, blob_url="s3://bucket", s3_endpoint="http://127.0.0.1:9"))
    assert isinstance(blobs, Bucket)


# -- copies, versions, age -------------------------------------------------------------------------


def test_a_damaged_copy_is_fetched_again(blobs: Bucket) -> None:
    blobs.put(SMALL)
    blobs.fetch(DIGEST).write_bytes(b"damaged")
    assert blobs.fetch(DIGEST).read_bytes() == SMALL


def test_a_copy_spares_the_next_read(blobs: Bucket, shim: Proxy) -> None:
    blobs.put(SMALL)
    assert blobs.fetch(DIGEST) == blobs.fetch(DIGEST)
    assert count(shim, "GET", "prefix") == 1


def test_copies_go_when_another_machine_deletes_the_blob(settings: Settings, blobs: Bucket, tmp_path: Path) -> None:
    other = open_blobs(settings.model_copy(update={"data_dir": tmp_path / "another machine"}))
    first, second = blobs.put(SMALL).digest, blobs.put(b"second").digest
    paths = [blobs.fetch(first), blobs.fetch(second)]
    other.delete(first)
    other.delete(second)
    with pytest.raises(BlobMissingError):
        blobs.fetch(first)
    assert [path.exists() for path in paths] == [False, True]
    assert blobs.sweep_copies() == 1
    assert not paths[1].exists()


def test_copies_stay_within_their_bound_but_for_those_just_used(
    settings: Settings, blobs: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded = open_blobs(settings.model_copy(update={"s3_copies_bytes": 2500}))
    digests = [blobs.put(bytes([n]) * 1000).digest for n in range(4)]
    paths = [bounded.fetch(digest) for digest in digests[:3]]
    assert all(path.exists() for path in paths)
    monkeypatch.setattr(bucket, "JUST_USED", 0.0)
    bounded.fetch(digests[0])
    bounded.fetch(digests[3])
    assert [path.exists() for path in paths] == [True, False, False]


@pytest.mark.parametrize("says", [True, False])
def test_a_bucket_that_keeps_versions_keeps_none_of_a_deleted_blob(blobs: Bucket, says: bool) -> None:
    """Not every storage says in its reply that it kept one."""
    name = f"versioned-{says}".lower()
    client = blobs._client
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    versioned = Bucket(client, name, "", blobs._settings)
    if not says:
        drop = lambda parsed, **_: parsed.pop("DeleteMarker", None)  # noqa: E731
        versioned._brief.meta.events.register("after-call.s3.DeleteObject", drop)
    digest, other = versioned.put(SMALL).digest, versioned.put(b"other").digest
    versioned.put(SMALL)
    assert versioned.delete(digest)
    assert not versioned.delete(digest)
    listed = client.list_object_versions(Bucket=name)
    assert [version["Key"][3:] for version in listed["Versions"]] == [other.removeprefix("sha256:")]
    assert "DeleteMarkers" not in listed


def test_age_is_told_by_the_storages_clock_and_only_of_blobs(blobs: Bucket, shim: Proxy) -> None:
    def two_days_later(exchange: Exchange) -> None:
        status, headers, body = exchange.forward(b"")
        later = format_datetime(datetime.now(UTC) + timedelta(days=2), usegmt=True)
        exchange.answer(status, {k: v for k, v in headers.items() if k.lower() != "date"} | {"Date": later}, body)

    blobs.put(SMALL)
    blobs._client.put_object(Bucket="bucket", Key="prefix/notes.txt", Body=b"of another program")
    assert list(blobs.older_than(24 * 3600)) == []
    shim.spoil("GET", two_days_later)
    assert list(blobs.older_than(24 * 3600)) == [DIGEST]


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["bucket", "s3://", "s3://Bucket", "https://host/bucket", "s3://bucket/../other/x?y"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="blob_url"):
        Settings(blob_url=url)


def test_a_service_with_a_folder_never_loads_the_library(tmp_path: Path) -> None:
    code = (
        "import sys; from app.blobs.open import open_blobs; from app.core.config import Settings; import app.main\n"
        f"open_blobs(Settings(data_dir={str(tmp_path)!r})); print('boto3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
