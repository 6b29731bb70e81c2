"""Where the client's commands find the service: `LETHE_URL` and `LETHE_API_KEY`, or the folder `LETHE_DATA_DIR`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """`url` and `api_key` are empty where the environment gives none; then the files of `data_dir` count."""

    data_dir: Path
    url: str
    api_key: str = field(repr=False)
    host: str
    port: str

    @property
    def own_url(self) -> str:
        """The service of the data folder; where it does not run, the address on which it would."""
        file = self.data_dir / "url"
        written = file.read_text("utf-8").strip() if file.exists() else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return written or f"http://{host}:{self.port}"

    @property
    def key_file(self) -> Path:
        """The first API key of the service of the data folder."""
        return self.data_dir / "api-key"


def read_settings() -> Settings:
    """The settings of this process.

    Raises:
        ValueError: LETHE_PORT is no port.
    """
    port = os.environ.get("LETHE_PORT", "").strip()
    if not port or re.match("(tcp|udp|sctp)://", port):  # Kubernetes sets it so beside a Service called `lethe`
        port = "8321"
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError("LETHE_PORT: a number from 0 to 65535 is needed")
    return Settings(
        data_dir=Path(os.environ.get("LETHE_DATA_DIR", "lethe-data")),
        url=os.environ.get("LETHE_URL", "").strip(),
        api_key=os.environ.get("LETHE_API_KEY", "").strip(),
        host=os.environ.get("LETHE_HOST", "").strip().removeprefix("[").removesuffix("]") or "127.0.0.1",
        port=port,
    )
