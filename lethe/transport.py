"""How the client calls: retries, idempotency keys, pages, streamed files and events. On httpx, synchronous.

A call is tried again when the connection fails and on 408, 429, 502, 503 and 504, after `Retry-After` or else after
twice as long as before. That is safe because GET, PUT and DELETE may be repeated, and because every POST carries one
Idempotency-Key through all of its tries: the service replays the reply of the one that was committed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import ssl
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from lethe.errors import LetheError, ProblemError, TransferError, UnreachableError
from lethe.types import Json

Verify = bool | str | Path | ssl.SSLContext
AGAIN = frozenset({408, 429, 502, 503, 504})
LONGEST_PAUSE = 60.0  # seconds
UNKNOWN = {18, 19, 20, 21}  # OpenSSL: self-signed, or the issuer is not known
CHUNK = 2**20
Bytes = Callable[[int, int], None]  # progress of a file: bytes there, bytes in all


def cleaned(api_key: str) -> str:
    """A key without what editors and shells leave around it: line feeds, spaces, a byte order mark.

    Raises:
        LetheError: it has characters that no key has; they are not repeated.
    """
    found = api_key.strip().removeprefix("\N{BOM}").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", found):
        raise LetheError("the API key has a space, a line feed or another character that no key has")
    return found


def trusted(verify: Verify) -> ssl.SSLContext | bool:
    """Which authorities are trusted: those of a file or folder; else of SSL_CERT_FILE and SSL_CERT_DIR; else those of
    the system, where companies put their own, and the public ones that come with the library.

    Raises:
        LetheError: the file has no certificates.
    """
    if isinstance(verify, ssl.SSLContext) or verify is False:
        return verify
    given = "" if verify is True else str(verify)
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if given:
        file, folder = (None, given) if Path(given).is_dir() else (given, None)
    try:
        if file or folder:
            return ssl.create_default_context(cafile=file or None, capath=folder or None)
        context = httpx.create_ssl_context(trust_env=False)
        context.load_default_certs()
    except OSError as error:
        name = "`verify`" if given else "SSL_CERT_FILE"
        raise LetheError(f"{name} names no file with certificates of authorities") from error
    return context


def system_proxy(url: str) -> str | None:
    """The proxy of HTTPS_PROXY, but for hosts of NO_PROXY and for this machine. None for http: there the proxy would
    read the key."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "https" or host in ("localhost", "127.0.0.1", "::1") or proxy_bypass(host):
        return None
    return getproxies().get("https") or None


class Transport:
    """Calls to one service with one API key. `http` is for tests: what carries the requests."""

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout: float,
        retries: int,
        verify: Verify = True,
        proxy: str | None = None,
        http: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url = url.strip().rstrip("/")
        try:
            self._http = httpx.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {cleaned(api_key)}"},
                timeout=timeout,
                trust_env=False,  # a `.netrc` would take the key's place
                transport=http,
                verify=trusted(verify) if http is None and url.startswith("https:") else False,
                proxy=proxy if proxy is not None or http is not None else system_proxy(url),
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise LetheError("the address of the service, or of the proxy, is malformed") from error
        self._retries = retries

    def close(self) -> None:
        self._http.close()

    # -- calls -------------------------------------------------------------------------------------

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request, tried again where that may help. A callable `content` makes the body for each try.

        Raises:
            ProblemError: the service refused.
            UnreachableError: it did not answer.
        """
        headers = dict(options.pop("headers", None) or {})
        if method == "POST":
            headers.setdefault("Idempotency-Key", str(uuid.uuid4()))
        body = options.pop("content", None)
        attempts = Attempts(self._retries)
        while True:
            content = body() if callable(body) else body
            try:
                response = self._http.request(method, path, headers=headers, content=content, **options)
            except httpx.TransportError as error:
                attempts.failed(error)
                continue
            if response.status_code in AGAIN and attempts.left:
                attempts.put_off(response)
            elif method == "DELETE" and response.status_code == 404 and attempts.count:
                return response  # the lost reply was of a deletion
            else:
                return checked(response, tried_again=attempts.count > 0)

    def get(self, path: str, **params: Any) -> Any:
        return self.call("GET", path, params=_sent(params)).json()

    def tagged(self, path: str, before: tuple[Any, str] | None = None) -> tuple[Any, str]:
        """A document and its ETag; while it is what it was `before`, that, and it is not sent again."""
        has = before[1] if before else ""
        response = self.call("GET", path, headers={"If-None-Match": has} if has else None)
        if before and response.status_code == 304:
            return before
        return response.json(), response.headers.get("etag", "")

    def post(
        self,
        path: str,
        body: Json | None = None,
        *,
        idempotency_key: str | None = None,
        if_match: str | None = None,
    ) -> Any:
        headers = _sent({"Idempotency-Key": idempotency_key or None, "If-Match": if_match})
        return self.call("POST", path, json=_sent(body or {}), headers=headers).json()

    def put(self, path: str, body: Json, *, if_match: str | None = None) -> Any:
        return self.call("PUT", path, json=body, headers=_sent({"If-Match": if_match})).json()

    def delete(self, path: str, *, if_match: str | None = None) -> None:
        self.call("DELETE", path, headers=_sent({"If-Match": if_match}))

    def pages(self, path: str, **params: Any) -> Iterator[Any]:
        """Every item of a list, page by page."""
        while True:
            page = self.get(path, **params)
            yield from page["items"]
            if not page["next_page_token"]:
                return
            params["page_token"] = page["next_page_token"]

    # -- files -------------------------------------------------------------------------------------

    def upload(
        self,
        path: str,
        file: Path,
        content_type: str,
        progress: Bytes | None = None,
        *,
        offset: int = 0,
        **params: Any,
    ) -> httpx.Response:
        """PUT a file from `offset` on, streamed; begun again from there when the connection fails."""
        size = file.stat().st_size
        headers = {"Content-Type": content_type, "Content-Length": str(size - offset)}
        if offset:
            headers["Upload-Offset"] = str(offset)

        def pieces() -> Iterator[bytes]:
            with file.open("rb") as body:
                body.seek(offset)
                while piece := body.read(CHUNK):
                    yield piece
                    if progress is not None:
                        progress(body.tell(), size)

        return self.call("PUT", path, content=pieces, headers=headers, params=_sent(params))

    def download(self, path: str, target: Path, digest: str, size: int, progress: Bytes | None = None) -> None:
        """Fetch bytes of a known digest to `target`, which appears whole or not at all.

        What an interrupted download of the same digest left beside it is taken up. A try that brought bytes does
        not count as one.

        Raises:
            ProblemError, UnreachableError: as of `call`.
            TransferError: the bytes do not have the digest; they are removed.
        """
        partial = target.with_name(f"{target.name}.{digest.removeprefix('sha256:')[:12]}.part")
        partial.touch()
        attempts = Attempts(self._retries)
        while (have := partial.stat().st_size) < max(size, 1):
            headers = {"Range": f"bytes={have}-", "If-Range": f'"{digest}"'} if have else {}
            try:
                with self._http.stream("GET", path, headers=headers) as response:
                    if response.status_code in AGAIN and attempts.left:
                        attempts.put_off(response)
                        continue
                    if not response.is_success:
                        response.read()
                        checked(response)
                    with partial.open("ab" if response.status_code == 206 else "wb") as file:
                        for piece in response.iter_raw():  # as they come: a cut loses none
                            file.write(piece)
                            attempts = Attempts(self._retries)
                            if progress is not None:
                                progress(file.tell(), size)
                if partial.stat().st_size < size:
                    raise httpx.ReadError("the reply ended before the file did")
            except httpx.TransportError as error:
                attempts.failed(error)
        with partial.open("rb") as file:
            arrived = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if arrived != digest:
            partial.unlink()
            raise TransferError("the downloaded bytes do not have the stated digest")
        partial.replace(target)

    # -- events ------------------------------------------------------------------------------------

    @contextmanager
    def events(self, path: str, after: int) -> Iterator[Iterator[tuple[int, str, Json] | None]]:
        """Server-sent events from after number `after`: (number, kind, data), and None for a sign of life."""
        attempts = Attempts(self._retries)
        while True:
            with self._http.stream("GET", path, headers={"Last-Event-ID": str(after)}) as response:
                if response.status_code in AGAIN and attempts.left:
                    attempts.put_off(response)
                    continue
                if not response.is_success:
                    response.read()
                    checked(response)
                yield _parse(_lines(response.iter_bytes()))
                return


class Attempts:
    """The tries of one call: when to give up, and how long to pause."""

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self.count = 0

    @property
    def left(self) -> bool:
        return self.count < self._retries

    def failed(self, error: httpx.TransportError) -> None:
        """Pause after a failed connection, or raise."""
        if isinstance(error, httpx.UnsupportedProtocol):
            raise LetheError("the service's address must begin with http:// or https://") from error
        if (reason := _tls_fault(error)) is not None:
            raise LetheError(reason) from error
        if not self.left:
            raise UnreachableError(f"the service does not answer ({type(error).__name__})") from error
        self._pause(None)

    def put_off(self, response: httpx.Response) -> None:
        """Pause as the service asks for, else as after a failed connection."""
        self._pause(retry_after(response.headers.get("retry-after", ""), datetime.now(UTC)))

    def _pause(self, asked: float | None) -> None:
        # Many clients that failed together shall not come back together.
        backoff = 0.25 * 2**self.count * random.uniform(0.75, 1.25)  # noqa: S311
        self.count += 1
        time.sleep(min(backoff if asked is None else asked, LONGEST_PAUSE))


def _tls_fault(error: BaseException) -> str | None:
    """Why no encrypted connection comes about, where trying again does not help."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            said = f"the service's certificate is not trusted: {cause.verify_message}"
            return said + ("; SSL_CERT_FILE may name a file with its authority" if cause.verify_code in UNKNOWN else "")
        if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
            return "the service speaks no TLS at this address: it may begin with http://"
        cause = cause.__cause__ or cause.__context__
    return None


def retry_after(header: str, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, in seconds or as a date (RFC 9110, 10.2.3)."""
    if header.isdecimal():
        return float(header)
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())


def checked(response: httpx.Response, *, tried_again: bool = False) -> httpx.Response:
    """The response, if it is a success, or says that nothing has changed."""
    if response.is_success or response.status_code == 304:
        return response
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    raise ProblemError(response.status_code, problem if isinstance(problem, dict) else {}, tried_again=tried_again)


def _sent(fields: Json) -> Json:
    """Without what was not given."""
    return {name: value for name, value in fields.items() if value is not None}


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """Only LF and CRLF end a line: httpx ends it at marks, too, that a JSON text may hold."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.removesuffix(b"\r").decode() for line in whole)


def _parse(lines: Iterator[str]) -> Iterator[tuple[int, str, Json] | None]:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if line and name:
            fields[name] = value.removeprefix(" ")
        elif line:
            yield None  # a comment, sent so that the connection is not taken for dead
        elif "data" in fields:
            yield int(fields.get("id", 0)), fields.get("event", "message"), json.loads(fields["data"])
            fields = {}
