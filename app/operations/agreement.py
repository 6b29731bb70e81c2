"""Settings that every part must have alike: their digests are in the database, and each part compares at its start.

Parts with unequal secrets would not recognise each other's digests of what was erased, so that it could come back.
Parts with unequal storage would not find each other's blobs. Nobody would notice either before harm is done.
"""

from __future__ import annotations

import hashlib
import hmac
import logging

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.core import db
from app.core.config import Settings, StartError
from app.core.db import Database
from app.core.tables import Agreement

log = logging.getLogger("lethe.settings")

SECRET, STORAGE = "secret", "storage"  # names of what is compared
PURPOSE = b"lethe: check value of LETHE_SECRET"  # keyed with the secret; no other digest is made of it


class UnequalError(StartError):
    """A setting is not what the other parts of this service have."""


def check(database: Database, settings: Settings) -> None:
    """Compare this part's settings with the digests in the database. The first part leaves them there.

    A new secret that comes with all earlier ones is taken as the present one from now on.

    Raises:
        UnequalError: a setting is another than the one that the database was used with.
    """
    with database.read() as session:
        if not _missing(session, settings):
            return
    with database.write() as session:
        _lock(session)
        for name, digests in _missing(session, settings).items():
            if len(_recorded(session, name)) and name == SECRET:
                log.warning("LETHE_SECRET has changed; earlier ones still recognise what was erased under them")
            _add(session, name, digests)


def move_storage(database: Database, settings: Settings) -> None:
    """The operator has moved the blobs: LETHE_BLOB_URL names where they are now."""
    with database.write() as session:
        _lock(session)
        digest = _storage(settings)
        if _recorded(session, STORAGE)[-1:] != [digest]:
            _add(session, STORAGE, [digest])


def _lock(session: Session) -> None:
    """Two first parts with unequal settings must not both be the first. SQLite has one writer anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("LOCK TABLE agreements IN SHARE ROW EXCLUSIVE MODE"))


def _missing(session: Session, settings: Settings) -> dict[str, list[str]]:
    """What is to be added, by name; empty where everything agrees."""
    missing = {
        SECRET: _missing_secrets(_recorded(session, SECRET), [_of_secret(each) for each in settings.every_secret()]),
        STORAGE: _missing_storage(_recorded(session, STORAGE), _storage(settings)),
    }
    return {name: digests for name, digests in missing.items() if digests}


def _missing_secrets(recorded: list[str], own: list[str]) -> list[str]:
    """`recorded`: oldest first; `own`: the present one first."""
    present, *_ = own
    if recorded and recorded[-1] not in own:
        raise UnequalError(
            "LETHE_SECRET is not the one that this service's other parts use: give every part the same one. "
            "A space or a line feed at its end counts. Where it is empty, the file `secret` of the data folder counts"
        )
    if set(recorded) - set(own):
        raise UnequalError("LETHE_EARLIER_SECRETS lacks a secret that this service had: give every part all of them")
    if recorded and present != recorded[-1] and present in recorded:
        raise UnequalError("LETHE_SECRET is an earlier secret of this service: exchange it with LETHE_EARLIER_SECRETS")
    return [digest for digest in dict.fromkeys(reversed(own)) if digest not in recorded]


def _missing_storage(recorded: list[str], own: str) -> list[str]:
    if recorded and recorded[-1] != own:
        raise UnequalError(
            "LETHE_BLOB_URL is not the storage that this service's other parts use: give every part the same one. "
            "If you have moved the blobs there, run `lethe migrate --storage-moved` with it"
        )
    return [] if recorded else [own]


def _recorded(session: Session, name: str) -> list[str]:
    query = select(Agreement.digest).where(Agreement.name == name).order_by(Agreement.number)
    return list(session.scalars(query))


def _add(session: Session, name: str, digests: list[str]) -> None:
    first, now = len(_recorded(session, name)), db.now(session)
    rows = [
        Agreement(name=name, number=number, digest=digest, created_at=now)
        for number, digest in enumerate(digests, first)
    ]
    session.add_all(rows)
    session.flush()


def _of_secret(secret: bytes) -> str:
    return hmac.new(secret, PURPOSE, hashlib.sha256).hexdigest()


def _storage(settings: Settings) -> str:
    """A folder's path says nothing: parts may see one folder at several paths."""
    return hashlib.sha256(settings.blob_url.rstrip("/").encode()).hexdigest()
