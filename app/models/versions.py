"""Versions: which there are, which may leave the service, and what the next one may be trained on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, undefer

from app.core.errors import Conflict, Gone, NotFound
from app.core.positions import Positions, mask_of, members, unpack
from app.core.tables import Dataset, DeletionRequest, Model, OutcomeRow, Version
from app.datasets import canaries, suppression
from app.datasets import records as datasets
from app.formats import fingerprints
from app.rules.states import Decision, VersionState


def get(session: Session, model: Model, number: int) -> Version:
    query = select(Version).where(Version.model_id == model.id, Version.number == number)
    version = session.scalars(query).first()
    if version is None:
        raise NotFound("There is no such version.")
    return version


def by_id(session: Session, tenant_id: str, version_id: str) -> Version:
    query = select(Version).where(Version.tenant_id == tenant_id, Version.id == version_id)
    version = session.scalars(query).first()
    if version is None:
        raise NotFound("There is no such version.")
    return version


def current(session: Session, model: Model) -> Version | None:
    return None if model.current_version is None else get(session, model, model.current_version)


def parent_of(session: Session, version: Version) -> Version | None:
    query = select(Version).where(Version.model_id == version.model_id, Version.number == version.parent)
    return None if version.parent is None else session.scalars(query).one()


def about(model: Model, version: Version, verdict: str | None = None) -> dict[str, Any]:
    """What webhooks say of a version; `where` is the path of its resource, below which its checkpoint is."""
    found: dict[str, Any] = {
        "model": model.id,
        "name": model.name,
        "number": version.number,
        "digest": version.digest,
        "where": f"/v1/models/{model.id}/versions/{version.number}",
    }
    return found if verdict is None else {**found, "verdict": verdict}


def grace(model: Model) -> timedelta:
    """How long a superseded checkpoint of the model is kept."""
    return timedelta(seconds=model.policy["grace_seconds"])


def require_present(version: Version) -> None:
    if version.size == 0:
        raise Conflict("The checkpoint of this version has been announced but not sent.", kind="content-missing")
    if version.state == VersionState.PURGED:
        raise Gone("This checkpoint was purged.", purged_at=f"{version.purged_at:%Y-%m-%dT%H:%M:%SZ}")


def withheld(session: Session, model: Model, version: Version) -> bool:
    """Whether it came back with a backup and was trained on samples that had been erased before."""
    again = (
        select(DeletionRequest.positions)
        .where(DeletionRequest.dataset_id == model.dataset_id, DeletionRequest.replayed_at.is_not(None))
        .where(or_(DeletionRequest.model_id.is_(None), DeletionRequest.model_id == model.id))
    )
    rows = session.scalars(again).all()
    trained = mask_of(version.trained_on, len(version.trained_on) * 8) if rows else None
    if any(trained is not None and trained[unpack(positions)].any() for positions in rows):
        return True
    made_without = (  # carried data: what a version was trained on is not known, but when they were forgotten is
        select(OutcomeRow.version)
        .join(DeletionRequest, DeletionRequest.id == OutcomeRow.request_id)
        .join(Dataset, Dataset.id == DeletionRequest.dataset_id)
        .where(Dataset.carried_for == model.id, DeletionRequest.replayed_at.is_not(None))
    )
    if any(number is None or version.number < number for number in session.scalars(made_without)):
        return True
    if model.withheld_since is None:
        return False
    first = forgets_again(session, model)
    return first is None or version.number < first


def forgets_again(session: Session, model: Model) -> int | None:
    """The first version that forgot carried data after the model was withheld; None before there is one."""
    since = model.withheld_since
    query = (
        select(func.min(OutcomeRow.version))
        .join(DeletionRequest, DeletionRequest.id == OutcomeRow.request_id)
        .join(Dataset, Dataset.id == DeletionRequest.dataset_id)
        .where(OutcomeRow.model_id == model.id, Dataset.carried_for == model.id)
        .where(
            or_(
                func.coalesce(DeletionRequest.posted_at, DeletionRequest.received_at) > since,
                DeletionRequest.replayed_at > since,
            )
        )
    )
    return session.scalars(query).one()


def kept_back(session: Session, version: Version) -> bool:
    """Whether it is not current, and it or a version of the same bytes holds what was requested or erased since."""
    return version.state != VersionState.CURRENT and holds_erased(session, version.tenant_id, version.digest)


def holds_erased(session: Session, tenant_id: str, digest: str, fingerprint: bytes | None = None) -> bool:
    """Whether a version of the tenant with these bytes or weights holds samples that were requested or erased since:
    it was trained on them, or its training started, at first or second hand, from a version that was.

    One that the database does not know, because a backup was restored, is known by its suppression.

    fingerprint: of the weights, where no version with these bytes has it.
    """
    own = Version.tenant_id == tenant_id
    query = select(Version).where(own, Version.digest == digest).options(undefer(Version.fingerprint))
    same = list(session.scalars(query))
    known = fingerprint or next((version.fingerprint for version in same if version.fingerprint), None)
    if suppression.known(session, tenant_id, suppression.of_weights(digest, known)):
        return True
    if known is not None:
        others = select(Version.id, Version.fingerprint).where(
            own, Version.digest != digest, func.length(Version.fingerprint) == len(known)
        )
        ids = [
            version_id for version_id, other in session.execute(others) if other and fingerprints.alike(known, other)
        ]
        same += session.scalars(select(Version).where(Version.id.in_(ids)))
    return any(_holds_erased(session, version) for version in same)


def without_fingerprint(session: Session, tenant_id: str) -> list[str]:
    """The versions of before that hold what was requested or erased, whose bytes are there, and whose weights nobody
    knows yet."""
    query = select(Version).where(
        Version.tenant_id == tenant_id,
        Version.fingerprint.is_(None),
        Version.size > 0,
        Version.state != VersionState.PURGED,
    )
    return [version.id for version in session.scalars(query).all() if _holds_erased(session, version)]


def _holds_erased(session: Session, version: Version) -> bool:
    model = session.get_one(Model, version.model_id)
    dataset = session.get_one(Dataset, model.dataset_id)
    if not datasets.is_held(dataset) and _forgot_later(session, version):
        return True
    if mask_of(version.trained_on, dataset.sample_count)[unavailable(dataset, model)].any():
        return True
    if model.base is None:
        return False
    query = select(Version).where(Version.model_id == model.base["model"], Version.number == model.base["version"])
    return _holds_erased(session, session.scalars(query).one())


def _forgot_later(session: Session, version: Version) -> bool:
    """Of data that are not held: whether samples were requested that only a later version is without, or none is."""
    later = select(Version.id).where(
        Version.model_id == version.model_id, Version.number > version.number, Version.origin == "unlearned"
    )
    if session.scalars(later.limit(1)).first() is not None:
        return True
    without = (
        select(OutcomeRow.version)
        .join(DeletionRequest, DeletionRequest.id == OutcomeRow.request_id)
        .join(Dataset, Dataset.id == DeletionRequest.dataset_id)
        .where(OutcomeRow.model_id == version.model_id, Dataset.carried_for == version.model_id)
        .where(DeletionRequest.decision.in_([Decision.ACCEPTED, Decision.HELD]))
    )
    return any(number is None or version.number < number for number in session.scalars(without))


def require_released(session: Session, model: Model, version: Version, *, by_admin: bool = False) -> None:
    """Its bytes may leave the service. by_admin: also those of a version that is kept back.

    Raises:
        Conflict, Gone: not sent yet, purged, or withheld.
    """
    require_present(version)
    if model.purged_at is not None:  # its bytes go with the sweeper's next round
        raise Gone("The whole model was purged.", purged_at=f"{model.purged_at:%Y-%m-%dT%H:%M:%SZ}")
    if withheld(session, model, version):
        raise Conflict(
            "This checkpoint came back with a backup and was trained on samples that had been erased; the next version "
            "takes its place.",
            kind="version-withheld",
        )
    if not by_admin and kept_back(session, version):
        raise Conflict(
            "This version is not current, and holds what it learned of samples that have been requested for deletion "
            "or erased since. Until it is purged, a key with the scope `admin` may fetch it and must send a `reason`, "
            "which is logged.",
            kind="version-withheld",
        )


def train_split(session: Session, dataset: Dataset) -> Positions:
    """The training positions as the dataset was taken in, erased ones among them."""
    return np.flatnonzero(datasets.labels_of(session, dataset)[1]).astype(np.int64)


def trainable(session: Session, dataset: Dataset, model: Model) -> Positions:
    """Training positions that a new version of `model` may use: neither held out, nor requested, nor erased."""
    return np.setdiff1d(train_split(session, dataset), unavailable(dataset, model))


def unavailable(dataset: Dataset, model: Model) -> Positions:
    """Samples that no new version of `model` may train on, those requested of this model alone included."""
    own = members(model.requested, dataset.sample_count)
    return np.union1d(datasets.unavailable(dataset), own)


@dataclass(frozen=True)
class ForgetBatch:
    """The frozen work of one unlearn job."""

    requests: tuple[str, ...]
    forget: Positions  # of the requests, those that the parent was trained on
    canaries: Positions  # unlearned beside the forget set
    remain: Positions  # trained on, minus forgotten now, minus everything erased before
    grouped: bool = False  # some of it was asked for by subject
    due_at: datetime | None = None  # the earliest legal deadline of the requests

    @property
    def gone(self) -> Positions:
        """All samples that the job unlearns."""
        return np.union1d(self.forget, self.canaries)


def batch(session: Session, job_id: str, dataset: Dataset, parent: Version, with_canaries: int = 0) -> ForgetBatch:
    """Forget set and remain set of the job, against the version that it starts from.

    with_canaries: how many canaries the job unlearns beside the forget set, if that is not empty.

    Carried data count as trained on: the client says so, and the service cannot know.
    """
    rows = session.execute(
        select(DeletionRequest.id, DeletionRequest.positions, DeletionRequest.by_subject, DeletionRequest.due_at)
        .join(OutcomeRow, OutcomeRow.request_id == DeletionRequest.id)
        .where(OutcomeRow.job_id == job_id)
        .order_by(DeletionRequest.id)
    ).all()
    size = dataset.sample_count
    trained = mask_of(parent.trained_on, size)
    asked = np.zeros(size, dtype=bool)
    for _, packed, *_ in rows:
        asked[unpack(packed)] = True
    if dataset.carried_for is not None:
        trained = asked
    remain = trained & ~asked & ~mask_of(dataset.erased, size)
    forget = np.flatnonzero(trained & asked).astype(np.int64)
    drawn = with_canaries if len(forget) and dataset.carried_for is None else 0
    along = canaries.draw(session, dataset, session.get_one(Model, parent.model_id), parent, forget, drawn)
    remain[along] = False
    return ForgetBatch(
        tuple(request_id for request_id, *_ in rows),
        forget,
        along,
        np.flatnonzero(remain).astype(np.int64),
        any(by_subject for *_, by_subject, _ in rows),
        min((due_at for *_, due_at in rows), default=None),
    )
