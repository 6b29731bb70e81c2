"""Standard Webhooks 1.0.0: thin signed messages out of the database, retried for days, to public addresses only.

A delivery is a row beside the change that it tells of. The sweeper sends what is due; a receiver that answers 410
is disabled; anything but a 2xx is a failure and is tried again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.client import HTTPConnection, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

import idna

from app.core import tracing

SECRET_PREFIX = "whsec_"  # noqa: S105
TIMEOUT_SECONDS = 15.0
DEADLINE_SECONDS = 20.0
MOST_ADDRESSES = 4  # of a host, that one delivery tries
# 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h: about 76 hours in all
RETRY_SECONDS = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
MOST_REPLY_BYTES = 4096
SENT_AS_THEY_ARE = "/%:@!$&'()*+,;=~"  # of a path, RFC 3986; what is encoded already stays so

NAT64 = ipaddress.ip_network("64:ff9b::/96")
UNICAST_6 = ipaddress.ip_network("2000::/3")
DOCUMENTATION_6 = ipaddress.ip_network("3fff::/20")
RELAY_6TO4 = ipaddress.ip_network("192.88.99.0/24")

Resolver = Callable[[str, int], Sequence[str]]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Private = bool | Sequence[Network]
"""Which addresses may be called that are not public: none, all of them (tests), or those of these networks."""


class RefusedError(Exception):
    """The address may not be called; nothing was sent."""


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """`v1,` and the HMAC-SHA256 of `id.timestamp.body`, as the standard's symmetric scheme has it."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def payload(kind: str, at: datetime, data: dict[str, Any]) -> bytes:
    """The thin body: what happened to which object; the receiver reads the rest through the API."""
    document = {"type": kind, "timestamp": f"{at:%Y-%m-%dT%H:%M:%SZ}", "data": data}
    return json.dumps(document, separators=(",", ":")).encode()


def retry_at(now: datetime, failures: int) -> datetime | None:
    """When to try again after this number of failures; None: give up."""
    if failures > len(RETRY_SECONDS):
        return None
    return now + timedelta(seconds=RETRY_SECONDS[failures - 1])


# -- where to --------------------------------------------------------------------------------------


def check_url(url: str, *, allow_private: Private) -> SplitResult:
    """The parts of an acceptable receiver address.

    Raises:
        RefusedError: not https (http only to private addresses that are allowed, see `targets`), credentials, no host,
            a bad port.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise RefusedError("the address is malformed") from None
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise RefusedError("the address must be https")
    if not parts.hostname or parts.username or parts.password or parts.fragment or port == 0:
        raise RefusedError("the address must be a plain host, port and path")
    return _in_ascii(parts)


def _in_ascii(parts: SplitResult) -> SplitResult:
    """As it is sent: other letters of the host in Punycode (RFC 5891), those of the path percent-encoded."""
    host = str(parts.hostname)
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except idna.IDNAError:
            raise RefusedError("the host is no name that can be looked up") from None
        parts = parts._replace(netloc=host if parts.port is None else f"{host}:{parts.port}")
    return parts._replace(path=quote(parts.path, SENT_AS_THEY_ARE), query=quote(parts.query, SENT_AS_THEY_ARE + "?"))


def resolve(host: str, port: int) -> Sequence[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise RefusedError("the host has no address") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_global(address: str) -> bool:
    """Whether an IP address is a public unicast one, looking through IPv4 that is embedded in IPv6."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv4Address):
        return found.is_global and not found.is_multicast and found not in RELAY_6TO4
    if found in NAT64:
        return is_global(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
    inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
    if inner is None and int(found) >> 32 & 0xFCFFFFFF == 0x5EFE:  # ISATAP
        inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    if inner is not None:
        return is_global(str(inner))
    return found in UNICAST_6 and found not in DOCUMENTATION_6 and found.is_global


def _within(address: str, networks: Sequence[Network]) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    return any(found in network for network in networks)


def targets(parts: SplitResult, *, allow_private: Private, resolver: Resolver = resolve) -> tuple[Sequence[str], int]:
    """The addresses to connect to, in the system's order, and the port: resolved once; refused if any of the host's
    addresses is neither global nor in a network that is allowed.

    Raises:
        RefusedError: no address, or such a one; or http to an address outside the networks that are allowed.
    """
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = resolver(str(parts.hostname), port)
    if not addresses:
        raise RefusedError("the host has no address")
    if allow_private is True:
        return addresses[:MOST_ADDRESSES], port
    within = [_within(address, allow_private or ()) for address in addresses]
    if not all(inside or is_global(address) for inside, address in zip(within, addresses, strict=True)):
        raise RefusedError("the host has an address that is not public")
    if parts.scheme != "https" and not all(within):
        raise RefusedError("the address must be https")
    return addresses[:MOST_ADDRESSES], port


# -- sending ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    status: int | None
    error: str | None

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def _connected(addresses: Sequence[str], port: int) -> socket.socket:
    """A connection to the first of these that answers: one dead address, or one of a family that this machine does not
    have, delays the delivery and does not fail it."""
    failure: OSError = OSError("the host has no address")
    for address in addresses:
        try:
            found = socket.create_connection((address, port), TIMEOUT_SECONDS / len(addresses))
        except OSError as error:
            failure = error
        else:
            found.settimeout(TIMEOUT_SECONDS)
            return found
    raise failure


class _Plain(HTTPConnection):
    """`line`: the socket, also after http.client dropped it before the body of a reply that ends the connection."""

    line: socket.socket | None = None

    def __init__(self, host: str, addresses: Sequence[str], port: int) -> None:
        self._addresses = addresses
        super().__init__(host, port, timeout=TIMEOUT_SECONDS)

    def connect(self) -> None:
        self.sock = self.line = _connected(self._addresses, self.port)


class _Pinned(HTTPSConnection):
    """HTTPS to addresses that were resolved beforehand, with the host's name in SNI and certificate check.

    `line`: the socket, from before the handshake.
    """

    line: socket.socket | None = None

    def __init__(self, host: str, addresses: Sequence[str], port: int) -> None:
        self._addresses, self._tls = addresses, ssl.create_default_context()
        super().__init__(host, port, timeout=TIMEOUT_SECONDS, context=self._tls)

    def connect(self) -> None:
        raw = _connected(self._addresses, self.port)
        secured = self._tls.wrap_socket(raw, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = self.line = secured
        secured.do_handshake()


def send(
    url: str,
    secrets: Sequence[str],
    message_id: str,
    body: bytes,
    now: datetime,
    *,
    allow_private: Private,
    resolver: Resolver = resolve,
) -> Reply:
    """One attempt: no redirects, no proxy, a bounded reply. What went wrong is in the reply, never raised.

    Each of `secrets` signs: two of them while one is being replaced.
    """
    try:
        parts = check_url(url, allow_private=allow_private)
        addresses, port = targets(parts, allow_private=allow_private, resolver=resolver)
    except RefusedError as error:
        return Reply(None, str(error))
    host = str(parts.hostname)
    timestamp = int(now.timestamp())
    headers = {
        "Host": parts.netloc,
        "Content-Type": "application/json",
        "User-Agent": "lethe-webhooks",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signature(secret, message_id, timestamp, body) for secret in secrets),
    }
    if traceparent := tracing.current():
        headers[tracing.HEADER] = traceparent
    kind = _Pinned if parts.scheme == "https" else _Plain
    connection: _Plain | _Pinned = kind(host, addresses, port)
    # The socket's timeout is for each operation; a receiver that drips bytes is cut off by the clock.
    deadline = threading.Timer(DEADLINE_SECONDS, lambda: _cut(connection))
    deadline.daemon = True
    deadline.start()
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        answer.read(MOST_REPLY_BYTES)
        return Reply(answer.status, None if 200 <= answer.status < 300 else f"answered {answer.status}")
    except ssl.SSLCertVerificationError as error:
        return Reply(None, f"its certificate is not trusted: {error.verify_message}")
    except (OSError, ValueError, TimeoutError) as error:
        return Reply(None, type(error).__name__)
    except Exception as error:  # http.client's own errors do not share a base with these
        return Reply(None, type(error).__name__)
    finally:
        deadline.cancel()
        connection.close()


def _cut(connection: _Plain | _Pinned) -> None:
    if connection.line is not None:
        with suppress(OSError):
            connection.line.shutdown(socket.SHUT_RDWR)
