"""The API behind uvicorn, on real sockets: what comes before a key is checked, comes slowly, or is too much.

One server for all tests of this file, with short times and small numbers. Each test ends with all that it took given
back, because the next one needs it.
"""

from __future__ import annotations

import json
import selectors
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from app.api.http.admission import LEAST_HELD
from app.api.http.connections import MOST_HEAD, MOST_PIPELINED, MOST_UNREAD, SPARE, Connection
from app.api.http.rooms import MOST_OF_STRANGERS
from app.core import keys
from app.core.config import Settings
from app.core.db import Database
from app.core.tables import Version
from app.main import create_app
from app.operations import migrate
from app.rules.policy import Policy
from benchmarks.posting import fill
from tests.support import eventually

pytestmark = pytest.mark.validation
PATIENCE = 10.0  # seconds: that a test waits before it fails
SHORT = 0.6  # seconds that the server waits
CONNECTIONS = 50  # more than there are threads
JSON_BYTES = 2**18
HELD_BYTES = 2**20
TRANSFERS = 4  # of which one key gets two
STREAMS = 200
FILE_BYTES = 2**25  # more than the buffers of a connection take


@dataclass
class Server:
    port: int
    app: FastAPI
    settings: Settings
    database: Database
    key: str
    other: str
    reader: str
    model: str

    @contextmanager
    def line(self, first: bytes = b"") -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as line:
            line.sendall(first)
            yield line

    def ask(self, request: bytes) -> Reply:
        with self.line(request) as line:
            return reply(line)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    text: str

    def problem(self, kind: str) -> str:
        document = json.loads(self.text)
        assert self.headers["content-type"] == "application/problem+json"
        assert document["type"].endswith(f"/{kind}"), document
        return str(document["detail"])


def reply(line: socket.socket) -> Reply:
    """One reply of a declared length."""
    got = b""
    while b"\r\n\r\n" not in got:
        piece = line.recv(2**16)
        assert piece, f"the server hung up: {got!r}"
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in rest)}
    while len(body) < int(headers.get("content-length", 0)):
        body += line.recv(2**16)
    return Reply(int(first.split()[1]), headers, body.decode("latin-1"))


def rest_of(line: socket.socket) -> bytes:
    """All that comes until the server hangs up, however it does."""
    got = b""
    with suppress(ConnectionError):
        while piece := line.recv(2**16):
            got += piece
    return got


def head(method: str, path: str, key: str = "", **headers: object) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: a"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def post(key: str = "", size: int = JSON_BYTES) -> bytes:
    """The head of a call whose body is still to come."""
    return head("POST", "/v1/deletion-requests", key, Content_Type="application/json", Content_Length=size)


HEALTH = head("GET", "/healthz")
CHUNKED = {"Content_Type": "application/json", "Transfer_Encoding": "chunked"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("door"),
        max_connections=CONNECTIONS,
        head_seconds=SHORT,
        body_seconds=SHORT,
        max_json_bytes=JSON_BYTES,
        max_held_bytes=HELD_BYTES,
        max_transfers=TRANSFERS,
        max_event_streams=STREAMS,
        max_upload_bytes=2**60,
    )
    database = Database(settings)
    migrate.migrate(database)
    keys.bootstrap(database, settings)
    _, model = fill(database, 10, Policy())
    with database.write() as session:
        other = keys.new_tenant(session, "other")[1]
        reader = keys.create(session, keys.FIRST_TENANT, "reader", ("read",))[1]
    app = create_app(settings)
    with database.write() as session:
        stored = app.state.parts.blobs.put(bytes(FILE_BYTES))
        session.query(Version).update({"digest": stored.digest, "size": stored.size})
    served = uvicorn.Server(
        uvicorn.Config(app, port=0, http=Connection, ws="none", log_config=None, access_log=False, lifespan="on")
    )
    thread = threading.Thread(target=served.run)
    thread.start()
    try:
        eventually(lambda: served.started or not thread.is_alive(), "the server")
        port = served.servers[0].sockets[0].getsockname()[1]
        yield Server(port, app, settings, database, settings.key_file.read_text().strip(), other, reader, model)
    finally:
        served.should_exit = served.force_exit = True
        thread.join()
        database.close()


# -- keys before bodies ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/deletion-requests", "/v1/datasets", "/v1/deletion-requests:import"])
def test_a_call_without_a_valid_key_is_refused_before_its_body_has_come(server: Server, path: str) -> None:
    for key in ("", "lethe_x_y", server.key[:-1]):
        for length in ({"Content_Length": 2**17}, {"Content_Length": 2**40}, CHUNKED):
            refused = server.ask(head("POST", path, key, **length))
            assert refused.status == 401
            refused.problem("unauthorized")


def test_a_key_without_the_scope_of_the_route_is_refused_before_the_body_has_come(server: Server) -> None:
    for path in ("/v1/deletion-requests", "/v1/datasets", "/v1/api-keys"):
        refused = server.ask(head("POST", path, server.reader, Content_Length=100, Content_Type="application/json"))
        assert refused.status == 403
        refused.problem("scope-missing")


def test_nobody_without_a_key_is_asked_to_send_the_body(server: Server) -> None:
    for key, status in (("", 401), (server.key, 100)):
        asked = head(
            "POST", "/v1/datasets", key, Content_Type="application/json", Content_Length=9, Expect="100-continue"
        )
        assert server.ask(asked).status == status


def test_a_declared_length_over_the_limit_is_refused_before_the_body_has_come(server: Server) -> None:
    refused = server.ask(post(server.key, JSON_BYTES + 1))
    assert refused.status == 413
    refused.problem("too-large")


def test_what_is_sent_after_a_refusal_is_taken_off_the_network_only_for_a_while(server: Server) -> None:
    with server.line(post(size=2**40)) as line:
        assert reply(line).status == 401
        sent, piece = 0, bytes(2**16)
        with pytest.raises(ConnectionError):
            while True:
                sent += line.send(piece)
    buffers = sum(int(Path(f"/proc/sys/net/ipv4/tcp_{name}").read_text().split()[2]) for name in ("rmem", "wmem"))
    assert sent < MOST_UNREAD + buffers + 2**20  # a piece or two are on their way


def test_a_client_that_sends_its_small_body_after_a_refusal_keeps_its_connection(server: Server) -> None:
    with server.line(post(size=2**16)) as line:
        assert reply(line).status == 401
        line.sendall(bytes(2**16) + HEALTH)
        assert reply(line).status == 200


# -- slow bodies -----------------------------------------------------------------------------------


def test_a_body_that_does_not_come_ends_in_408(server: Server) -> None:
    for beginning in (post(server.key), post(server.key) + b"{", head("POST", "/v1/datasets", server.key, **CHUNKED)):
        with server.line(beginning) as line:
            late = reply(line)
            assert late.status == 408
            late.problem("body-timeout")
            assert rest_of(line) == b""


def test_a_body_that_comes_byte_by_byte_ends_in_408(server: Server) -> None:
    with server.line(post(server.key)) as line:
        line.settimeout(SHORT / 6)
        for _ in range(100):
            line.sendall(b" ")
            with suppress(TimeoutError):
                assert reply(line).status == 408
                return
    pytest.fail("the server took every byte")


def test_an_upload_that_stops_ends_in_408_and_gives_up_its_room(server: Server) -> None:
    with server.line(upload(server, server.key, 2**20) + bytes(2**16)) as line:
        assert reply(line).status == 408
    assert server.app.state.parts.blobs.space().claimed == 0


# -- bodies without a key --------------------------------------------------------------------------

LINK = "/console/sign-in/link"
FORM = {"Content_Type": "application/x-www-form-urlencoded", "Content_Length": 1000}


@pytest.mark.parametrize("path", [LINK, "/console/requests", "/console/sign-out"])
def test_a_form_that_does_not_end_ends_without_a_key_too(server: Server, path: str) -> None:
    with server.line(head("POST", path, **FORM) + b"t") as line:
        assert reply(line).status == (408 if path == LINK else 401)
        assert rest_of(line) == b""


def test_half_sent_forms_keep_nobody_out(server: Server) -> None:
    """As seen: as many forms of the page that signs in as there are connections, and no key was answered."""
    with ExitStack() as stack:
        half = [stack.enter_context(server.line(head("POST", LINK, **FORM) + b"t")) for _ in range(3 * CONNECTIONS)]
        for line in half[:CONNECTIONS]:  # the oldest have made room
            assert rest_of(line) == b""
        assert server.ask(head("GET", "/v1/jobs", server.key)).status == 200
        whole = server.ask(head("POST", LINK, **FORM | {"Content_Length": 7}) + b"token=a")
        assert whole.status == 401


def test_a_body_with_a_key_is_not_ended_to_make_room(server: Server) -> None:
    with ExitStack() as stack:
        mine = stack.enter_context(server.line(post(server.key, 2)))
        for _ in range(2 * CONNECTIONS):
            stack.enter_context(server.line(head("POST", LINK, **FORM) + b"t"))
        mine.sendall(b"{}")
        assert reply(mine).status == 422


def test_forms_without_a_session_are_bounded_in_memory_and_small_ones_are_still_taken(server: Server) -> None:
    """Of a form whose session has ended, what was typed is kept, so a large one is read."""
    room = server.app.state.parts.strangers
    most, large = MOST_OF_STRANGERS - LEAST_HELD, {**FORM, "Content_Length": 2**30}
    with ExitStack() as stack:
        filled = [stack.enter_context(server.line(head("POST", "/console/requests", **large))) for _ in range(2)]
        filled[0].sendall(b"a" * 2**18)
        settled(room, most)
        filled[1].sendall(b"a" * 2**18)
        assert reply(filled[1]).status == 401
        assert server.ask(head("POST", LINK, **FORM | {"Content_Length": 7}) + b"token=a").status == 401
        filled[0].sendall(b"a" * 2**17)
        assert "too large to keep" in reply(filled[0]).text
    settled(room, 0)


# -- bodies in memory ------------------------------------------------------------------------------


def test_bodies_under_way_are_bounded_by_key_and_for_all(server: Server) -> None:
    """One key gets half of what there is; a key of another tenant finds the rest."""
    with ExitStack() as stack:
        first = [stack.enter_context(server.line(post(server.key))) for _ in range(2)]
        settled(server.app.state.parts.bodies, 2 * JSON_BYTES)
        refused = server.ask(post(server.key, 2))
        assert refused.status == 429
        assert "key" in refused.problem("too-many-at-once")
        assert refused.headers["retry-after"] == "1"
        assert server.ask(post(server.other, 2) + b"{}").status == 422
        assert [reply(line).status for line in first] == [408, 408]
    assert server.ask(post(server.key, 2) + b"{}").status == 422


def test_a_body_of_undeclared_length_counts_as_it_comes(server: Server) -> None:
    chunk = b"%x\r\n%s\r\n" % (2**17, b" " * 2**17)
    begun = head("POST", "/v1/deletion-requests", server.key, **CHUNKED) + chunk
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(server.line(begun))
        settled(server.app.state.parts.bodies, 3 * 2**17)
        refused = server.ask(begun + chunk)
        assert refused.status == 429
    settled(server.app.state.parts.bodies, 0)
    assert server.ask(begun + 2 * chunk).status == 413


def settled(room: Any, used: int) -> None:
    eventually(lambda: room._used == used, f"{used} of {room._what} in use", PATIENCE)


# -- heads and connections -------------------------------------------------------------------------


def test_a_head_without_end_is_refused_early(server: Server) -> None:
    with server.line(b"GET /healthz HTTP/1.1\r\nX-Long: ") as line:
        sent = flood(line, b"a" * 2**14)
        assert sent < 2 * MOST_HEAD + 2**22  # and what the system's buffers hold
    with server.line(b"GET /healthz HTTP/1.1\r\nX-Long: " + b"a" * (MOST_HEAD + 1)) as line:
        refused = reply(line)
    assert refused.status == 431
    refused.problem("head-too-large")
    assert server.ask(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 30_000 + b"\r\n\r\n").status == 200


@pytest.mark.parametrize(
    "endless", [b"1;" + b"x" * 2**16, b"0\r\nX-Trailer: " + b"x" * 2**16, b"0\r\n" + b"a: b\r\n" * 2**14]
)
def test_what_is_no_body_has_no_more_room_after_the_head(server: Server, endless: bytes) -> None:
    """Extensions of chunks and trailers, which the application never sees."""
    with server.line(head("POST", "/v1/deletion-requests", server.key, **CHUNKED) + endless) as line:
        assert rest_of(line) == b""


def flood(line: socket.socket, piece: bytes) -> int:
    """Send until the server hangs up; how much."""
    sent = 0
    with suppress(ConnectionError):
        while sent < 2**28:
            sent += line.send(piece)
    return sent


def test_a_head_that_does_not_come_ends_its_connection(server: Server) -> None:
    with server.line(b"GET /healthz HTTP/1.1\r\nX-Half: ") as half, server.line() as silent:
        assert b" 408 " in rest_of(half)
        assert rest_of(silent) == b""
    with server.line(HEALTH) as line:  # nor does the next on a connection that is kept
        assert reply(line).status == 200
        line.sendall(b"GET /hea")
        assert b" 408 " in rest_of(line)


def test_half_sent_heads_keep_nobody_out(server: Server) -> None:
    with ExitStack() as stack:
        half = [stack.enter_context(server.line(b"GET /healthz HTTP/1.1\r\nX-Half: ")) for _ in range(3 * CONNECTIONS)]
        for line in half[:CONNECTIONS]:  # the oldest have made room
            assert rest_of(line) == b""
        assert server.ask(HEALTH).status == 200
        assert server.ask(head("GET", "/v1/jobs", server.key)).status == 200


def test_health_checks_are_answered_when_every_connection_is_at_work(server: Server) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(server.line(events(server, server.key))) for _ in range(CONNECTIONS)]
        assert {line.recv(2**16)[9:12] for line in streams} == {b"200"}
        refused = server.ask(head("GET", "/v1/jobs", server.key))
        assert refused.status == 503
        refused.problem("busy")
        for path in ("/healthz", "/readyz", "/metrics?a=b"):
            assert server.ask(head("GET", path)).status == 200
        for _ in range(2 * SPARE):
            stack.enter_context(server.line())
        assert server.ask(HEALTH).status == 200
    settled(server.app.state.parts.streams, 0)


def test_health_checks_are_answered_when_every_thread_waits(server: Server) -> None:
    """For the one writer that SQLite has."""
    write = head("POST", "/v1/jobs/job_00000000000000000000000000:cancel", server.key)
    with ExitStack() as stack:
        with server.database.write():
            waiting = [stack.enter_context(server.line(write)) for _ in range(CONNECTIONS - 1)]
            for _ in range(3):
                assert server.ask(HEALTH).status == 200
        assert {reply(line).status for line in waiting} == {404}


def test_requests_that_wait_behind_another_are_few(server: Server) -> None:
    some = 1 + MOST_PIPELINED
    with server.line(HEALTH * some) as line:
        selector = selectors.DefaultSelector()
        selector.register(line, selectors.EVENT_READ)
        got = b""
        while got.count(b"HTTP/1.1 200") < some and selector.select(PATIENCE):
            got += line.recv(2**16)
        assert got.count(b"HTTP/1.1 200") == some
    with server.line(HEALTH * 1000) as line:
        assert rest_of(line).count(b"HTTP/1.1 200") < some


def test_what_is_no_http_is_refused_as_a_problem(server: Server) -> None:
    refused = server.ask(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    assert refused.status == 400
    refused.problem("bad-request")


# -- files and streams -----------------------------------------------------------------------------


def made(server: Server, key: str) -> str:
    """A dataset that waits for its content."""
    body = b'{"name": "d", "source": {"name": "upload"}}'
    request = head("POST", "/v1/datasets", key, Content_Type="application/json", Content_Length=len(body)) + body
    return str(json.loads(server.ask(request).text)["id"])


def upload(server: Server, key: str, size: int) -> bytes:
    where = f"/v1/datasets/{made(server, key)}/content"
    return head("PUT", where, key, Content_Type="application/x-npz", Content_Length=size)


def events(server: Server, key: str) -> bytes:
    body = b'{"name": "d", "source": {"name": "digits"}}'
    request = head("POST", "/v1/datasets", key, Content_Type="application/json", Content_Length=len(body)) + body
    job = json.loads(server.ask(request).text)["job"]
    return head("GET", f"/v1/jobs/{job}/events", key)


def test_uploads_at_once_are_bounded_by_key(server: Server) -> None:
    transfers = server.app.state.parts.transfers
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(server.line(upload(server, server.key, 2**20)))
        settled(transfers, 2)
        refused = server.ask(upload(server, server.key, 2**20))
        assert refused.status == 429
        refused.problem("too-many-at-once")
        stack.enter_context(server.line(upload(server, server.other, 2**20)))
        settled(transfers, 3)
    settled(transfers, 0)


def test_event_streams_at_once_are_bounded_by_key(server: Server) -> None:
    streams = server.app.state.parts.streams
    with server.database.read() as session:
        who = keys.authenticate(session, server.key)
    streams.take(who, STREAMS // 2 - 1)
    request = events(server, server.key)
    with server.line(request) as line:
        assert line.recv(2**16)[9:12] == b"200"
        refused = server.ask(request)
        assert refused.status == 429
        refused.problem("too-many-at-once")
    settled(streams, STREAMS // 2 - 1)
    streams.give_back(who, STREAMS // 2 - 1)


def test_a_download_that_nobody_reads_is_given_up(server: Server) -> None:
    transfers = server.app.state.parts.transfers
    download = head("GET", f"/v1/models/{server.model}/versions/1/checkpoint", server.key)
    with server.line(download) as line:
        settled(transfers, 1)
        settled(transfers, 0)
        assert len(rest_of(line)) < FILE_BYTES


def test_the_room_that_an_upload_declares_is_not_given_to_others(server: Server) -> None:
    free = shutil.disk_usage(server.settings.data_dir).free - server.settings.disk_reserve_bytes
    large = int(0.6 * free)

    def ready() -> Any:
        return json.loads(server.ask(head("GET", "/readyz")).text)["degraded"]

    too_much = server.ask(upload(server, server.key, int(0.9 * free)))
    assert too_much.status == 507
    assert "tenant" in too_much.problem("storage-full")
    assert not [reason for reason in ready() if "disk" in reason]
    with server.line(upload(server, server.key, large) + bytes(2**16)) as line:
        eventually(lambda: server.app.state.parts.blobs.space().claimed > 0, "the upload's claim", PATIENCE)
        refused = server.ask(upload(server, server.other, large))
        assert refused.status == 507
        assert refused.headers["retry-after"] == "60"
        refused.problem("storage-full")
        assert reply(line).status == 408
    assert server.app.state.parts.blobs.space().claimed == 0
