"""A Redis-speaking server on loopback that refuses chosen commands, alone or before a real one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import BinaryIO
from urllib.parse import urlsplit

ALONE = {b"LPUSH": b":1", b"EXPIRE": b":1", b"RPOP": b"$5\r\nprobe", b"PING": b"+PONG", b"CLIENT": b"+OK"}
ALONE |= {b"HELLO": b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3"}
WRITES = (b"LPUSH", b"BRPOP", b"RPOP", b"SADD", b"MULTI", b"ZADD")
READ_ONLY = b"-READONLY You can't write against a read only replica."
FULL = b"-OOM command not allowed when used memory > 'maxmemory'."


def frame(stream: BinaryIO) -> bytes:
    """One value of the protocol, as it came; an end of the stream is an EOFError."""
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError
    kind, count = line[:1], line[1:-2]
    if kind in b"$=!" and int(count) >= 0:
        return line + stream.read(int(count) + 2)
    if kind in b"*~>":
        return line + b"".join(frame(stream) for _ in range(int(count)))
    if kind == b"%":
        return line + b"".join(frame(stream) for _ in range(2 * int(count)))
    return line


class Conversation(StreamRequestHandler):
    server: RedisServer

    def handle(self) -> None:
        with suppress(EOFError, OSError):
            if not self.server.target:
                self._alone()
                return
            place = urlsplit(self.server.target)
            with (
                socket.create_connection((place.hostname or "", place.port or 6379)) as real,
                real.makefile("rb") as back,
            ):
                while True:
                    asked = frame(self.rfile)
                    if refusal := self.server.refusal(asked):
                        self.wfile.write(refusal)
                        continue
                    real.sendall(asked)
                    self.wfile.write(frame(back))

    def _alone(self) -> None:
        while True:
            asked = frame(self.rfile)
            self.wfile.write(self.server.refusal(asked) or ALONE.get(command(asked), b"-ERR unknown command") + b"\r\n")


def command(asked: bytes) -> bytes:
    return asked.split(b"\r\n")[2].upper()


class RedisServer(ThreadingTCPServer):
    """`refuse` sets what commands are answered with instead of being done."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, target: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.target = target
        self.url = f"redis://127.0.0.1:{self.server_address[1]}{urlsplit(target).path or '/0'}"
        self._refusals: dict[bytes, bytes] = {}
        self._seen: set[bytes] = set()

    def refuse(self, reply: bytes = b"", *commands: bytes) -> None:
        """Answer these commands with `reply`; none: do all again."""
        self._refusals = dict.fromkeys(commands or (b"LPUSH",), reply) if reply else {}
        self._seen.clear()

    def seen(self, name: bytes) -> bool:
        """Whether this command came since `refuse` was called last."""
        return name in self._seen

    def refusal(self, asked: bytes) -> bytes:
        self._seen.add(command(asked))
        reply = self._refusals.get(command(asked), b"")
        return reply + b"\r\n" if reply else b""


@contextmanager
def redis_server(target: str = "") -> Iterator[RedisServer]:
    server = RedisServer(target)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
