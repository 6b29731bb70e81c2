"""The client against a server that drops connections, is busy, forgets replies and cuts downloads short."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from lethe import (
    Client,
    JobFailedError,
    LetheError,
    ProblemError,
    TransferError,
    UnreachableError,
    WaitTimeoutError,
    transport,
)
from lethe.transport import retry_after

Handler = Callable[[httpx.Request], httpx.Response]
DATA = bytes(range(256)) * 20_000  # 5 MB: several pieces
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
JOB = "job_" + "0" * 26


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits; the pauses that were asked for."""
    found: list[float] = []
    monkeypatch.setattr("lethe.transport.time.sleep", found.append)
    return found


def client(handler: Handler, **options: Any) -> Client:
    return Client("http://service", "lethe_key", transport=httpx.MockTransport(handler), **options)


def problem(status: int, kind: str, **members: Any) -> httpx.Response:
    body = {"type": f"urn:lethe:problems/{kind}", "title": "T", "status": status, "detail": "D", **members}
    return httpx.Response(status, json=body)


# -- retries ---------------------------------------------------------------------------------------


class Forgetful:
    """Commits each POST, and drops the first `lost` connections before the reply leaves. Replays by key."""

    def __init__(self, lost: int) -> None:
        self.lost = lost
        self.made: dict[str, dict[str, Any]] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        key = request.headers["idempotency-key"]
        self.made.setdefault(key, {"id": f"del_{len(self.made)}", **json.loads(request.content)})
        if self.lost:
            self.lost -= 1
            raise httpx.ReadError("connection reset")
        return httpx.Response(202, json=self.made[key])


def test_only_a_line_feed_ends_a_line_of_a_stream() -> None:
    """httpx ends them wherever Unicode has a line's end. The service escapes such marks; others need not."""
    event = {"state": "failed", "why": "a\u2028b\u0085c\x0cd\x1ce"}
    body = f"id: 1\r\nevent: state\r\ndata: {json.dumps(event, ensure_ascii=False)}\r\n\r\n: alive\n".encode()
    for size in (1, 7, len(body)):
        pieces = (body[at : at + size] for at in range(0, len(body), size))
        assert list(transport._parse(transport._lines(pieces))) == [(1, "state", event), None]


def test_a_post_whose_reply_was_lost_is_not_done_twice() -> None:
    service = Forgetful(lost=2)
    with client(service) as lethe:
        found = lethe.requests.create("dst_1", ["a"], basis="ticket")
        again = lethe.requests.create("dst_1", ["a"], basis="ticket")
    assert found["id"] == "del_0"
    assert again["id"] == "del_1"  # another call is another request
    assert len(service.made) == 2
    body = service.made[next(iter(service.made))]
    assert body == {"id": "del_0", "dataset": "dst_1", "sample_ids": ["a"], "basis": "ticket"}  # and no nulls


def test_a_key_of_the_callers_own_is_sent_as_it_is() -> None:
    service = Forgetful(lost=1)
    with client(service) as lethe:
        for _ in range(3):
            assert lethe.requests.create("dst_1", ["a"], idempotency_key="ticket-7")["id"] == "del_0"
    assert list(service.made) == ["ticket-7"]


def test_an_address_without_a_scheme_is_called_that() -> None:
    with Client("127.0.0.1:8321", "k") as lethe, pytest.raises(LetheError, match="must begin with http://") as error:
        lethe.jobs.get(JOB)
    assert not isinstance(error.value, UnreachableError)


def test_it_gives_up_after_so_many_tries_and_says_why(pauses: list[float]) -> None:
    tries = 0

    def refuse(_: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        raise httpx.ConnectError("nobody there")

    with client(refuse, retries=3) as lethe, pytest.raises(UnreachableError, match="ConnectError") as error:
        lethe.jobs.get(JOB)
    assert tries == 4
    assert isinstance(error.value.__cause__, httpx.ConnectError)
    assert len(pauses) == 3
    assert all(0.75 * low <= pause <= 1.25 * low for pause, low in zip(pauses, (0.25, 0.5, 1.0), strict=True))


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_a_busy_service_is_asked_again_after_the_time_it_names(status: int, pauses: list[float]) -> None:
    replies = iter([(status, {"Retry-After": "7"}), (status, {}), (200, {})])

    def busy(_: httpx.Request) -> httpx.Response:
        code, headers = next(replies)
        return httpx.Response(code, json={"id": JOB}, headers=headers)

    with client(busy) as lethe:
        assert lethe.jobs.get(JOB)["id"] == JOB
    assert pauses[0] == 7.0
    assert 0.375 <= pauses[1] <= 0.625


def test_a_service_that_stays_busy_is_a_problem_in_its_own_words() -> None:
    with client(lambda _: problem(503, "busy"), retries=2) as lethe, pytest.raises(ProblemError) as refused:
        lethe.jobs.get(JOB)
    assert (refused.value.status, refused.value.kind) == (503, "busy")


def test_a_very_long_retry_after_is_not_obeyed_blindly(pauses: list[float]) -> None:
    late = {"Retry-After": "86400"}
    with client(lambda _: httpx.Response(503, headers=late), retries=1) as lethe, pytest.raises(ProblemError):
        lethe.jobs.get(JOB)
    assert pauses == [60.0]


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    now = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after("120", now) == 120.0
    assert retry_after("Sun, 01 Mar 2026 12:00:30 GMT", now) == 30.0
    assert retry_after("Sun, 01 Mar 2026 11:00:00 GMT", now) == 0.0
    assert retry_after("soon", now) is None
    assert retry_after("", now) is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422, 500])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    asked = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return problem(status, "some-kind", errors=[{"pointer": "/x", "detail": "wrong"}])

    with client(refuse) as lethe, pytest.raises(ProblemError) as refused:
        lethe.requests.create("dst_1", ["a"])
    assert len(asked) == 1
    error = refused.value
    assert (error.status, error.kind, error.title, error.detail) == (status, "some-kind", "T", "D")
    assert error.type == "urn:lethe:problems/some-kind"
    assert error.errors == [{"pointer": "/x", "detail": "wrong"}]
    assert str(error) == "D\n  /x: wrong"
    assert not error.tried_again


@pytest.mark.parametrize("body", [b"", b"<html>Bad Gateway</html>", b"[1]"])
def test_what_is_no_problem_document_is_a_problem_all_the_same(body: bytes) -> None:
    with client(lambda _: httpx.Response(500, content=body)) as lethe, pytest.raises(ProblemError, match="HTTP 500"):
        lethe.jobs.get(JOB)


def test_a_deletion_whose_reply_was_lost_is_done() -> None:
    replies: Iterator[Any] = iter([httpx.ReadError("reset"), problem(404, "not-found")])

    def answer(_: httpx.Request) -> httpx.Response:
        reply = next(replies)
        if isinstance(reply, Exception):
            raise reply
        return reply

    with client(answer) as lethe:
        lethe.models.remove_alias("mdl_1", "production")
    with client(lambda _: problem(404, "not-found")) as lethe, pytest.raises(ProblemError):
        lethe.models.remove_alias("mdl_1", "production")


# -- lists -----------------------------------------------------------------------------------------


def test_lists_are_read_page_by_page_as_they_are_used() -> None:
    asked: list[dict[str, str]] = []

    def pages(request: httpx.Request) -> httpx.Response:
        params = dict(request.url.params)
        asked.append(params)
        start = int(params.get("page_token", 0))
        return httpx.Response(
            200,
            json={
                "items": [{"id": start}, {"id": start + 1}],
                "next_page_token": str(start + 2) if start < 4 else None,
            },
        )

    with client(pages) as lethe:
        found = lethe.jobs.list(state="failed", model=None)
        assert next(found) == {"id": 0}
        assert len(asked) == 1
        assert [item["id"] for item in found] == [1, 2, 3, 4, 5]
    assert asked == [
        {"state": "failed"},
        {"state": "failed", "page_token": "2"},
        {"state": "failed", "page_token": "4"},
    ]


def test_many_requests_go_in_parts_that_one_call_takes() -> None:
    calls: list[int] = []
    keys = set()

    def take(request: httpx.Request) -> httpx.Response:
        lines = request.content.splitlines()
        calls.append(len(lines))
        keys.add(request.headers["idempotency-key"])
        assert len(request.content) <= 9 * 2**20
        results = [
            {"line": n, "status": 202, "id": json.loads(line)["basis"], "problem": None} for n, line in enumerate(lines)
        ]
        return httpx.Response(200, text="".join(json.dumps(result) + "\n" for result in results))

    bodies = [{"dataset": "dst_1", "basis": str(n)} for n in range(2_500)]
    bodies += [{"dataset": "dst_1", "basis": str(n), "sample_ids": ["x" * 200] * 20_000} for n in range(2_500, 2_504)]
    with client(take) as lethe:
        results = list(lethe.requests.import_lines(bodies))
    assert [result["line"] for result in results] == list(range(2_504))
    assert [result["id"] for result in results] == [str(n) for n in range(2_504)]
    assert len(keys) == len(calls)
    assert calls[:2] == [1000, 1000]
    assert max(calls[3:]) <= 2


# -- files -----------------------------------------------------------------------------------------


class Store:
    """Serves DATA with ranges; cuts the connection after `cuts[n]` bytes of the n-th reply."""

    def __init__(self, cuts: list[int], data: bytes = DATA, digest: str = DIGEST) -> None:
        self.cuts, self.data, self.digest = cuts, data, digest
        self.ranges: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/checkpoint"):
            return httpx.Response(200, json={"digest": self.digest, "size": len(self.data)})
        wanted = request.headers.get("range")
        self.ranges.append(wanted)
        start = 0
        if wanted and request.headers["if-range"] == f'"{self.digest}"':
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        body = self.data[start:]
        cut = self.cuts.pop(0) if self.cuts else len(body)

        def pieces() -> Iterator[bytes]:
            yield body[:cut]
            if cut < len(body):
                raise httpx.ReadError("connection reset")

        return httpx.Response(206 if start else 200, content=pieces())


def test_a_download_that_is_cut_is_taken_up_where_it_was(tmp_path: Path) -> None:
    store = Store([2_000_000, 1_000_000])
    target, seen = tmp_path / "m.safetensors", []
    with client(store) as lethe:
        assert lethe.versions.download("mdl_1", 2, target, progress=lambda *at: seen.append(at)) == DIGEST
    assert target.read_bytes() == DATA
    assert store.ranges == [None, "bytes=2000000-", "bytes=3000000-"]
    assert list(tmp_path.iterdir()) == [target]
    assert seen[-1] == (len(DATA), len(DATA))
    assert [there for there, _ in seen] == sorted(there for there, _ in seen)


def test_a_download_goes_on_as_long_as_bytes_come(tmp_path: Path) -> None:
    store = Store([400_000] * 12)  # many more cuts than retries
    with client(store, retries=1) as lethe:
        lethe.versions.download("mdl_1", 2, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == DATA


def test_an_interrupted_download_is_taken_up_by_the_next_call(tmp_path: Path) -> None:
    target = tmp_path / "m"
    with client(Store([1_000_000, 0, 0]), retries=1) as lethe, pytest.raises(UnreachableError):
        lethe.versions.download("mdl_1", 2, target)
    assert not target.exists()
    store = Store([])
    with client(store) as lethe:
        lethe.versions.download("mdl_1", 2, target)
    assert store.ranges == ["bytes=1000000-"]
    assert target.read_bytes() == DATA


def test_what_is_left_of_another_version_is_not_taken_up(tmp_path: Path) -> None:
    target = tmp_path / "m"
    with client(Store([1_000_000, 0, 0]), retries=1) as lethe, pytest.raises(UnreachableError):
        lethe.versions.download("mdl_1", 2, target)
    other = DATA[::-1]
    store = Store([], other, f"sha256:{hashlib.sha256(other).hexdigest()}")
    with client(store) as lethe:
        lethe.versions.download("mdl_1", 3, target)
    assert store.ranges == [None]
    assert target.read_bytes() == other


def test_wrong_bytes_never_become_the_file(tmp_path: Path) -> None:
    target = tmp_path / "m"
    target.write_bytes(b"the old one")
    store = Store([], DATA[:-1] + b"?")
    with client(store) as lethe, pytest.raises(TransferError):
        lethe.versions.download("mdl_1", 2, target)
    assert target.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [target]


def test_a_purged_checkpoint_is_refused(tmp_path: Path) -> None:
    def gone(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/checkpoint"):
            return problem(410, "purged")
        return httpx.Response(200, json={"digest": DIGEST, "size": 5})

    with client(gone) as lethe, pytest.raises(ProblemError) as refused:
        lethe.versions.download("mdl_1", 2, tmp_path / "m")
    assert refused.value.status == 410


def test_an_upload_begins_again_from_its_start(tmp_path: Path) -> None:
    file = tmp_path / "data.parquet"
    file.write_bytes(DATA)
    bodies: list[bytes] = []

    def drop(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        assert request.headers["content-type"] == "application/vnd.apache.parquet"
        assert request.headers["content-length"] == str(len(DATA))
        if len(bodies) == 1:
            raise httpx.WriteError("connection reset")
        return httpx.Response(202, json={"id": "dst_1", "job": JOB})

    seen: list[tuple[int, int]] = []
    with client(drop) as lethe:
        assert lethe.datasets.upload("dst_1", file, progress=lambda *at: seen.append(at))["job"] == JOB
    assert bodies == [DATA, DATA]
    assert seen[-1] == (len(DATA), len(DATA))


def test_an_upload_that_was_taken_in_before_its_reply_was_lost_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "data.parquet"
    file.write_bytes(b"PAR1")
    puts = 0

    def forget(request: httpx.Request) -> httpx.Response:
        nonlocal puts
        if request.method == "PUT":
            puts += 1
            if puts == 1:
                raise httpx.ReadError("connection reset")
            return problem(409, "content-present")
        if request.url.path == "/v1/jobs":
            assert dict(request.url.params) == {"dataset": "dst_1", "kind": "ingest"}
            return httpx.Response(200, json={"items": [{"id": JOB}], "next_page_token": None})
        return httpx.Response(200, json={"id": "dst_1", "state": "ingesting", "job": None})

    with client(forget) as lethe:
        assert lethe.datasets.upload("dst_1", file) == {"id": "dst_1", "state": "ingesting", "job": JOB}
        with pytest.raises(ProblemError):  # the same refusal of a first try is one
            lethe.datasets.upload("dst_1", file)


# -- jobs and requests -----------------------------------------------------------------------------


def event(number: int, **data: Any) -> bytes:
    return f"event: state\nid: {number}\ndata: {json.dumps(data)}\n\n".encode()


class Stream:
    """Streams of events, one a connection, and the state of the job after each."""

    def __init__(self, *streams: list[bytes], states: list[str]) -> None:
        self.streams, self.states = list(streams), states
        self.after: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/events"):
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            return httpx.Response(200, json={"id": JOB, "state": state, "problem": {"detail": "why"}})
        self.after.append(request.headers["last-event-id"])
        pieces = self.streams.pop(0)

        def body() -> Iterator[bytes]:
            for piece in pieces:
                if piece == b"cut":
                    raise httpx.ReadError("connection reset")
                yield piece

        return httpx.Response(200, content=body())


def test_events_are_taken_up_after_a_dropped_stream() -> None:
    stream = Stream(
        [event(4, state="running", fraction=0.2), b": ping\n\n", b"cut"],
        [event(9, state="running", fraction=0.7), event(10, attempt=1), event(11, state="succeeded", fraction=1.0)],
        states=["succeeded"],
    )
    seen: list[Any] = []
    with client(stream) as lethe:
        assert lethe.jobs.wait(JOB, progress=seen.append)["state"] == "succeeded"
    assert stream.after == ["0", "4"]
    assert [data.get("fraction") for data in seen] == [0.2, 0.7, None, 1.0]


def test_a_stream_that_is_one_too_many_is_opened_again_after_the_time_it_names(pauses: list[float]) -> None:
    stream, refusals = Stream([event(1, state="succeeded")], states=["succeeded"]), iter([429, 503])

    def busy(request: httpx.Request) -> httpx.Response:
        status = next(refusals, None) if request.url.path.endswith("/events") else None
        return stream(request) if status is None else httpx.Response(status, headers={"Retry-After": "3"})

    with client(busy) as lethe:
        assert [data["state"] for data in lethe.jobs.follow(JOB)] == ["succeeded"]
    assert pauses == [3.0, 3.0]


def test_a_job_that_was_tried_again_is_followed_to_its_last_end() -> None:
    stream = Stream(
        [event(4, state="failed")],
        [event(7, state="running"), event(8, state="succeeded")],
        states=["queued", "succeeded"],
    )
    with client(stream) as lethe:
        assert [data["state"] for data in lethe.jobs.follow(JOB)] == ["failed", "running", "succeeded"]
    assert stream.after == ["0", "4"]


@pytest.mark.parametrize("state", ["rejected", "failed", "cancelled", "dead"])
def test_a_job_that_did_not_succeed_is_an_error_with_its_document(state: str) -> None:
    stream = Stream([event(1, state=state)], states=[state])
    with client(stream) as lethe, pytest.raises(JobFailedError, match="why") as failed:
        lethe.jobs.wait(JOB)
    assert failed.value.job["state"] == state


def test_waiting_ends_when_its_time_is_over() -> None:
    stream = Stream([b": ping\n\n"], states=["running"])
    with client(stream) as lethe, pytest.raises(WaitTimeoutError):
        lethe.jobs.wait(JOB, timeout=0)
    replies = iter(["processing", "published", "fulfilled"])

    def poll(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"status": next(replies)})

    with client(poll) as lethe, pytest.raises(TimeoutError):
        lethe.requests.wait("del_1", timeout=0)
    with client(poll) as lethe:
        seen: list[Any] = []
        assert lethe.requests.wait("del_1", progress=seen.append)["status"] == "fulfilled"
        assert [document["status"] for document in seen] == ["published", "fulfilled"]


@pytest.mark.parametrize("tagged", [True, False])
def test_waiting_asks_for_what_has_changed(tagged: bool) -> None:
    """What is still as it was is not sent again; without ETags (a proxy may take them away) it is."""
    states = iter(["processing", "processing", "processing", "fulfilled"])
    sent, unchanged = [], []

    def poll(request: httpx.Request) -> httpx.Response:
        state = next(states)
        etag = f'"{state}"'
        if request.headers.get("if-none-match") == etag:
            unchanged.append(state)
            return httpx.Response(304, headers={"ETag": etag})
        sent.append(state)
        return httpx.Response(200, json={"status": state}, headers={"ETag": etag} if tagged else {})

    with client(poll) as lethe:
        seen: list[Any] = []
        assert lethe.requests.wait("del_1", progress=seen.append) == {"status": "fulfilled"}
    assert [document["status"] for document in seen] == ["processing"] * 3 + ["fulfilled"]
    assert (len(sent), len(unchanged)) == ((2, 2) if tagged else (4, 0))


def test_a_stream_that_never_comes_back_is_given_up() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody there")

    with client(refuse, retries=2) as lethe, pytest.raises(UnreachableError):
        lethe.jobs.wait(JOB)


def test_every_error_is_one_of_ours() -> None:
    for kind in (ProblemError, JobFailedError, UnreachableError, WaitTimeoutError, TransferError):
        assert issubclass(kind, LetheError)
