"""Settings: the only reader of the environment (prefix LETHE_)."""

from __future__ import annotations

import os
import secrets
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import URL, make_url

from app.rules.states import JobKind

LEASE_BEATS = 4  # a lease is renewed this often within its length


class Settings(BaseSettings):
    """Embedded defaults: everything in `data_dir`, no server needed. Production changes values, not code paths."""

    model_config = SettingsConfigDict(env_prefix="LETHE_", frozen=True, extra="ignore")

    data_dir: Path = Field(Path("lethe-data"), description="database, blobs, key and secret of an embedded service")
    database_url: str = Field("", description="postgresql://… ; empty: SQLite in data_dir")
    broker_url: str = Field("", description="redis://… for Celery hints; empty: workers watch the database")
    host: str = "127.0.0.1"
    port: int = Field(8321, ge=0, le=65535)
    secret: SecretStr = Field(SecretStr(""), description="key of fingerprints and suppression; empty: data_dir/secret")
    signing_key: SecretStr = Field(SecretStr(""), description="Ed25519, PKCS #8 PEM; empty: data_dir/signing-key.pem")
    log_name: str = Field(
        "lethe-log",
        pattern=r"^[^\s+]+$",
        description="name of new transparency logs, in their heads and keys; a log keeps the name that it began with",
    )
    problem_base: str = Field(
        "urn:lethe:problems/",
        pattern=r"^[a-z][a-z0-9+.-]*:[\x21-\x7e]*/$",
        description="URI that types of problem documents begin with; ends in `/`",
    )
    api_key: SecretStr = Field(SecretStr(""), description="what the command line sends; empty: data_dir/api-key")
    url: str = Field("", description="where the command line finds the service; empty: data_dir/url")

    worker_name: str = Field("", description="who holds a lease; empty: host and process id")
    devices: Annotated[list[str], NoDecode] = Field(
        ["auto"], description="one worker for each: cpu, cuda:0,cuda:1 …; auto: every CUDA device, else one on the CPU"
    )
    device: str = Field("", description="of one worker: cpu, cuda, cuda:1 …; empty: the first of `auto`")
    device_label: str = Field(
        "", pattern=r"^([a-z0-9][a-z0-9_-]{0,39})?$", description="models may name it; empty: cpu or cuda"
    )
    kinds: Annotated[list[JobKind], NoDecode] = Field([], description="kinds of jobs a worker takes; empty: every kind")
    warm_bytes: int = Field(4 * 2**30, ge=0, description="what a worker may keep loaded between jobs; 0: nothing")
    torch_threads: int = Field(1, ge=1, le=1024, description="CPU threads of one worker")
    lease_seconds: float = Field(60.0, gt=0)
    poll_seconds: float = Field(0.1, gt=0, description="how often an idle worker or sweeper looks at the database")
    rehint_seconds: float = Field(30.0, gt=0, description="age at which a queued job's hint is sent again")
    resume_seconds: float = Field(60.0, ge=0, description="shortest time between two resume files of one job")
    blob_url: str = Field(
        "",
        pattern=r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.-]+)*/?)?$",
        description="s3://bucket/prefix; empty: a folder in data_dir",
    )
    s3_endpoint: str = Field("", description="http(s)://… of S3-compatible storage; empty: Amazon's")
    s3_region: str = "us-east-1"
    s3_access_key: str = Field("", description="empty: what the library finds (AWS_…, an instance's role)")
    s3_secret_key: SecretStr = SecretStr("")
    s3_timeout_seconds: float = Field(10.0, gt=0, description="silence after which object storage counts as away")
    s3_copies_bytes: int = Field(20 * 2**30, ge=0, description="local copies of blobs: the longest unused go first")
    source_cache: Path | None = Field(None, description="where torchvision downloads go; empty: data_dir/sources")

    log_format: Literal["", "json", "text"] = Field(
        "", description="of log lines; empty: text on a terminal, else json"
    )

    erasures_file: Path | None = Field(None, description="erasure ledger that the sweeper keeps; best on another disk")
    webhooks_to_private: bool = Field(False, description="let webhooks go to http and private addresses: tests only")

    max_json_bytes: int = Field(32 * 2**20, ge=1024)
    max_upload_bytes: int = Field(16 * 2**30, ge=1024)
    max_held_bytes: int = Field(
        256 * 2**20, ge=1024, description="bodies of calls under way, which are in memory, of one API process"
    )
    max_connections: int = Field(
        2000, ge=1, description="of one API process; fewer where the system lets it open fewer files"
    )
    head_seconds: float = Field(10.0, gt=0, description="in which a request's headers must have come")
    body_seconds: float = Field(
        30.0, gt=0, description="silence after which a body, or a reader of a reply, is given up"
    )
    max_transfers: int = Field(64, ge=1, description="uploads and downloads at once, of one API process")
    max_event_streams: int = Field(1000, ge=1, description="at once, of one API process")
    event_stream_seconds: float = Field(900.0, gt=0, description="age at which a stream ends; its client continues")
    key_calls_per_second: float = Field(0.0, ge=0, description="of one key to one API process; 0: no limit")
    tenant_calls_per_second: float = Field(0.0, ge=0, description="of one tenant to one API process; 0: no limit")
    tenant_queued_jobs: int = Field(
        1000, ge=1, description="of one tenant, besides those that carry out deletions; more are refused"
    )
    tenant_bytes: int = Field(0, ge=0, description="of one tenant's datasets and versions; 0: no limit")
    disk_reserve_bytes: int = Field(2**30, ge=0, description="free space that uploads leave on the disk of data_dir")

    crash_at: str = Field("", description="fault tests: SIGKILL this process at the named point, or `stop:` it there")

    @field_validator("database_url")
    @classmethod
    def _driver(cls, url: str) -> str:
        """Both common spellings of a PostgreSQL address mean psycopg 3."""
        for plain in ("postgres://", "postgresql://"):
            if url.startswith(plain):
                return "postgresql+psycopg://" + url.removeprefix(plain)
        return url

    @field_validator("port", mode="before")
    @classmethod
    def _no_service_link(cls, value: Any) -> Any:
        """Kubernetes sets LETHE_PORT=tcp://… in every container beside a Service called `lethe`: it means no port."""
        return 8321 if isinstance(value, str) and value.startswith("tcp://") else value

    @field_validator("devices", "kinds", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Environment variables hold lists with commas."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @property
    def resolved_database_url(self) -> URL:
        """Of SQLite from its parts: a folder's name may have `?`, `%` or `#` in it."""
        if self.database_url:
            return make_url(self.database_url)
        return URL.create("sqlite", database=str(self.data_dir.absolute() / "lethe.db"))

    @property
    def key_file(self) -> Path:
        return self.data_dir / "api-key"

    @property
    def url_file(self) -> Path:
        return self.data_dir / "url"

    @property
    def sources_dir(self) -> Path:
        return self.source_cache or self.data_dir / "sources"

    def secret_bytes(self) -> bytes:
        """The service's secret: from the environment, else from a file only its owner can read, made once."""
        if given := self.secret.get_secret_value():
            return given.encode()
        path = self.data_dir / "secret"
        return _secret_of(path)


@lru_cache(maxsize=16)
def _secret_of(path: Path) -> bytes:
    if not path.exists():
        write_private(path, secrets.token_hex(32), exclusive=True)
    return path.read_text().strip().encode()


def write_private(path: Path, text: str, *, exclusive: bool = False) -> None:
    """Write a file that only its owner can read. With `exclusive`, the first of several writers wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        if exclusive:
            os.link(partial, path)
        else:
            partial.replace(path)
    except FileExistsError:
        pass
    finally:
        partial.unlink(missing_ok=True)


@lru_cache
def get_settings() -> Settings:
    return Settings()
