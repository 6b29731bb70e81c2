"""API keys: `lethe_<key id>_<secret>`; only a SHA-256 of the 256-bit secret is stored."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import db
from app.config import Settings, write_private
from app.db import Database
from app.errors import Unauthorized
from app.ids import new_id
from app.tables import ApiKey, Tenant

SCOPES = ("read", "request", "operate", "audit", "admin")
FIRST_TENANT = "ten_first"


@dataclass(frozen=True)
class Caller:
    """Who calls: every query is bound to this tenant."""

    tenant_id: str
    key_id: str
    scopes: frozenset[str]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def create(
    session: Session,
    tenant_id: str,
    name: str,
    scopes: tuple[str, ...] = SCOPES,
    lifetime: timedelta | None = None,
) -> tuple[ApiKey, str]:
    """Store a new key and return it with its token, which cannot be read again."""
    secret, now = secrets.token_urlsafe(32), db.now(session)
    row = ApiKey(
        id=new_id("key"),
        tenant_id=tenant_id,
        name=name,
        digest=_digest(secret),
        scopes=list(scopes),
        created_at=now,
        expires_at=now + lifetime if lifetime else None,
    )
    session.add(row)
    session.flush()
    return row, f"lethe_{row.id.removeprefix('key_')}_{secret}"


def authenticate(session: Session, token: str) -> Caller:
    """The caller behind a bearer token.

    Raises:
        Unauthorized: malformed, unknown, expired or revoked; the answer does not say which.
    """
    prefix, _, rest = token.partition("_")
    key_id, _, secret = rest.partition("_")
    key = session.get(ApiKey, f"key_{key_id}") if prefix == "lethe" and key_id.isalnum() else None
    known = hmac.compare_digest(key.digest if key else "", _digest(secret))
    if key is None or not known or key.revoked_at or (key.expires_at and key.expires_at <= db.now(session)):
        raise Unauthorized("The API key is missing or not valid.")
    return Caller(key.tenant_id, key.id, frozenset(key.scopes))


def bootstrap(database: Database, settings: Settings) -> bool:
    """At the first start: the first tenant and its key, readable only by the owner of the data folder.

    Several processes may start at once: the one that inserts the tenant makes the key. True for that one.
    """
    with database.read() as session:
        if session.scalars(select(Tenant.id).limit(1)).first():
            return False
    try:
        with database.write() as session:
            session.add(Tenant(id=FIRST_TENANT, name="default", created_at=db.now(session)))
            session.flush()
            write_private(settings.key_file, create(session, FIRST_TENANT, "first key")[1])
    except IntegrityError:
        return False
    return True
