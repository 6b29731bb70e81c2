"""How long a reply is kept under its Idempotency-Key."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete

from app import db
from app.db import Database
from app.tables import Idempotency

KEPT = timedelta(days=30)  # who has not heard for so long does not send the same call again


def forget_replies(database: Database) -> None:
    """Remove replies that were kept long enough."""
    with database.write() as session:
        session.execute(delete(Idempotency).where(Idempotency.created_at < db.now(session) - KEPT))
