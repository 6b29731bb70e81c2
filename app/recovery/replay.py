"""After a restore: the erasures that came after the backup are made again.

`replay` asks for every erasure of the erasure ledger that the backup does not know, under its own id and dates; until
that is carried out, versions that were trained on its samples do not leave the service.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from app import events, jobs
from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.errors import AppError, Conflict
from app.core.ids import is_id
from app.core.positions import Positions, marked, mask_of, pack, unpack
from app.core.tables import AuditEvent, Dataset, DeletionRequest, Job, Model, OutcomeRow, Sample, Tenant
from app.datasets import records as datasets
from app.datasets import suppression
from app.deletions import accept, batches, carried, decisions, erasure, locking, model_purge, unneeded
from app.deletions.orders import Order
from app.evidence import transparency_log
from app.models import versions
from app.recovery.erasure_ledger import Gone, Kept, Line, digests_of, is_ours, names_at, read
from app.rules.states import Decision, JobKind, JobState, Outcome

log = logging.getLogger("lethe.replay")

RESTORED, LOST = "log.restored", "request.lost"  # events
BASIS = "restored from the erasure ledger"  # which has no free words


class LedgerError(Exception):
    """The erasure ledger cannot be replayed here; says why."""


@dataclass
class Replayed:
    """Counts of requests by result, and the work that is left.

    deleted: datasets that were deleted and models that were purged after the backup, and now are again.
    gone: of samples, a dataset or a model that the backup does not have, or has erased. waiting: the dataset has not
    been taken in yet, or what the deletion carried must be sent again. damaged: lines that cannot be read.
    withheld: models whose versions stay withheld until a new deletion has forgotten the carried data.
    """

    asked_again: int = 0
    reopened: int = 0
    fulfilled: int = 0
    deleted: int = 0
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
    every: list[tuple[int, Line | Gone | Kept]] = [*contents.lines, *contents.gone, *contents.kept]
    for number, said in every:
        if not is_ours(settings, said):
            raise LedgerError(
                f"line {number} was written under another LETHE_SECRET: restore that one, or name it in "
                "LETHE_EARLIER_SECRETS, then replay"
            )
    done = Replayed()
    for number in contents.damaged:
        done.add("damaged", f"line {number} cannot be read")
    # First, and whatever becomes of the dataset: its content may be sent again.
    for _, kept in contents.kept:
        with database.write() as session:
            if session.get(Tenant, kept.tenant) is not None:
                suppression.add(session, kept.tenant, kept.suppressed)
    _delete_again(database, done, [line for _, line in contents.gone])
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
    for _, said in every:
        heads[said.tenant] = max(heads.get(said.tenant, (0, "")), (said.log_size, said.log_root))
    for tenant, (size, root) in heads.items():
        with database.write() as session:
            _tell_log(session, tenant, size, root)
    return done


def _delete_again(database: Database, done: Replayed, lines: list[Gone]) -> None:
    """Purge the models and delete the datasets that are gone, models first; nothing runs on a restored database.

    A model may be the base of another one that is gone, too: they are tried until nothing changes.
    """
    left = sorted({line.gone: line for line in lines}.values(), key=lambda line: (is_id("dst", line.gone), line.gone))
    refused: dict[str, str] = {}
    while left:
        again = []
        for line in left:
            try:
                with database.write() as session:
                    done.deleted += _delete_one(session, line)
            except AppError as error:
                again.append(line)
                refused[line.gone] = error.detail
        if len(again) == len(left):
            break
        left = again
    for line in left:
        done.add("failed", f"{line.gone} could not be deleted again: {refused[line.gone]}")


def _delete_one(session: Session, line: Gone) -> bool:
    """Whether there was something to delete.

    Raises:
        AppError: it is refused.
    """
    if is_id("dst", line.gone):
        dataset = session.get(Dataset, line.gone, with_for_update=True)
        if dataset is None or dataset.state == "erased":
            return False
        _require_own(dataset.tenant_id, line)
        live = select(Model.id).where(Model.dataset_id == dataset.id, Model.purged_at.is_(None)).order_by(Model.id)
        if models := session.scalars(live).all():
            raise Conflict(f"The ledger lacks the end of its models {', '.join(models)}.")
        _end_jobs(session, Job.dataset_id == dataset.id)
        unneeded.erase_dataset(session, dataset)
        _settle(session, dataset)
        return True
    model = session.get(Model, line.gone, with_for_update=True)
    if model is None or model.purged_at is not None:
        return False
    _require_own(model.tenant_id, line)
    _end_jobs(session, Job.model_id == model.id)
    model_purge.purge(session, model)
    return True


def _require_own(tenant_id: str, line: Gone) -> None:
    if tenant_id != line.tenant:
        raise Conflict("It is another tenant's.")


def _end_jobs(session: Session, about: ColumnElement[bool]) -> None:
    """Nothing runs these jobs; what carries out a deletion is left to be done."""
    open_ = Job.state.in_([JobState.QUEUED, JobState.RUNNING])
    query = select(Job).where(about, open_, Job.parent_id.is_(None)).order_by(Job.id)
    why = "what it works on had been deleted when the backup was restored"
    for job in session.scalars(query.with_for_update()).all():
        if job.kind != JobKind.PURGE:
            jobs.finish(session, job, JobState.CANCELLED, problem=jobs.problem("cancelled", why))
        elif job.state == JobState.RUNNING:
            jobs.requeue(session, job, "a backup was restored")


def _settle(session: Session, dataset: Dataset) -> None:
    """The dataset's samples are gone, so what asked for them is carried out: nothing is left for it but receipts."""
    open_ = select(DeletionRequest).where(
        DeletionRequest.dataset_id == dataset.id,
        DeletionRequest.fulfilled_at.is_(None),
        DeletionRequest.decision.in_([Decision.RECEIVED, Decision.ACCEPTED, Decision.HELD]),
    )
    for request in session.scalars(open_.order_by(DeletionRequest.id).with_for_update()).all():
        request.replayed_at = request.replayed_at or db.now(session)
        if request.decision == Decision.HELD:
            decisions.resume(session, request)
        queued = select(Job.id).where(Job.request_id == request.id, Job.kind == JobKind.PURGE)
        if session.scalars(queued.where(Job.state.in_([JobState.QUEUED, JobState.RUNNING]))).first() is None:
            erasure.start_if_published(session, request.id)


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
            self._places = {
                digest: position for position, name in rows for digest in digests_of(self._settings, dataset.id, name)
            }
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
        _reopen(session, request, positions, line)
        return "reopened"
    return _ask_again(session, settings, dataset, positions, line)


def _reopen(session: Session, request: DeletionRequest, positions: Positions, line: Line) -> None:
    """In the backup the request is still open: it goes on, with the samples that were granted and the dates that it
    had at its end."""
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
    for name, value in _law_of(line).items():
        setattr(request, name, value)
    request.replayed_at = db.now(session)
    if request.decision == Decision.HELD:
        decisions.reopen(session, request)
    events.record(session, request.tenant_id, "request.replayed", request.id)


def _law_of(line: Line) -> dict[str, Any]:
    """The columns of the request that the line's law has; none of a line of an earlier version."""
    if (law := line.law) is None:
        return {}
    return {
        "due_at": line.due_at,
        "posted_at": law.posted_at,
        "extended_at": law.extended_at,
        "confirmed_at": law.confirmed_at,
        "ground": law.ground,
        "complaint_about": law.complaint_about,
        "case_id": law.case_id,
        "identity": law.identity.status,
        "identity_asked_at": law.identity.asked_at,
        "identity_until": law.identity.until,
        "identity_ended_at": law.identity.ended_at,
        "channel": law.channel,
        "extension_sent_at": law.extension_sent_at,
        "answered_at": law.answered_at,
        "refused_count": sum(each.samples for each in law.refused),
        "refusal_ground": law.refused[-1].ground if law.refused else None,
    }


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
        sample_ids=[] if line.carried_for else list(names_at(session, dataset.id, left).values()),
        subjects=[],
        dataset_id=dataset.id,
        model_id=line.model,
        jurisdiction=line.jurisdiction,
        basis=BASIS,
        allow_data_loss=True,
        again={
            "id": line.request,
            "by_subject": line.by_subject,
            "rule": line.rule,
            "received_at": line.received_at,
            "due_at": line.due_at,
            "replayed_at": db.now(session),
            **_law_of(line),
        },
    )
    [found] = accept.accept_many(session, settings, locking.lock(session, [order]), [order], db.now(session))
    if isinstance(found, AppError):
        raise found
    events.record(session, line.tenant, "request.replayed", line.request)
    return "asked_again"


def _take_over(session: Session, dataset: Dataset, model: Model | None, positions: Positions, line: Line) -> None:
    """Take these samples out of open requests of the backup, as had to happen before this one could be accepted.

    A request that is being carried out keeps them, and versions that were trained on them are withheld.
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
                decisions.give_up(
                    session, request, positions, f"The backup's erasure ledger has them under {line.request}."
                )
        except Conflict:
            request.replayed_at = db.now(session)
            events.record(session, request.tenant_id, "request.replayed", request.id)
        session.flush()


def _withhold(database: Database, done: Replayed, lost: list[Line]) -> None:
    """Withhold the models whose carried data must be sent again; once for each erasure."""
    for line in lost:
        with database.write() as session:
            model = session.get(Model, line.carried_for, with_for_update=True)
            if model is None or model.purged_at is not None:
                done.add("gone")
                continue
            recorded = select(AuditEvent.number).where(AuditEvent.object_id == line.request, AuditEvent.kind == LOST)
            if session.scalars(recorded.limit(1)).first() is None:
                model.withheld_since = db.now(session)
                events.record(session, line.tenant, LOST, line.request, model=model.id)
            elif versions.forgets_again(session, model) is not None:
                done.add("gone")
                continue
        done.add("waiting", f"{line.request} carried its samples: send them again, for {line.carried_for}")
        if model.id not in done.withheld:
            done.withheld.append(model.id)


def _tell_log(session: Session, tenant: str, size: int, root: str) -> None:
    """Heads that were signed after the backup belong to a history that is gone: the log itself says so, once."""
    known = transparency_log.head(session, tenant)
    recorded = select(AuditEvent.data).where(AuditEvent.tenant_id == tenant, AuditEvent.kind == RESTORED)
    said = any(data["lost_root"] == root for data in session.scalars(recorded))
    if said or session.get(Tenant, tenant) is None or (known.size if known else 0) >= size:
        return
    was = known.size if known else 0
    log.warning("the log of %s ends at %d entries; heads up to %d had been signed", tenant, was, size)
    events.record(session, tenant, RESTORED, tenant, size=was, lost_size=size, lost_root=root)
