"""Messages that leave only after the commit that wrote them.

A hint carries a job id and nothing else. It may be lost or repeated: a claim is atomic and the sweeper hints
old queued jobs again.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app import db, faults
from app.db import Database
from app.tables import Outbox

Sender = Callable[[str], object]
BATCH = 200


def hint(session: Session, job_id: str) -> None:
    """Put a wake-up for `job_id` beside the change that made it runnable."""
    session.add(Outbox(topic="hint", key=job_id, created_at=db.now(session)))


def remove_blob(session: Session, digest: str) -> None:
    """Have bytes removed once the change that needs them no longer is committed."""
    session.add(Outbox(topic="blob", key=digest, created_at=db.now(session)))


def discard(_: str) -> None:
    """The embedded sender: workers watch the database, so nothing needs ringing."""


def relay(database: Database, send: Sender, topic: str = "hint") -> int:
    """Send what is waiting under `topic`, oldest first, and forget it; what `send` raises on stays for the next round.

    No transaction is open while it sends. A crash between the sending and the commit, or two relays at once, repeat
    a message: harmless by design.
    """
    with database.read() as session:
        waiting = select(Outbox.number, Outbox.key).where(Outbox.topic == topic).order_by(Outbox.number).limit(BATCH)
        rows = session.execute(waiting).all()
    sent: list[int] = []
    try:
        for number, key in rows:
            send(key)
            faults.point("outbox.sent")
            sent.append(number)
    finally:
        if sent:
            with database.write() as session:
                session.execute(delete(Outbox).where(Outbox.number.in_(sent)))
    return len(sent)
