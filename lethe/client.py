"""The client of the service: `Client(url, key)`, with a namespace for each noun of the API.

    with Client.from_folder("lethe-data") as lethe:
        model = lethe.models.get("mdl_…")

Documents are the API's own, as typed dictionaries (`lethe.types`); refusals are `ProblemError`. What the namespaces
do not name, `get`, `post`, `put`, `delete` and `pages` reach by path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import httpx

from lethe.account import Keys, Webhooks
from lethe.jobs import Jobs
from lethe.models import Datasets, Models, Versions
from lethe.requests import Compliance, Log, Requests
from lethe.transport import Transport, Verify
from lethe.types import Json


class Client:
    """One service with one API key.

    `timeout`: seconds without a sign of life after which a call counts as failed; `retries`: further tries after it.
    `verify`: a file or folder with certificates of the authorities to trust, or an SSL context; by default
    SSL_CERT_FILE and SSL_CERT_DIR, else the system's and the public ones. `proxy`: its address; by default that of
    HTTPS_PROXY, and none for the hosts of NO_PROXY.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout: float = 60.0,
        retries: int = 5,
        verify: Verify = True,
        proxy: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._calls = Transport(
            url, api_key, timeout=timeout, retries=retries, verify=verify, proxy=proxy, http=transport
        )
        self.get, self.post, self.put = self._calls.get, self._calls.post, self._calls.put
        self.delete, self.pages, self.call = self._calls.delete, self._calls.pages, self._calls.call
        self.jobs = Jobs(self._calls, retries)
        self.datasets = Datasets(self._calls, self.jobs)
        self.models = Models(self._calls)
        self.versions = Versions(self._calls)
        self.requests = Requests(self._calls)
        self.webhooks = Webhooks(self._calls)
        self.keys = Keys(self._calls)
        self.compliance = Compliance(self._calls)
        self.log = Log(self._calls)

    @classmethod
    def from_folder(cls, folder: Path | str = "lethe-data", **options: Any) -> Client:
        """The service that keeps its data in `folder` on this machine, with its first key."""
        where = Path(folder)
        url, key = ((where / name).read_text("utf-8-sig").strip() for name in ("url", "api-key"))
        return cls(url, key, **options)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where the service is, without a slash at its end."""
        return self._calls.url

    def close(self) -> None:
        self._calls.close()

    def catalog(self) -> dict[str, dict[str, Json]]:
        """Methods, attacks, audits, architectures, recipes and sources, with JSON Schemas of their parameters."""
        return cast("dict[str, dict[str, Json]]", self.get("/v1/catalog"))

    def ready(self) -> Json:
        """The service's own state; needs no key."""
        return cast("Json", self.get("/readyz"))
