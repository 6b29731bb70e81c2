"""API keys: `lethe_<key id>_<secret>`; only a SHA-256 of the 256-bit secret is stored. A session of the console
(`app.core.users`) has a token of its own, `lethe-session_<session id>_<secret>`, and acts as its user's key."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import bindparam, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core import db
from app.core.config import Settings, write_private
from app.core.db import Database
from app.core.errors import Forbidden, Unauthorized
from app.core.ids import new_id
from app.core.tables import ApiKey, ConsoleSession, Tenant
from app.rules.roles import SCOPES

FIRST_TENANT = "ten_first"


@dataclass(frozen=True)
class Caller:
    """Who calls: every query is bound to this tenant."""

    tenant_id: str
    key_id: str
    scopes: frozenset[str]


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def create(
    session: Session,
    tenant_id: str,
    name: str,
    scopes: tuple[str, ...] = SCOPES,
    lifetime_days: int | None = None,
    rotated_from: str | None = None,
) -> tuple[ApiKey, str]:
    """Store a new key and return it with its token, which cannot be read again."""
    secret, now = secrets.token_urlsafe(32), db.now(session)
    row = ApiKey(
        id=new_id("key"),
        tenant_id=tenant_id,
        name=name,
        digest=digest_of(secret),
        scopes=list(scopes),
        lifetime_days=lifetime_days,
        created_at=now,
        expires_at=now + timedelta(days=lifetime_days) if lifetime_days else None,
        rotated_from=rotated_from,
    )
    session.add(row)
    session.flush()
    return row, f"lethe_{row.id.removeprefix('key_')}_{secret}"


def first_of(session: Session, key_id: str) -> str:
    """The key that this one came from by rotations: keys that have it in common are one holder's."""
    while (before := session.scalar(select(ApiKey.rotated_from).where(ApiKey.id == key_id))) is not None:
        key_id = before
    return key_id


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


_KEYS = select(
    ApiKey.id,
    ApiKey.id.label("key_id"),
    ApiKey.tenant_id,
    ApiKey.digest,
    ApiKey.scopes,
    ApiKey.revoked_at,
    ApiKey.expires_at,
).where(ApiKey.id.in_(bindparam("ids", expanding=True)))
_SESSIONS = (
    select(
        ConsoleSession.id,
        ConsoleSession.key_id,
        ApiKey.tenant_id,
        ConsoleSession.digest,
        ApiKey.scopes,
        func.coalesce(ConsoleSession.ended_at, ApiKey.revoked_at).label("revoked_at"),
        ConsoleSession.expires_at,
    )
    .join(ApiKey, ApiKey.id == ConsoleSession.key_id)
    .where(ConsoleSession.id.in_(bindparam("ids", expanding=True)), ConsoleSession.is_link.is_(False))
)
_FORMS = {"lethe": "key", "lethe-session": "ses"}  # by what a token begins with: the noun of the id in it


def authenticate_many(session: Session, tokens: Collection[str]) -> dict[str, Caller | None]:
    """The callers behind bearer tokens, by token; None as `authenticate` refuses."""
    claimed = {token: split(token) for token in tokens}
    ids = {name for name, _ in claimed.values()}
    rows = {row.id: row for row in session.execute(_KEYS, {"ids": ids})}
    if any(name.startswith("ses_") for name in ids):
        rows |= {row.id: row for row in session.execute(_SESSIONS, {"ids": ids})}
    now = db.now(session) if any(row.expires_at for row in rows.values()) else None
    found: dict[str, Caller | None] = {}
    for token, (name, secret) in claimed.items():
        row = rows.get(name)
        known = hmac.compare_digest(row.digest if row else "", digest_of(secret))
        over = row is None or row.revoked_at or (row.expires_at and now and row.expires_at <= now)
        found[token] = (
            None if row is None or not known or over else Caller(row.tenant_id, row.key_id, frozenset(row.scopes))
        )
    return found


def split(token: str) -> tuple[str, str]:
    """The id and the secret of a token; an id that nothing has where it is malformed."""
    form, _, rest = token.partition("_")
    name, _, secret = rest.partition("_")
    return (f"{_FORMS[form]}_{name}", secret) if form in _FORMS and name.isalnum() else ("", secret)


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
