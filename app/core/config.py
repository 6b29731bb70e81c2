"""Settings: the only reader of the environment (prefix LETHE_); and files that only their owner can read."""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, IPvAnyNetwork, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.rules.roles import ROLES
from app.rules.states import JobKind

log = logging.getLogger("lethe.settings")

DEFAULT_PORT = 8321
OBJECTS = re.compile(
    r"(?:(?P<tenant>ten_\w+)=)?s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<folder>(/[^/,\s]+)*)/?"
)
LEASE_BEATS = 4  # a lease is renewed this often within its length
SECRETS_DIR = Path("/run/secrets")  # where containers find the files of their secrets
OTHERS = stat.S_IRWXG | stat.S_IRWXO
OWN_FILES = {
    *("lethe.db", "lethe.db-journal", "lethe.db-wal", "lethe.db-shm", "backup.json", "lethe.dump"),
    *("secret", "signing-key.pem", "api-key", "url", "serve.lock", "erasures.jsonl", "service.log"),
    *("blobs", "copies", "sources", "tmp"),
}


class PlainError(Exception):
    """Its text is a sentence for the operator, and repeats nothing that was sent: it may be logged."""


class StartError(PlainError):
    """A part cannot start. The text says why in a sentence, with the setting to mend, and repeats no secret."""


class Settings(BaseSettings):
    """Embedded defaults: everything in `data_dir`, no server needed. Production changes values, not code paths."""

    model_config = SettingsConfigDict(env_prefix="LETHE_", frozen=True, extra="ignore", hide_input_in_errors=True)

    data_dir: Path = Field(Path("lethe-data"), description="database, blobs, key and secret of an embedded service")
    database_url: str = Field("", description="postgresql://… ; empty: SQLite in data_dir")
    broker_url: str = Field("", description="redis://… for Celery hints; empty: workers watch the database")
    host: str = "127.0.0.1"
    port: int = Field(DEFAULT_PORT, ge=0, le=65535)
    root_path: str = Field("", description="the path of a proxy under which the service is, such as /lethe")
    public_url: str = Field(
        "",
        pattern=r"^(https?://[^/\s]+)?$",
        description="where browsers find the service, such as https://lethe.example; empty: as they ask for it",
    )
    oidc_issuer: str = Field(
        "", pattern=r"^(https?://\S+)?$", description="OpenID Connect provider that users of the console sign in with"
    )
    oidc_client_id: str = ""
    oidc_client_secret: SecretStr = SecretStr("")
    oidc_scope: str = Field("openid profile email", description="what the provider is asked for")
    oidc_role_claim: str = Field("groups", description="claim of the ID token that names the user's groups")
    oidc_roles: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description="group=role with commas between, such as privacy=officer,ml=engineer; others may not sign in",
    )
    oidc_tenant: str = Field("ten_first", description="whose console users of the provider sign in to")
    secret: SecretStr = Field(SecretStr(""), description="key of fingerprints and suppression; empty: data_dir/secret")
    earlier_secrets: SecretStr = Field(
        SecretStr(""), description="what LETHE_SECRET was before, with commas between: still recognises what was erased"
    )
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

    worker_name: str = Field("", max_length=100, description="who holds a lease; empty: host and process id")
    devices: Annotated[list[str], NoDecode] = Field(
        ["auto"], description="one worker for each: cpu, cuda:0,cuda:1 …; auto: every CUDA device, else each core"
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
    stall_seconds: float = Field(
        6 * 3600.0, gt=0, description="time without any progress after which a job has hung: its process is ended"
    )
    blob_url: str = Field(
        "",
        pattern=r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.-]+)*/?)?$",
        description="s3://bucket/prefix; empty: a folder in data_dir",
    )
    s3_endpoint: str = Field(
        "",
        pattern=r"^(https?://[^/\s?#@]+/?)?$",
        description="http(s)://host:port of S3-compatible storage; empty: Amazon's",
    )
    s3_region: str = "us-east-1"
    s3_access_key: str = Field("", description="empty: what the library finds (AWS_…, an instance's role)")
    s3_secret_key: SecretStr = SecretStr("")
    s3_timeout_seconds: float = Field(10.0, gt=0, description="silence after which object storage counts as away")
    s3_copies_bytes: int = Field(20 * 2**30, ge=0, description="local copies of blobs: the longest unused go first")
    objects_allowed: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="storage that datasets may refer to: s3://bucket/folder, or TENANT=s3://bucket/folder for one "
        "tenant alone, with commas between",
    )
    objects_erasable: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="of it, in the same form, where erasing a sample deletes its object with all versions; elsewhere "
        "its owner deletes it and confirms",
    )
    objects_endpoint: str = Field(
        "",
        pattern=r"^(https?://[^/\s?#@]+/?)?$",
        description="http(s)://host:port of that storage; empty: LETHE_S3_ENDPOINT, as with the three that follow",
    )
    objects_region: str = ""
    objects_access_key: str = ""
    objects_secret_key: SecretStr = SecretStr("")
    source_cache: Path | None = Field(None, description="where torchvision downloads go; empty: data_dir/sources")

    log_format: Literal["", "json", "text"] = Field(
        "", description="of log lines; empty: text on a terminal, else json"
    )

    erasures_file: Path | None = Field(None, description="erasure ledger that the sweeper keeps; best on another disk")
    rewrite_bytes: int = Field(
        256 * 2**20,
        ge=0,
        description="tables up to this size are rewritten seconds after an erasure, larger ones daily",
    )
    rewrite_hour: int = Field(3, ge=0, le=23, description="UTC hour in which larger tables are rewritten")
    wal_kept_days: float | None = Field(
        None, ge=0, description="how long you keep PostgreSQL's write-ahead logs, archived ones too: receipts name it"
    )
    backups_kept_days: float | None = Field(None, ge=0, description="how long you keep backups: receipts name it")
    model_signing_key: SecretStr = Field(
        SecretStr(""), description="P-256 key (PKCS #8 PEM) of model signatures; empty: the sweeper makes one"
    )
    witnesses: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="who countersign the log's heads: NAME+HASH+KEY@URL, with commas between"
    )
    webhooks_to_private: bool = Field(False, description="let webhooks go to http and private addresses: tests only")
    webhook_networks: Annotated[list[IPvAnyNetwork], NoDecode] = Field(
        default_factory=list, description="private networks that webhooks may go to, by http too; with commas between"
    )

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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Beside the environment: files named as the variables are, in lower case, where containers and systemd
        (LoadCredential) give a process its secrets. Unlike variables they are not inherited, and show in no listing."""
        given = [SECRETS_DIR, *map(Path, filter(None, [os.environ.get("CREDENTIALS_DIRECTORY")]))]
        folders = [folder for folder in given if folder.is_dir()]
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, secrets_dir=folders)

    @field_validator(
        *("database_url", "broker_url", "blob_url", "s3_endpoint", "s3_access_key", "host"),
        *("objects_endpoint", "objects_access_key"),
        mode="before",
    )
    @classmethod
    def _trimmed(cls, value: Any) -> Any:
        """Secrets of Kubernetes and files of variables often end in a line feed."""
        return value.strip() if isinstance(value, str) else value

    @field_validator("s3_secret_key", "objects_secret_key", "api_key", mode="before")
    @classmethod
    def _trimmed_secret(cls, value: Any) -> Any:
        return value.strip() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _driver(cls, url: str) -> str:
        """Both common spellings of a PostgreSQL address mean psycopg 3."""
        if not url:
            return url
        for plain in ("postgres://", "postgresql://"):
            if url.startswith(plain):
                url = "postgresql+psycopg://" + url.removeprefix(plain)
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            parsed = None
        if parsed is None or parsed.drivername != "postgresql+psycopg":
            raise ValueError(
                "must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %40 for @ in a password and so on"
            )
        server_options(parsed)
        return url

    @field_validator("broker_url")
    @classmethod
    def _redis(cls, url: str) -> str:
        if not url:
            return url
        try:
            parts = urlsplit(url)
            fine = parts.scheme in ("redis", "rediss") and re.fullmatch(r"(/\d*)?", parts.path) and parts.port != 0
        except ValueError:
            fine = False
        if not fine:
            raise ValueError("must be redis://:PASSWORD@HOST:PORT/NUMBER, or rediss:// with TLS")
        return url

    @field_validator("root_path")
    @classmethod
    def _of_a_proxy(cls, path: str) -> str:
        if path.strip("/") and not (found := proxy_path(path)):
            raise ValueError("must be a path such as /lethe, and none of the service's own")
        return found if path.strip("/") else ""

    @field_validator("host")
    @classmethod
    def _address(cls, host: str) -> str:
        """IPv6 may be in brackets, as in URLs."""
        return host.removeprefix("[").removesuffix("]") or "127.0.0.1"

    @field_validator("port", mode="before")
    @classmethod
    def _no_service_link(cls, value: Any) -> Any:
        """Kubernetes sets LETHE_PORT=tcp://… in every container beside a Service called `lethe`: it means no port."""
        return DEFAULT_PORT if isinstance(value, str) and re.match("(tcp|udp|sctp)://|$", value.strip()) else value

    @field_validator(
        "devices", "kinds", "webhook_networks", "witnesses", "objects_allowed", "objects_erasable", mode="before"
    )
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Environment variables hold lists with commas."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("oidc_roles", mode="before")
    @classmethod
    def _mapped(cls, value: Any) -> Any:
        """`group=role` with commas between, and no other roles than there are."""
        if not isinstance(value, str):
            return value
        pairs = [part.strip().rpartition("=") for part in value.split(",") if part.strip()]
        if wrong := [role for group, _, role in pairs if not group or role not in ROLES]:
            raise ValueError(f"each is group=role, with a role of {', '.join(ROLES)}; not {wrong[0]!r}")
        return {group: role for group, _, role in pairs}

    @field_validator("objects_allowed", "objects_erasable")
    @classmethod
    def _of_storage(cls, value: list[str]) -> list[str]:
        for each in value:
            if not OBJECTS.fullmatch(each):
                raise ValueError("each is s3://bucket/folder or TENANT=s3://bucket/folder")
        return value

    @field_validator("devices", "device")
    @classmethod
    def _known_devices(cls, value: Any) -> Any:
        for name in [value] if isinstance(value, str) else value:
            if not re.fullmatch(r"(auto|cpu|cuda(:\d+)?)?", name):
                raise ValueError("must be cpu, cuda, or cuda:0 and so on")
        return value

    @property
    def private_receivers(self) -> bool | list[IPvAnyNetwork]:
        """Which private addresses webhooks may go to (`app.events.webhooks.Private`)."""
        return self.webhooks_to_private or self.webhook_networks

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

    @property
    def looking_dir(self) -> Path:
        """Of what this machine's processes look at, for as long as they do."""
        return self.data_dir / "tmp"

    @property
    def authorities(self) -> str | None:
        """The file of SSL_CERT_FILE, for a library that does not look there; it knows AWS_CA_BUNDLE itself."""
        return None if os.environ.get("AWS_CA_BUNDLE") else os.environ.get("SSL_CERT_FILE") or None

    def secret_bytes(self) -> bytes:
        """The service's secret: from the environment, else from a file only its owner can read, made once.

        Raises:
            StartError: the file is empty: another secret would not recognise what was erased.
        """
        if given := self.secret.get_secret_value():
            return given.encode()
        path = self.data_dir / "secret"
        return _secret_of(path)

    def every_secret(self) -> list[bytes]:
        """The service's secret, then those that it replaced. New digests are of the first; any of them recognises."""
        earlier = self.earlier_secrets.get_secret_value().split(",")
        return [self.secret_bytes(), *(each.strip().encode() for each in earlier if each.strip())]


@lru_cache(maxsize=16)
def _secret_of(path: Path) -> bytes:
    if not path.exists():
        write_private(path, secrets.token_hex(32), exclusive=True)
    if not (found := path.read_text().strip()):
        raise StartError(f"the file {path} is empty: restore it from a backup, or set LETHE_SECRET")
    return found.encode()


def write_private(path: Path, text: str, *, exclusive: bool = False) -> None:
    """Write a file that only its owner can read. With `exclusive`, the first of several writers wins."""
    private_folder(path.parent)
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


def private_folder(path: Path, *, ours: bool = False) -> None:
    """Make a folder that only its owner can enter. One that is there and open is closed, and the log says so.

    Its mode stays where closing it could harm others: it is another user's, or holds files that are not Lethe's.
    `ours`: only Lethe makes such a folder, whatever is in it.

    Raises:
        OSError: it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if not mode & OTHERS:
        return
    if found.st_uid == os.geteuid() and (ours or OWN_FILES.issuperset(os.listdir(path))):
        path.chmod(0o700)
        log.warning("the folder %s was open to other users (mode %o); it is closed to them now", path, mode)
    else:
        _told_open(path, mode)


@lru_cache(maxsize=16)
def _told_open(path: Path, mode: int) -> None:
    log.warning(
        "the folder %s is open to other users (mode %o) and not Lethe's alone, so its mode stays; "
        "give Lethe a folder that only its user can enter",
        path,
        mode,
    )


def private_file(path: Path) -> None:
    """Make a file that only its owner can read, or close one that is open. Whoever opens it says what hinders that."""
    with suppress(OSError):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            if path.stat().st_mode & OTHERS:
                path.chmod(0o600)


@lru_cache
def get_settings() -> Settings:
    """The settings of this process, which is one of the service's: no file that it makes is for other users.

    Raises:
        StartError: a setting is wrong, or a file of one cannot be read; says which.
    """
    os.umask(OTHERS)
    try:
        return Settings()
    except ValidationError as error:
        faults = "; ".join(_fault(each["loc"][0], each["type"], each["msg"]) for each in error.errors())
        raise StartError(f"the settings are wrong: {faults}") from None
    except (OSError, ValueError) as error:
        file = getattr(error, "filename", None) or "of /run/secrets or of the credentials folder"
        raise StartError(f"the settings are wrong: the file {file} cannot be read as UTF-8 text") from None


def _fault(name: object, kind: str, message: str) -> str:
    """In words, without what was given. A pattern says little to people: a field that has one is described instead."""
    if kind == "string_pattern_mismatch" and (described := Settings.model_fields[str(name)].description):
        message = f"must be {described.partition(';')[0]}"
    return f"LETHE_{str(name).upper()}: {message.removeprefix('Value error, ')}"


def proxy_path(text: str) -> str:
    """The path of a proxy before the service's own ones, without a slash at its end; empty where it is none."""
    found = text.rstrip("/")
    own = ("/v1", "/docs", "/console", "/healthz", "/readyz", "/metrics")
    return found if re.fullmatch(r"(/[A-Za-z0-9._~-]*[A-Za-z0-9_~-])+", found) and found not in own else ""


def server_options(url: URL) -> dict[str, str]:
    """The settings of PostgreSQL that `?options=-c name=value` of an address asks for.

    Raises:
        ValueError: it asks for anything else.
    """
    given = url.query.get("options", "")
    words = " ".join([given] if isinstance(given, str) else given)
    # As libpq has it: words end at spaces, and a backslash takes away a mark's meaning.
    found = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:[^\\\s]|\\.)+", re.sub(r"-c\s+", "-c", words))]
    parsed = [re.fullmatch(r"(?:-c|--)([A-Za-z_][\w.-]*)=(.*)", word, re.DOTALL) for word in found]
    if None in parsed:
        raise ValueError("its `options` may hold -c NAME=VALUE and nothing else")
    return {match[1].replace("-", "_").lower(): match[2] for match in parsed if match}
