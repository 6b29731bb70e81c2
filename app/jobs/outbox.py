"""Messages that leave only after the commit that wrote them.

A hint carries a job id and nothing else. It may be lost or repeated: a claim is atomic and the sweeper hints
old queued jobs again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.blobs.folder import is_away
from app.core import crash_points, db
from app.core.db import Database
from app.core.tables import Job, Outbox
from app.jobs import routing

SendHint = Callable[[str, str], object]
"""(job id, queue): trigger a worker that takes such jobs."""
BATCH, SEEN = 200, 1000


def hint(session: Session, job_id: str) -> None:
    """Write a hint for `job_id` in the transaction of the change that made it runnable."""
    session.add(Outbox(topic="hint", key=job_id, created_at=db.now(session)))


def remove_blob(session: Session, digest: str) -> None:
    """Have bytes removed once the change that needs them no longer is committed."""
    session.add(Outbox(topic="blob", key=digest, created_at=db.now(session)))


def discard(_job_id: str, _queue: str) -> None:
    """Send no hint: embedded workers watch the database."""


def is_empty(database: Database) -> bool:
    """Whether nothing waits: what a relay that looks often asks first, since it costs a fifth of the rest."""
    with database.read() as session:
        return session.scalars(select(Outbox.number).limit(1)).first() is None


def relay_hints(database: Database, send: SendHint) -> int:
    """SendHint for the jobs that wait, each in the queue of its kind and device; how many."""
    with database.read() as session:
        waiting = (
            select(Outbox.number, Outbox.key, Job.kind, Job.device)
            .join(Job, Job.id == Outbox.key)
            .where(Outbox.topic == "hint")
            .order_by(Outbox.number)
            .limit(BATCH)
        )
        rows = session.execute(waiting).all()
    hints = [(number, (key, routing.queue(kind, device))) for number, key, kind, device in rows]
    return _send(database, hints, send, ends=lambda _: True)


def relay_blobs(database: Database, remove: Callable[[str], object]) -> int:
    """Have the bytes removed that nothing needs any more; how many. Bytes whose removal is refused, such as those that
    their storage has locked, keep no others."""
    with database.read() as session:
        waiting = select(Outbox.number, Outbox.key).where(Outbox.topic == "blob").order_by(Outbox.number)
        rows = [(number, (key,)) for number, key in session.execute(waiting.limit(SEEN)).all()]
    return _send(database, rows, remove, ends=is_away)


Message = tuple[int, tuple[str, ...]]


def _send(
    database: Database, messages: Iterable[Message], send: Callable[..., object], ends: Callable[[Exception], bool]
) -> int:
    """Send each, oldest first, and forget it; what `send` raises on stays for the next round.

    No transaction is open while it sends. A crash between the sending and the commit, or two relays at once, repeat
    a message: harmless by design.
    """
    sent: list[int] = []

    def send_one(message: Message) -> bool:
        number, words = message
        send(*words)
        crash_points.point("outbox.sent")
        sent.append(number)
        return True

    try:
        return db.one_by_one(messages, send_one, "a message stays", most=BATCH, ends=ends)
    finally:
        if sent:
            with database.write() as session:
                session.execute(delete(Outbox).where(Outbox.number.in_(sent)))
