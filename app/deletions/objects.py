"""Objects in storage of others that a request erases: deleted by this service where the operator lets it, else by their
owner, who confirms it.

A purge writes down where the pictures lie before it forgets them. Each address is kept until its object is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app import events
from app.blobs.folder import StorageRefusedError, StorageUnavailableError
from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.errors import Conflict
from app.core.ids import new_id
from app.core.positions import unpack
from app.core.tables import DeletionRequest, OwedObject, Receipt
from app.datasets.open_objects import objects_of
from app.deletions import rewriting

log = logging.getLogger("lethe.erasures")

SUBJECT = "source-object"
AT_ONCE = 100
NOT_ALLOWED = "this service may not delete them"


def owe(session: Session, request: DeletionRequest, addresses: Mapping[int, str]) -> None:
    """Write down the objects of a request's samples, with a receipt that is pending until they are gone."""
    own = [position for position in unpack(request.positions).tolist() if position in addresses]
    if not own:
        return
    tenant_id = request.tenant_id
    rows = [
        {"request_id": request.id, "position": p, "tenant_id": tenant_id, "address": addresses[p], "owner": False}
        for p in own
    ]
    db.insert_many(session, OwedObject, rows)
    session.add(Receipt(id=new_id("rcp"), request_id=request.id, subject=SUBJECT, detail=_objects(len(own))))


def _objects(count: int) -> str:
    return f"{count} object{'s' * (count != 1)} that the samples' pictures were read from"


def erase_owed(database: Database, settings: Settings, request_id: str) -> None:
    """Delete the objects that this service may delete; the others are their owner's to delete. Harmless to repeat.

    Raises:
        StorageUnavailableError: the storage does not answer: try again.
    """
    while rows := _some(database, request_id):
        theirs = objects_of(settings, rows[0].tenant_id)
        gone: list[int] = []
        left: list[int] = []
        for row in rows:
            try:
                if theirs.may_erase(row.address):
                    theirs.erase(row.address)
                    gone.append(row.position)
                else:
                    left.append(row.position)
            except StorageRefusedError as error:
                log.warning("an object of %s could not be deleted: %s", request_id, error)
                left.append(row.position)
        own = OwedObject.request_id == request_id
        with database.write() as session:
            session.execute(delete(OwedObject).where(own, OwedObject.position.in_(gone)))
            for row in session.scalars(select(OwedObject).where(own, OwedObject.position.in_(left))):
                row.owner = True


def _some(database: Database, request_id: str) -> Sequence[OwedObject]:
    query = select(OwedObject).where(OwedObject.request_id == request_id, OwedObject.owner.is_(False))
    with database.read() as session:
        return session.scalars(query.order_by(OwedObject.position).limit(AT_ONCE)).all()


def date(session: Session, request: DeletionRequest) -> None:
    """Say in the request's receipt what has gone, and date what its owner must delete."""
    owed = _pending(session, request.id)
    if owed is None:
        return
    left = _left(session, request.id)
    if not left:
        owed.detail += "; deleted with all their versions"
        return
    until = max(request.due_at, db.now(session))
    owed.detail = (
        f"{_objects(left)} must be deleted by their owner, with all versions, because {NOT_ALLOWED}: the request's "
        "`objects` lists them, and `:confirm-objects` ends this"
    )
    owed.due_at = until
    events.record(session, request.tenant_id, "request.objects-to-delete", request.id, objects=left)


def _pending(session: Session, request_id: str) -> Receipt | None:
    query = select(Receipt).where(Receipt.request_id == request_id, Receipt.subject == SUBJECT)
    return session.scalars(query.where(Receipt.done_at.is_(None)).with_for_update()).first()


def _left(session: Session, request_id: str) -> int:
    return session.scalars(select(func.count()).where(OwedObject.request_id == request_id)).one()


def owed_by_owner(session: Session, request: DeletionRequest) -> Sequence[OwedObject]:
    """What the owner must delete."""
    query = select(OwedObject).where(OwedObject.request_id == request.id, OwedObject.owner)
    return session.scalars(query.order_by(OwedObject.position)).all()


def still_there(settings: Settings, tenant_id: str, addresses: Sequence[str]) -> int | None:
    """How many of them this service still finds, with their earlier versions; None: it cannot look."""
    theirs = objects_of(settings, tenant_id)
    try:
        return sum(theirs.is_there(address) for address in addresses)
    except StorageUnavailableError as error:
        log.warning("objects that were confirmed as deleted could not be looked for: %s", error)
        return None


def confirm(session: Session, request: DeletionRequest, seen: int | None, looked_at: int) -> None:
    """The owner has deleted the objects. seen: of `looked_at`, those that are still there; None: nobody could look.

    Raises:
        Conflict: some are still there, or none is waited for.
    """
    owed = _pending(session, request.id)
    left = len(owed_by_owner(session, request))
    if owed is None or not left or left != looked_at:
        raise Conflict("No objects of this request wait for a confirmation.", kind="no-objects-listed")
    if seen:
        raise Conflict(
            f"{seen} of the {left} objects, or earlier versions of them, are still there. Delete them with all their "
            "versions first.",
            kind="objects-remain",
            objects=seen,
        )
    session.execute(delete(OwedObject).where(OwedObject.request_id == request.id))
    owed.done_at = db.now(session)
    rewriting.owe(session, request.id, owed.done_at)  # of the addresses
    checked = "this service could not look" if seen is None else "this service found none of them any more"
    owed.detail = f"{_objects(left)}: their owner confirmed that they are deleted, and {checked}"
    told = {"objects": left, "looked": seen is not None}
    events.record(session, request.tenant_id, "request.objects-confirmed", request.id, **told)
