"""Users of the console: a role for each, links that sign one in once, sessions that end.

A user is an API key without a token. What the user does is done, and recorded, as that key, in whatever session.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.core import db
from app.core.config import Settings
from app.core.errors import Unauthorized
from app.core.ids import new_id
from app.core.keys import digest_of, split
from app.core.tables import ApiKey, ConsoleSession
from app.rules.roles import ROLES

LINK_LIVES = timedelta(minutes=10)
SESSION_LIVES = timedelta(hours=12)
KEPT = timedelta(days=1)  # of a session that is over


@dataclass(frozen=True)
class Visitor:
    """Whose session it is, and what it may do."""

    name: str
    role: str
    scopes: frozenset[str]
    session_id: str
    expires_at: datetime


def named(session: Session, tenant_id: str, name: str, role: str) -> ApiKey:
    """The user of that name and role who signs in by links; a new one where there is none."""
    found = session.scalars(
        select(ApiKey).where(
            ApiKey.tenant_id == tenant_id,
            ApiKey.name == name,
            ApiKey.role == role,
            ApiKey.identity.is_(None),
            ApiKey.revoked_at.is_(None),
        )
    ).first()
    return found or _add(session, tenant_id, name, role, None)


def identified(session: Session, tenant_id: str, identity: str, name: str, role: str) -> ApiKey:
    """The user whom an identity provider calls `identity`, with the name and the role that it gives now.

    Raises:
        Unauthorized: an administrator has ended this user's access.
    """
    found = session.scalars(select(ApiKey).where(ApiKey.identity == identity).with_for_update()).first()
    if found is None:
        return _add(session, tenant_id, name, role, identity)
    if found.revoked_at is not None or found.tenant_id != tenant_id:
        raise Unauthorized("This user may no longer sign in here.")
    found.name, found.role, found.scopes = name, role, list(ROLES[role])
    return found


def _add(session: Session, tenant_id: str, name: str, role: str, identity: str | None) -> ApiKey:
    row = ApiKey(
        id=new_id("key"),
        tenant_id=tenant_id,
        name=name,
        digest="",  # which no secret has
        scopes=list(ROLES[role]),
        created_at=db.now(session),
        role=role,
        identity=identity,
    )
    session.add(row)
    session.flush()
    return row


def open_session(session: Session, user: ApiKey) -> str:
    """A new session: its token. What has long been over is removed."""
    now = db.now(session)
    session.execute(delete(ConsoleSession).where(ConsoleSession.expires_at < now - KEPT))
    return _issue(session, user.id, now + SESSION_LIVES, is_link=False)


def make_link(session: Session, user: ApiKey) -> str:
    """The token of a link that opens one session of this user, soon."""
    return _issue(session, user.id, db.now(session) + LINK_LIVES, is_link=True)


def _issue(session: Session, key_id: str, expires_at: datetime, *, is_link: bool) -> str:
    secret = secrets.token_urlsafe(32)
    row = ConsoleSession(
        id=new_id("ses"),
        key_id=key_id,
        digest=digest_of(secret),
        is_link=is_link,
        created_at=db.now(session),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return f"lethe-session_{row.id.removeprefix('ses_')}_{secret}"


def follow_link(session: Session, token: str) -> str:
    """Open the session of a link: its token.

    Raises:
        Unauthorized: the link was followed before, is too old, or never was one.
    """
    name, secret = split(token)
    now = db.now(session)
    query = select(ConsoleSession).where(ConsoleSession.id == name, ConsoleSession.is_link)
    link = session.scalars(query.with_for_update()).first()
    known = hmac.compare_digest(link.digest if link else "", digest_of(secret))
    if link is None or not known or link.ended_at is not None or link.expires_at <= now:
        raise Unauthorized("This link does not sign anybody in: it works once, and for ten minutes. Make a new one.")
    user = session.get_one(ApiKey, link.key_id)
    if user.revoked_at is not None:
        raise Unauthorized("This user may no longer sign in here.")
    link.ended_at = now
    return open_session(session, user)


def end_session(session: Session, token: str) -> None:
    """End the session, whoever has its token."""
    name, _ = split(token)
    session.execute(
        update(ConsoleSession)
        .where(ConsoleSession.id == name, ConsoleSession.ended_at.is_(None))
        .values(ended_at=db.now(session))
    )


def visitor(session: Session, token: str) -> Visitor | None:
    """Who is in this session; None where it is over or never was."""
    name, secret = split(token)
    row = session.execute(
        select(ConsoleSession, ApiKey)
        .join(ApiKey, ApiKey.id == ConsoleSession.key_id)
        .where(ConsoleSession.id == name, ConsoleSession.is_link.is_(False))
    ).first()
    if row is None or not hmac.compare_digest(row[0].digest, digest_of(secret)):
        return None
    found, user = row
    if found.ended_at or user.revoked_at or found.expires_at <= db.now(session):
        return None
    return Visitor(user.name, user.role or "", frozenset(user.scopes), found.id, found.expires_at)


def csrf_token(settings: Settings, token: str) -> str:
    """What a form of this session has in it, and no other site can know."""
    return hmac.new(settings.secret_bytes(), b"csrf\x00" + token.encode(), hashlib.sha256).hexdigest()[:32]
