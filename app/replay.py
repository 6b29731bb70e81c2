"""Erasures kept apart from the database, so that a restored backup does not bring erased samples back.

A backup is older than the erasures that came after it. The erasure ledger is a file outside the database: a line
for each fulfilled request, which names its samples by the keyed digests that stand in the place of erased ids. After
a restore, `replay` asks again for every erasure that the backup does not know, under its own id and dates; until
that is carried out, versions that were trained on its samples do not leave the service.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import batches, carried, datasets, db, decisions, deletions, jobs, ledger, versions
from app.config import Settings
from app.db import Database
from app.deletions import Order
from app.errors import AppError, Conflict
from app.lifecycle import Decision, Outcome
from app.manifest import ERASED_PREFIX
from app.positions import Positions, marked, mask_of, pack, unpack
from app.tables import AuditEvent, Dataset, DeletionRequest, Model, OutcomeRow, Sample, Tenant

log = logging.getLogger("lethe.replay")

AT_ONCE = 10_000  # samples looked up by one statement
LINES_AT_ONCE = 1000
OVERLAP = timedelta(hours=1)  # a fulfilment may be dated so long before it is seen: slow commits, a clock set back
RESTORED, LOST = "log.restored", "request.lost"  # events


@dataclass(frozen=True)
class Line:
    """One fulfilled request. `samples`: keyed digests. `log_size`, `log_root`: the tenant's log when it was written.

    `check`: what shows that another LETHE_SECRET wrote it. `carried_for`: the model whose deletion carried the samples.
    """

    request: str
    check: str
    tenant: str
    dataset: str
    model: str | None
    carried_for: str | None
    jurisdiction: str
    rule: str
    basis: str
    by_subject: bool
    received_at: datetime
    due_at: datetime
    fulfilled_at: datetime
    samples: list[str]
    log_size: int
    log_root: str


_LINE = TypeAdapter(Line)


class LedgerError(Exception):
    """The erasure ledger cannot be replayed here; says why."""


# -- the file --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contents:
    """Lines with their numbers, from 1, and the numbers of those that cannot be read."""

    lines: list[tuple[int, Line]]
    damaged: list[int]


def read(path: Path) -> Contents:
    """All of it. A last line that a crash cut short is no damage: its request is written again by the next `keep`."""
    *whole, last = path.read_bytes().split(b"\n") if path.exists() else [b""]
    parsed = [(number, _parse(raw)) for number, raw in enumerate(whole, 1)]
    if unfinished := _parse(last):
        parsed.append((len(whole) + 1, unfinished))
    lines = [(number, line) for number, line in parsed if line is not None]
    return Contents(lines, [number for number, line in parsed if line is None])


def _parse(raw: bytes) -> Line | None:
    try:
        return _LINE.validate_json(raw)
    except ValueError:
        return None


class Keeper:
    """Appends fulfilled requests to one file, and remembers how far it has come."""

    def __init__(self, database: Database, settings: Settings, path: Path) -> None:
        self._database, self._settings, self._path = database, settings, path
        self._seen: datetime | None = None  # the latest fulfilment that the file has
        self._recent: dict[str, datetime] = {}  # requests that the file has, fulfilled in the OVERLAP before that

    def keep(self) -> int:
        """Append what the file does not have; how many lines. The file itself is read at the first call alone."""
        at = DeletionRequest.fulfilled_at
        query = select(DeletionRequest.id, at).where(at.is_not(None))
        if self._seen is None:
            contents = read(self._path)
            for number in contents.damaged:
                log.warning("line %d of the erasure ledger cannot be read", number)
            known = {line.request for _, line in contents.lines}
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
            self._seen = max(found.values())
            self._recent = {request: when for request, when in found.items() if when > self._seen - OVERLAP}
        return len(fresh)


def _append(path: Path, lines: bytes) -> None:
    """Write lines to the disk, in the place of one that a crash cut short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
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
    head = ledger.head(session, request.tenant_id)
    names = _names(session, request.dataset_id, unpack(request.positions)).values()
    return Line(
        request=request.id,
        check=_check(settings, request.id),
        tenant=request.tenant_id,
        dataset=request.dataset_id,
        model=request.model_id,
        carried_for=session.get_one(Dataset, request.dataset_id).carried_for,
        jurisdiction=request.jurisdiction,
        rule=request.rule,
        basis=request.basis,
        by_subject=request.by_subject,
        received_at=request.received_at,
        due_at=request.due_at,
        fulfilled_at=request.fulfilled_at or request.due_at,
        samples=[_digest(settings, request.dataset_id, name) for name in names],
        log_size=head.size if head else 0,
        log_root=head.root.hex() if head else "",
    )


def _check(settings: Settings, request_id: str) -> str:
    return hmac.new(settings.secret_bytes(), f"erasure-ledger:{request_id}".encode(), hashlib.sha256).hexdigest()


def _digest(settings: Settings, dataset_id: str, name: str) -> str:
    return name if name.startswith(ERASED_PREFIX) else datasets.suppression(settings, dataset_id, name)


def _names(session: Session, dataset_id: str, positions: Positions) -> dict[int, str]:
    wanted = positions.tolist()
    found: dict[int, str] = {}
    for start in range(0, len(wanted), AT_ONCE):
        part = Sample.position.in_(wanted[start : start + AT_ONCE])
        query = select(Sample.position, Sample.sample_id).where(Sample.dataset_id == dataset_id, part)
        found.update(dict(session.execute(query).all()))
    return found


# -- after a restore -------------------------------------------------------------------------------


@dataclass
class Replayed:
    """Requests by what became of them, and what is still to be done.

    gone: of samples, a dataset or a model that the backup does not have, or has erased. waiting: the dataset has not
    been taken in yet, or what the deletion carried must be sent again. damaged: lines that cannot be read.
    withheld: models whose versions stay withheld until a new deletion has forgotten the carried data.
    """

    asked_again: int = 0
    reopened: int = 0
    fulfilled: int = 0
    gone: int = 0
    waiting: int = 0
    failed: int = 0
    damaged: int = 0
    withheld: list[str] = field(default_factory=list)
    todo: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not (self.waiting or self.failed or self.damaged)

    def add(self, what: str, todo: str = "") -> None:
        setattr(self, what, getattr(self, what) + 1)
        if todo:
            self.todo.append(todo)


def replay(database: Database, settings: Settings, path: Path) -> Replayed:
    """Ask again for every erasure of the file that this database does not know. Harmless to repeat.

    To be called on a restored database before anything serves it.

    Raises:
        LedgerError: another secret wrote a line. Nothing has been done.
    """
    contents = read(path)
    for number, line in contents.lines:
        if line.check != _check(settings, line.request):
            raise LedgerError(f"line {number} was written under another LETHE_SECRET: restore that one, then replay")
    done = Replayed()
    for number in contents.damaged:
        done.add("damaged", f"line {number} cannot be read")
    places = _Places(settings)
    lost: list[Line] = []
    # One dataset after the other: its samples are digested once.
    for _, line in sorted(contents.lines, key=lambda item: item[1].dataset):
        try:
            with database.write() as session:
                what = _replay(session, settings, places, line)
        except AppError as error:
            done.add("failed", f"{line.request} was refused: {error.detail}")
            what = "lost" if line.carried_for else ""
        if what == "lost":
            lost.append(line)
        elif what:
            done.add(what, f"{line.request} waits for its dataset to be taken in" if what == "waiting" else "")
    with database.write() as session:
        waiting = (
            select(OutcomeRow.model_id)
            .join(DeletionRequest, DeletionRequest.id == OutcomeRow.request_id)
            .where(OutcomeRow.state == Outcome.PENDING, DeletionRequest.replayed_at.is_not(None))
        )
        for model in session.scalars(select(Model).where(Model.id.in_(waiting)).order_by(Model.id)).all():
            batches.close_now(session, model)  # its versions are withheld until then
    _withhold(database, done, lost)
    heads: dict[str, tuple[int, str]] = {}
    for _, line in contents.lines:
        heads[line.tenant] = max(heads.get(line.tenant, (0, "")), (line.log_size, line.log_root))
    for tenant, (size, root) in heads.items():
        with database.write() as session:
            _tell_log(session, tenant, size, root)
    return done


class _Places:
    """Where the samples of one dataset are, by their digests, whether or not this database has erased them."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._dataset = settings, ""
        self._places: dict[str, int] = {}

    def of(self, session: Session, dataset: Dataset, line: Line) -> Positions:
        """Carried data are asked for whole, and their digests went with them."""
        if dataset.carried_for is not None:
            return carried.forget_set(session, dataset)
        if self._dataset != dataset.id:
            rows = session.execute(select(Sample.position, Sample.sample_id).where(Sample.dataset_id == dataset.id))
            self._places = {_digest(self._settings, dataset.id, name): position for position, name in rows}
            self._dataset = dataset.id
        found = [self._places[digest] for digest in line.samples if digest in self._places]
        return np.array(sorted(found), dtype=np.int64)


def _replay(session: Session, settings: Settings, places: _Places, line: Line) -> str:
    """What becomes of the line: the name of its count in `Replayed`, or `lost`: carried data that are not here.

    Raises:
        AppError: it is refused.
    """
    dataset = session.get(Dataset, line.dataset, with_for_update=True)
    if dataset is not None and dataset.tenant_id != line.tenant:
        raise Conflict("Its dataset is another tenant's.")
    if dataset is not None and dataset.state == "erased":
        return "gone"
    if dataset is None or dataset.state != "ready":
        if line.carried_for:
            return "lost"
        if dataset is None:
            return "gone"
        if line.model is None:
            datasets.suppress(session, dataset, line.samples)
        return "waiting"
    request = session.get(DeletionRequest, line.request, with_for_update=True)
    if request is not None and request.fulfilled_at is not None:
        return "fulfilled"
    positions = places.of(session, dataset, line)
    if request is not None:
        _reopen(session, request, positions)
        return "reopened"
    return _ask_again(session, settings, dataset, positions, line)


def _reopen(session: Session, request: DeletionRequest, positions: Positions) -> None:
    """The backup knows the request as one that is not carried out yet: it goes on, with what was granted."""
    if request.replayed_at is not None:
        return
    own = unpack(request.positions)
    refused = np.setdiff1d(own, positions)
    if len(refused) and len(refused) < len(own):
        holder = session.get_one(Model, request.model_id) if request.model_id else None
        dataset = session.get_one(Dataset, request.dataset_id)
        of = holder or dataset
        of.requested = marked(of.requested, dataset.sample_count, refused, value=False)
        request.positions, request.sample_count = pack(np.intersect1d(own, positions)), len(own) - len(refused)
        request.refused_count += len(refused)
    request.replayed_at = db.now(session)
    if request.decision == Decision.HELD:
        decisions.release(session, request)
    jobs.record(session, request.tenant_id, "request.replayed", request.id)


def _ask_again(session: Session, settings: Settings, dataset: Dataset, positions: Positions, line: Line) -> str:
    size = dataset.sample_count
    model = session.get(Model, line.model) if line.model else None
    left = positions[~mask_of(dataset.erased, size)[positions]]
    if not len(left) or (line.model and model is None):
        return "gone"
    _take_over(session, dataset, model, left, line)
    taken = mask_of(dataset.requested, size)
    if model is not None:
        taken |= mask_of(model.requested, size)
    left = left[~taken[left]]
    if not len(left):
        return "reopened"
    order = Order(
        tenant_id=line.tenant,
        sample_ids=[] if line.carried_for else list(_names(session, dataset.id, left).values()),
        subjects=[],
        dataset_id=dataset.id,
        model_id=line.model,
        jurisdiction=line.jurisdiction,
        basis=line.basis,
        allow_data_loss=True,
        again={
            "id": line.request,
            "by_subject": line.by_subject,
            "rule": line.rule,
            "received_at": line.received_at,
            "due_at": line.due_at,
            "replayed_at": db.now(session),
        },
    )
    [found] = deletions.accept_many(session, settings, deletions.lock(session, [order]), [order], db.now(session))
    if isinstance(found, AppError):
        raise found
    jobs.record(session, line.tenant, "request.replayed", line.request)
    return "asked_again"


def _take_over(session: Session, dataset: Dataset, model: Model | None, positions: Positions, line: Line) -> None:
    """Open requests of the backup let go of these samples: they had to before this one could be accepted.

    One that is being carried out already keeps them; what was trained on them is withheld on its account.
    """
    query = select(DeletionRequest).where(
        DeletionRequest.dataset_id == dataset.id,
        DeletionRequest.fulfilled_at.is_(None),
        DeletionRequest.replayed_at.is_(None),
        DeletionRequest.decision.in_([Decision.RECEIVED, Decision.ACCEPTED, Decision.HELD]),
    )
    for request in session.scalars(query.order_by(DeletionRequest.id).with_for_update()).all():
        if request.model_id not in (None, model.id if model else None):
            continue
        if not len(np.intersect1d(unpack(request.positions), positions)):
            continue
        try:
            with session.begin_nested():
                decisions.let_go(
                    session, request, positions, f"The backup's erasure ledger has them under {line.request}."
                )
        except Conflict:
            request.replayed_at = db.now(session)
            jobs.record(session, request.tenant_id, "request.replayed", request.id)
        session.flush()


def _withhold(database: Database, done: Replayed, lost: list[Line]) -> None:
    """Withhold the models whose carried data must be sent again; once for each erasure."""
    for line in lost:
        with database.write() as session:
            model = session.get(Model, line.carried_for, with_for_update=True)
            if model is None or model.purged_at is not None:
                done.add("gone")
                continue
            told = select(AuditEvent.number).where(AuditEvent.object_id == line.request, AuditEvent.kind == LOST)
            if session.scalars(told.limit(1)).first() is None:
                model.withheld_since = db.now(session)
                jobs.record(session, line.tenant, LOST, line.request, model=model.id)
            elif versions.forgets_again(session, model) is not None:
                done.add("gone")
                continue
        done.add("waiting", f"{line.request} carried its samples: send them again, for {line.carried_for}")
        if model.id not in done.withheld:
            done.withheld.append(model.id)


def _tell_log(session: Session, tenant: str, size: int, root: str) -> None:
    """Heads that were signed after the backup belong to a history that is gone: the log itself says so, once."""
    known = ledger.head(session, tenant)
    told = select(AuditEvent.data).where(AuditEvent.tenant_id == tenant, AuditEvent.kind == RESTORED)
    said = any(data["lost_root"] == root for data in session.scalars(told))
    if said or session.get(Tenant, tenant) is None or (known.size if known else 0) >= size:
        return
    was = known.size if known else 0
    log.warning("the log of %s ends at %d entries; heads up to %d had been signed", tenant, was, size)
    jobs.record(session, tenant, RESTORED, tenant, size=was, lost_size=size, lost_root=root)
