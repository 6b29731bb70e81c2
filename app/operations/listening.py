"""The socket on which the API listens, opened before anything else: what hinders it is said in a sentence."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from app.core.config import Settings, StartError

BACKLOG = 1024
LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # where a client on this machine finds every address


@contextmanager
def opened(settings: Settings) -> Iterator[socket.socket]:
    """Listen on LETHE_HOST and LETHE_PORT. `::` takes IPv4, too.

    Raises:
        StartError: the host is none of this machine's, or the port is taken or not for this user.
    """
    with _bound(settings) as found:
        found.listen(BACKLOG)
        yield found


def _bound(settings: Settings) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise StartError("the host of LETHE_HOST is not known: use an address of this machine") from None
    family, kind, protocol, _, address = places[0]
    try:
        found = socket.socket(family, kind, protocol)
    except OSError:
        raise StartError("this machine has no IPv6, which LETHE_HOST asks for: use an IPv4 address") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        found.bind(address)
    except OSError as error:
        found.close()
        raise StartError(f"cannot listen on {shown(host)}:{port}: {error.strerror}; {_remedy(error)}") from None
    return found


def _remedy(error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return "set LETHE_HOST to an address of this machine"
    return "set LETHE_PORT to another port"


def shown(host: str) -> str:
    """A host as URLs have it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def address(listening: socket.socket) -> str:
    """The URL under which a client on this machine finds the service."""
    host, port = listening.getsockname()[:2]
    return f"http://{shown(LOCAL.get(host, host))}:{port}"
