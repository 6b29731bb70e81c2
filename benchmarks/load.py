"""A light HTTP client for load: keep-alive sockets on loopback, one request at a time on each, no library between."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

RECEIVE = 2**18


@dataclass
class Run:
    """What a load run saw. `waits`: seconds of each reply, in the order they came."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    last: bytes = b""
    cpu_seconds: float = 0.0  # of the server's process meanwhile

    @property
    def per_second(self) -> float:
        return len(self.waits) / self.seconds

    def quantile_ms(self, share: float) -> float:
        return 1000 * sorted(self.waits)[int(share * (len(self.waits) - 1))]


class _Line:
    """One connection: what it sent, and what has come back so far."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = 0.0
        self.got = bytearray()

    def send(self, request: bytes) -> None:
        self.got.clear()
        self.began = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Take what has come; whether the reply is whole."""
        piece = self.socket.recv(RECEIVE)
        if not piece:
            raise ConnectionError(f"the service hung up: {bytes(self.got[:200])!r}")
        self.got += piece
        end = self.got.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self.got[:end]).lower()
        mark = head.find(b"content-length:")
        length = int(head[mark + 15 :].split(b"\r\n", 1)[0]) if mark >= 0 else 0
        return len(self.got) >= end + 4 + length


def request(method: str, path: str, token: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def drive(port: int, requests: Iterator[bytes], clients: int, count: int, pid: int = 0) -> Run:
    """Send `count` requests over `clients` connections, the next on each as soon as its reply has come.

    `pid`: the server's process, whose time is taken.
    """
    run, selector = Run(), selectors.DefaultSelector()
    run.cpu_seconds = -cpu_seconds(pid) if pid else 0.0
    began, sent = time.perf_counter(), 0
    for _ in range(min(clients, count)):
        line = _Line(port)
        selector.register(line.socket, selectors.EVENT_READ, line)
        line.send(next(requests))
        sent += 1
    while len(run.waits) < count:
        for key, _ in selector.select(30) or _silent():
            line = key.data
            if not line.receive():
                continue
            run.waits.append(time.perf_counter() - line.began)
            run.statuses[int(line.got[9:12])] += 1
            if sent < count:
                sent += 1
                line.send(next(requests))
            else:
                run.last = bytes(line.got)
                selector.unregister(line.socket)
                line.socket.close()
    run.seconds = time.perf_counter() - began
    run.cpu_seconds += cpu_seconds(pid) if pid else 0.0
    selector.close()
    return run


def _silent() -> list[tuple[selectors.SelectorKey, int]]:
    raise TimeoutError("no reply for 30 s")
