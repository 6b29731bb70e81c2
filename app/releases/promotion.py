"""Making an earlier version current again, or a candidate current."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.orm import Session

from app import events
from app.core import db
from app.core.errors import Conflict
from app.core.tables import Dataset, Model, Version
from app.datasets import records as datasets
from app.models import records as models
from app.models import versions
from app.rules.states import VersionState

LIVE = (VersionState.CURRENT, VersionState.SUPERSEDED)


def refuse_erased(session: Session, model: Model, version: Version) -> None:
    """A version that contains erased or requested samples would undo their erasure."""
    dataset = session.get_one(Dataset, model.dataset_id, with_for_update=True)
    # Of data that are not held nothing is known but that every later version has forgotten some.
    unlearned = not datasets.is_held(dataset) and version.state == VersionState.SUPERSEDED
    if unlearned or versions.holds_erased(session, model.tenant_id, version.digest):
        raise Conflict(
            "This version, or another of the same bytes, was trained on samples that have been requested for deletion "
            "or erased.",
            kind="contains-erased",
        )


def promote(session: Session, model: Model, version: Version) -> None:
    """Make a superseded version current again, or a candidate that was trained beside the current one.

    Raises:
        Conflict: it is current, purged, a comparison, or contains samples that were requested or erased; or the whole
            model was purged.
    """
    models.refuse_purged(model)
    trained = version.state == VersionState.CANDIDATE and version.origin == "trained"
    if version.state != VersionState.SUPERSEDED and not trained:
        raise Conflict(f"A version that is {version.state} cannot be promoted.", kind="version-not-superseded")
    refuse_erased(session, model, version)
    if models.has_running_job(session, model):
        raise Conflict("A job is editing this model; promote after it has ended.", kind="model-busy")
    now = db.now(session)
    session.execute(
        update(Version)
        .where(Version.model_id == model.id, Version.number == model.current_version)
        .values(state=VersionState.SUPERSEDED, purge_after=now + versions.grace(model))
        .execution_options(synchronize_session=False)
    )
    version.state, version.purge_after = VersionState.CURRENT, None
    model.current_version = model.blessed_version = version.number
    about = versions.about(model, version)
    events.record_about(session, model.tenant_id, "version.promoted", version.id, about, number=version.number)


def roll_back(session: Session, model: Model) -> Version:
    """Promote the current version's parent.

    Raises:
        Conflict: there is none, or `promote` refuses it.
    """
    current = versions.current(session, model)
    parent = versions.parent_of(session, current) if current else None
    if parent is None:
        raise Conflict("The current version has no parent to go back to.", kind="no-parent")
    promote(session, model, parent)
    return parent
