"""Names for versions, which clients may set."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app import events
from app.core import db
from app.core.errors import Conflict, NotFound
from app.core.tables import Alias, Model, Version
from app.models import records as models
from app.releases.promotion import LIVE, refuse_erased


def point(session: Session, model: Model, name: str, version: Version) -> Alias:
    """Let `name` mean `version` from now on.

    Raises:
        Conflict: the version is purged, or never was published; or the whole model was purged.
    """
    models.refuse_purged(model)
    if version.state not in LIVE:
        raise Conflict(f"A version that is {version.state} cannot be named.", kind="version-not-live")
    refuse_erased(session, model, version)
    row = session.merge(Alias(model_id=model.id, name=name, version=version.number, updated_at=db.now(session)))
    events.record(session, model.tenant_id, "alias.set", model.id, alias=name, version=version.number)
    return row


def unpoint(session: Session, model: Model, name: str) -> None:
    row = session.get(Alias, (model.id, name))
    if row is None:
        raise NotFound("There is no such alias.")
    session.delete(row)
    events.record(session, model.tenant_id, "alias.removed", model.id, alias=name)
