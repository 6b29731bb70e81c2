"""The erasure ledger: a file outside the database, so that a restored backup does not bring erased samples back.

It has a line for each fulfilled request, which names its samples by the keyed digests that stand in the place of
erased ids; one for each dataset that was deleted and each model that was purged; and lines of what must not be taken in
again (`app.datasets.suppression`), whatever became of its dataset. `app.recovery.replay` reads it after a restore.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core import db
from app.core.config import Settings, private_file
from app.core.db import Database
from app.core.positions import Positions, unpack
from app.core.tables import Dataset, DeletionRequest, Model, Sample, Suppression
from app.datasets import records as datasets
from app.evidence import legal, transparency_log
from app.evidence.legal import Identity, Refusal
from app.formats.manifest import ERASED_PREFIX

log = logging.getLogger("lethe.erasures")

AT_ONCE = 10_000  # samples looked up by one statement
LINES_AT_ONCE = 1000
OVERLAP = timedelta(hours=1)  # a fulfilment may be dated so long before it is seen: slow commits, a clock set back
SET_BACK = OVERLAP / 2  # where the clock went back further, all is looked at once more


@dataclass(frozen=True)
class Law:
    """Of a request's legal life what its certificate needs, and no free words: those cannot be erased from a file."""

    posted_at: datetime | None
    extended_at: datetime | None
    confirmed_at: datetime | None
    ground: str | None
    complaint_about: str | None
    case_id: str | None
    identity: Identity
    refused: list[Refusal]
    channel: str | None = None
    extension_sent_at: datetime | None = None
    answered_at: datetime | None = None


@dataclass(frozen=True)
class Line:
    """One fulfilled request. `samples`: keyed digests. `log_size`, `log_root`: the tenant's log when it was written.

    `check`: what shows that another LETHE_SECRET wrote it. `carried_for`: the model whose deletion carried the samples.
    law: None in lines of earlier versions.
    """

    request: str
    check: str
    tenant: str
    dataset: str
    model: str | None
    carried_for: str | None
    jurisdiction: str
    rule: str
    by_subject: bool
    received_at: datetime
    due_at: datetime
    fulfilled_at: datetime
    samples: list[str]
    log_size: int
    log_root: str
    law: Law | None = None


@dataclass(frozen=True)
class Gone:
    """A dataset that was deleted whole, or a model that was purged. The other members are those of `Line`."""

    gone: str
    check: str
    tenant: str
    log_size: int
    log_root: str


@dataclass(frozen=True)
class Kept:
    """Digests of what a tenant must not take in again. The other members are those of `Line`."""

    suppressed: list[str]
    check: str
    tenant: str
    log_size: int
    log_root: str


_LINE = TypeAdapter(Line)
_GONE = TypeAdapter(Gone)
_KEPT = TypeAdapter(Kept)
_ANY: TypeAdapter[Line | Gone | Kept] = TypeAdapter(Line | Gone | Kept)


@dataclass(frozen=True)
class Contents:
    """Lines with their numbers, from 1, and the numbers of those that cannot be read."""

    lines: list[tuple[int, Line]]
    damaged: list[int]
    gone: list[tuple[int, Gone]] = field(default_factory=list)
    kept: list[tuple[int, Kept]] = field(default_factory=list)


def read(path: Path) -> Contents:
    """All of it. A last line that a crash cut short is no damage: its request is written again by the next `keep`."""
    *whole, last = path.read_bytes().split(b"\n") if path.exists() else [b""]
    parsed = [(number, _parse(raw)) for number, raw in enumerate(whole, 1)]
    if unfinished := _parse(last):
        parsed.append((len(whole) + 1, unfinished))
    lines = [(number, line) for number, line in parsed if isinstance(line, Line)]
    gone = [(number, line) for number, line in parsed if isinstance(line, Gone)]
    kept = [(number, line) for number, line in parsed if isinstance(line, Kept)]
    return Contents(lines, [number for number, line in parsed if line is None], gone, kept)


def _parse(raw: bytes) -> Line | Gone | Kept | None:
    try:
        return _ANY.validate_json(raw)
    except ValueError:
        return None


class Keeper:
    """Appends fulfilled requests to one file, and remembers how far it has come."""

    def __init__(self, database: Database, settings: Settings, path: Path) -> None:
        self._database, self._settings, self._path = database, settings, path
        self._seen: datetime | None = None  # the latest fulfilment that the file has, or when that was looked at
        self._recent: dict[str, datetime] = {}  # requests that the file has, fulfilled in the OVERLAP before that
        self._gone: set[str] = set()  # datasets and models that the file has
        self._looked: datetime | None = None  # when suppressions were last looked at; None: all are to be
        self._suppressed: set[tuple[str, str]] = set()  # (tenant, digest) that the file has, of the OVERLAP before that

    def keep(self) -> int:
        """Append what the file does not have; how many requests, datasets and models. The file itself is read at the
        first call, and where the database's clock was set back."""
        at = DeletionRequest.fulfilled_at
        query = select(DeletionRequest.id, at).where(at.is_not(None))
        with self._database.read() as session:
            now = db.now(session)
        if self._seen is None or now < self._seen - SET_BACK:
            contents = read(self._path)
            for number in contents.damaged:
                log.warning("line %d of the erasure ledger cannot be read", number)
            known = {line.request for _, line in contents.lines}
            self._gone = {line.gone for _, line in contents.gone}
            self._suppressed = {(line.tenant, digest) for _, line in contents.kept for digest in line.suppressed}
            self._looked = None
        else:
            known = set(self._recent)
            query = query.where(at > self._seen - OVERLAP)
        with self._database.read() as session:
            found = {request: when for request, when in session.execute(query) if when is not None}
            fresh = sorted(set(found) - known)
            for start in range(0, len(fresh), LINES_AT_ONCE):
                part = fresh[start : start + LINES_AT_ONCE]
                rows = [session.get_one(DeletionRequest, request) for request in part]
                lines = [_LINE.dump_json(_line(session, self._settings, row)) + b"\n" for row in rows]
                _append(self._path, b"".join(lines))
        if found:
            self._seen = min(now, max(found.values()))
            self._recent = {request: when for request, when in found.items() if when > self._seen - OVERLAP}
        # What a request's samples leave for ever is committed before the request is fulfilled.
        if fresh or self._looked is None:
            self._keep_suppressed()
        return len(fresh) + self._keep_gone()

    def _keep_suppressed(self) -> None:
        """The same of suppressions, also of datasets that are deleted since: they are looked up by nothing else."""
        query = select(Suppression.tenant_id, Suppression.digest, Suppression.created_at)
        if self._looked is not None:
            query = query.where(Suppression.created_at > self._looked - OVERLAP)
        known, secret = self._suppressed, self._settings.secret_bytes()
        with self._database.read() as session:
            now = db.now(session)
            found = {(tenant, digest): when for tenant, digest, when in session.execute(query)}
            fresh: dict[str, list[str]] = {}
            for tenant, digest in sorted(found.keys() - known):
                fresh.setdefault(tenant, []).append(digest)
            heads = {tenant: transparency_log.head(session, tenant) for tenant in fresh}
        for tenant, digests in fresh.items():
            head = heads[tenant]
            size, root = (head.size, head.root.hex()) if head else (0, "")
            for start in range(0, len(digests), AT_ONCE):
                part = digests[start : start + AT_ONCE]
                line = Kept(suppressed=part, check=_check(secret, tenant), tenant=tenant, log_size=size, log_root=root)
                _append(self._path, _KEPT.dump_json(line) + b"\n")
        self._suppressed = {each for each, when in found.items() if when > now - OVERLAP}
        self._looked = now

    def _keep_gone(self) -> int:
        """The same of datasets and models. What a deletion carried has a line of its request's."""
        deleted = select(Dataset.id, Dataset.tenant_id).where(Dataset.state == "erased", Dataset.carried_for.is_(None))
        purged = select(Model.id, Model.tenant_id).where(Model.purged_at.is_not(None))
        with self._database.read() as session:
            found = [*session.execute(deleted).all(), *session.execute(purged).all()]
            fresh = {name: tenant for name, tenant in found if name not in self._gone}
            heads = {tenant: transparency_log.head(session, tenant) for tenant in {*fresh.values()}}
        secret, lines = self._settings.secret_bytes(), []
        for name, tenant in sorted(fresh.items()):
            head = heads[tenant]
            size, root = (head.size, head.root.hex()) if head else (0, "")
            line = Gone(gone=name, check=_check(secret, name), tenant=tenant, log_size=size, log_root=root)
            lines.append(_GONE.dump_json(line) + b"\n")
        if lines:
            _append(self._path, b"".join(lines))
        self._gone |= fresh.keys()
        return len(fresh)


def _append(path: Path, lines: bytes) -> None:
    """Write lines to the disk, in the place of one that a crash cut short."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    private_file(path)
    with os.fdopen(os.open(path, os.O_RDWR), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another sweeper may be at it
        size = file.seek(0, os.SEEK_END)
        file.seek(_last_line(file.fileno(), size))
        last = file.read()
        if _parse(last):
            lines = b"\n" + lines
        else:
            file.seek(size - len(last))
        file.write(lines)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def _last_line(descriptor: int, size: int) -> int:
    """Where the last line begins: behind the last line break."""
    start = size
    while start:
        end, start = start, max(0, start - 65536)
        place = os.pread(descriptor, end - start, start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
    return 0


def _line(session: Session, settings: Settings, request: DeletionRequest) -> Line:
    head = transparency_log.head(session, request.tenant_id)
    names = names_at(session, request.dataset_id, unpack(request.positions)).values()
    return Line(
        request=request.id,
        check=_check(settings.secret_bytes(), request.id),
        tenant=request.tenant_id,
        dataset=request.dataset_id,
        model=request.model_id,
        carried_for=session.get_one(Dataset, request.dataset_id).carried_for,
        jurisdiction=request.jurisdiction,
        rule=request.rule,
        by_subject=request.by_subject,
        received_at=request.received_at,
        due_at=request.due_at,
        fulfilled_at=request.fulfilled_at or request.due_at,
        samples=[digest_of(settings, request.dataset_id, name) for name in names],
        log_size=head.size if head else 0,
        log_root=head.root.hex() if head else "",
        law=Law(
            posted_at=request.posted_at,
            extended_at=request.extended_at,
            confirmed_at=request.confirmed_at,
            ground=request.ground,
            complaint_about=request.complaint_about,
            case_id=request.case_id,
            identity=legal.identity_of(request),
            refused=list(legal.refused(session, request)),
            channel=request.channel,
            extension_sent_at=request.extension_sent_at,
            answered_at=request.answered_at,
        ),
    )


def is_ours(settings: Settings, line: Line | Gone | Kept) -> bool:
    """Whether one of the service's secrets wrote the line."""
    name = line.request if isinstance(line, Line) else line.gone if isinstance(line, Gone) else line.tenant
    return any(hmac.compare_digest(line.check, _check(secret, name)) for secret in settings.every_secret())


def _check(secret: bytes, request_id: str) -> str:
    return hmac.new(secret, f"erasure-ledger:{request_id}".encode(), hashlib.sha256).hexdigest()


def digests_of(settings: Settings, dataset_id: str, name: str) -> Iterator[str]:
    """What lines may call a sample that this database calls `name`."""
    return iter([name]) if name.startswith(ERASED_PREFIX) else datasets.suppressions(settings, dataset_id, name)


def digest_of(settings: Settings, dataset_id: str, name: str) -> str:
    return name if name.startswith(ERASED_PREFIX) else datasets.suppression(settings, dataset_id, name)


def names_at(session: Session, dataset_id: str, positions: Positions) -> dict[int, str]:
    wanted = positions.tolist()
    found: dict[int, str] = {}
    for start in range(0, len(wanted), AT_ONCE):
        part = Sample.position.in_(wanted[start : start + AT_ONCE])
        query = select(Sample.position, Sample.sample_id).where(Sample.dataset_id == dataset_id, part)
        found.update(dict(session.execute(query).all()))
    return found
