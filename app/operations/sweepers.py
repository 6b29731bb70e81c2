"""Signs of life of sweepers. A sweeper gives them from its rounds and not from a thread: one that hangs gives none."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.tables import Sweeper
from app.jobs.workers import own_name

SECONDS = 30.0  # between two signs
ALIVE = timedelta(seconds=120)  # a round may take a while: it rewrites tables
FORGET_AFTER = timedelta(days=1)


def say(database: Database, settings: Settings) -> None:
    """This process sweeps."""
    with database.write() as session:
        now = db.now(session)
        session.merge(Sweeper(name=own_name(settings), seen_at=now))
        session.execute(delete(Sweeper).where(Sweeper.seen_at < now - FORGET_AFTER))


def leave(database: Database, settings: Settings) -> None:
    """It does no longer."""
    with database.write() as session:
        session.execute(delete(Sweeper).where(Sweeper.name == own_name(settings)))


def live(session: Session) -> int:
    """How many gave a sign of life lately."""
    query = select(func.count()).select_from(Sweeper).where(Sweeper.seen_at > db.now(session) - ALIVE)
    return session.scalars(query).one()
