"""API keys: `lethe_<key id>_<secret>`; only a SHA-256 of the 256-bit secret is stored."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import bindparam, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core import db
from app.core.config import Settings, write_private
from app.core.db import Database
from app.core.errors import Forbidden, Unauthorized
from app.core.ids import new_id
from app.core.tables import ApiKey, Tenant

SCOPES = ("read", "request", "operate", "samples", "audit", "admin")
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
    lifetime_days: int | None = None,
) -> tuple[ApiKey, str]:
    """Store a new key and return it with its token, which cannot be read again."""
    secret, now = secrets.token_urlsafe(32), db.now(session)
    row = ApiKey(
        id=new_id("key"),
        tenant_id=tenant_id,
        name=name,
        digest=_digest(secret),
        scopes=list(scopes),
        lifetime_days=lifetime_days,
        created_at=now,
        expires_at=now + timedelta(days=lifetime_days) if lifetime_days else None,
    )
    session.add(row)
    session.flush()
    return row, f"lethe_{row.id.removeprefix('key_')}_{secret}"


def authenticate(session: Session, token: str) -> Caller:
    """The caller behind a bearer token.

    Raises:
        Unauthorized: malformed, unknown, expired or revoked; the answer does not say which.
    """
    who = authenticate_many(session, [token])[token]
    if who is None:
        raise refusal()
    return who


def refusal() -> Unauthorized:
    return Unauthorized("The API key is missing or not valid.")


_KEYS = select(ApiKey.id, ApiKey.tenant_id, ApiKey.digest, ApiKey.scopes, ApiKey.revoked_at, ApiKey.expires_at).where(
    ApiKey.id.in_(bindparam("ids", expanding=True))
)


def authenticate_many(session: Session, tokens: Collection[str]) -> dict[str, Caller | None]:
    """The callers behind bearer tokens, by token; None as `authenticate` refuses."""
    claimed = {token: _split(token) for token in tokens}
    ids = {f"key_{key_id}" for key_id, _ in claimed.values()}
    rows = {row.id: row for row in session.execute(_KEYS, {"ids": ids})}
    now = db.now(session) if any(row.expires_at for row in rows.values()) else None
    found: dict[str, Caller | None] = {}
    for token, (key_id, secret) in claimed.items():
        row = rows.get(f"key_{key_id}")
        known = hmac.compare_digest(row.digest if row else "", _digest(secret))
        over = row is None or row.revoked_at or (row.expires_at and now and row.expires_at <= now)
        found[token] = (
            None if row is None or not known or over else Caller(row.tenant_id, row.id, frozenset(row.scopes))
        )
    return found


def _split(token: str) -> tuple[str, str]:
    """The id and the secret of a token; an id that is no key's where it is malformed."""
    prefix, _, rest = token.partition("_")
    key_id, _, secret = rest.partition("_")
    return (key_id, secret) if prefix == "lethe" and key_id.isalnum() else ("", secret)


def require(who: Caller, scope: str) -> None:
    """Refuse keys without `scope`."""
    if scope not in who.scopes:
        raise Forbidden(f"This needs a key with scope `{scope}`.", kind="scope-missing")


def new_tenant(session: Session, name: str) -> tuple[str, str]:
    """A further tenant: its id, and the token of its first key, which has every scope."""
    row = Tenant(id=new_id("ten"), name=name, created_at=db.now(session))
    session.add(row)
    session.flush()
    return row.id, create(session, row.id, "first key")[1]


def tenants(session: Session) -> list[dict[str, str]]:
    """Id, name and time of creation of every tenant, oldest first."""
    rows = session.scalars(select(Tenant).order_by(Tenant.created_at, Tenant.id))
    return [{"id": row.id, "name": row.name, "created_at": f"{row.created_at:%Y-%m-%dT%H:%M:%SZ}"} for row in rows]


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
