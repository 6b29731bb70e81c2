"""The transparency log: one Merkle tree per tenant (RFC 9162, SHA-256) over that tenant's audit events.

Hashes of complete subtrees are stored, so that appending, proving and the root read O(log n) rows. A subtree
is named by its node (level, position): the leaves [position << level, (position + 1) << level).

Nobody waits for the log. A change commits its event with no leaf; the sequencer later gives every event that it
can see and that has no leaf the next one, in the order of event numbers, under a lock on the tenant's head. No
number is ever a watermark: an event whose transaction took number 7 and commits after 8 was sequenced still has
no leaf, and gets one in the next round. Of two events where one was caused by the other, the cause was committed
and visible before, so it never comes later in the log.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Table, and_, bindparam, insert, or_, select, update
from sqlalchemy.orm import Session

from app.core import db
from app.core.tables import AuditEvent, LogHead, LogNode, Tenant
from app.evidence.signing import SigningKey, canonical, sign_note

BATCH = 1000  # events per transaction: the lock on the head is held for milliseconds
EMPTY_ROOT = hashlib.sha256(b"").digest()

Node = tuple[int, int]
Span = tuple[int, int]


# -- the tree (RFC 9162, section 2.1) --------------------------------------------------------------


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def cover(start: int, end: int) -> list[Node]:
    """Complete subtrees that make up a span of a tree's leaves, left to right, largest first."""
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append((level, start >> level))
        start += 1 << level
    return nodes


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over subtrees given as in `cover`."""
    if not hashes:
        return EMPTY_ROOT
    *left, root = hashes
    for sibling in reversed(left):
        root = node_hash(sibling, root)
    return root


def grow(known: Mapping[Node, bytes], size: int, leaves: Iterable[bytes]) -> dict[Node, bytes]:
    """Every subtree that leaf hashes appended to a tree of `size` complete; `known` holds `cover(0, size)`."""
    fresh: dict[Node, bytes] = {}
    for position, value in enumerate(leaves, start=size):
        level = 0
        fresh[level, position] = value
        while position & 1:
            left = (level, position - 1)
            value = node_hash(fresh[left] if left in fresh else known[left], value)
            level, position = level + 1, position >> 1
            fresh[level, position] = value
    return fresh


def _split(start: int, end: int) -> int:
    """Where a tree over the span divides: after the largest power of two leaves that leaves one over."""
    return start + (1 << (end - start - 1).bit_length() - 1)


def inclusion_spans(index: int, size: int) -> list[Span]:
    """Spans whose roots are the inclusion path of a leaf, from the leaf up (RFC 9162, 2.1.3.1)."""
    if not 0 <= index < size:
        raise ValueError("the tree of that size has no such leaf")
    start, end, path = 0, size, []
    while end - start > 1:
        middle = _split(start, end)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return path[::-1]


def consistency_spans(old: int, new: int) -> list[Span]:
    """Spans whose roots show that the tree of size `new` extends that of size `old` (RFC 9162, 2.1.4.1)."""
    if not 0 < old <= new:
        raise ValueError("consistency is between a tree with leaves and one at least as large")
    start, end, path = 0, new, []
    while end != old:
        middle = _split(start, end)
        if old <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return [*([(start, end)] if start else []), *path[::-1]]


def span_nodes(spans: Iterable[Span]) -> set[Node]:
    return {node for span in spans for node in cover(*span)}


def roots(spans: Iterable[Span], hashes: Mapping[Node, bytes]) -> list[bytes]:
    """The root of every span, from the hashes of `span_nodes`."""
    return [fold([hashes[node] for node in cover(*span)]) for span in spans]


# -- the log in the database -----------------------------------------------------------------------

EVENTS = cast("Table", AuditEvent.__table__)
NODES = cast("Table", LogNode.__table__)
HEADS = cast("Table", LogHead.__table__)


@dataclass(frozen=True)
class Head:
    """The tree of one tenant as it was last signed; `note` is the signed checkpoint (C2SP tlog-checkpoint)."""

    size: int
    root: bytes
    note: str
    key_id: str
    signed_at: datetime

    @property
    def origin(self) -> str:
        """First line of the note, and the name of the key under it."""
        return self.note.partition("\n")[0]


@dataclass(frozen=True)
class Proven:
    """An entry with its place in the tree of `head` and the path that shows it."""

    entry: dict[str, Any]
    index: int
    path: list[bytes]
    head: Head


def waiting(session: Session) -> list[str]:
    """Tenants with events that have no leaf yet. Named ones: without them SQLite walks the index of all events."""
    unplaced = (EVENTS.c.leaf.is_(None), EVENTS.c.tenant_id.in_(select(Tenant.id)))
    return list(session.scalars(select(EVENTS.c.tenant_id).where(*unplaced).distinct()))


def sequence(session: Session, tenant_id: str, key: SigningKey, log_name: str) -> Head:
    """Append the tenant's next committed events, up to `BATCH`, and sign the head that results.

    To be called in a write transaction, by any number of processes: they take turns on the tenant's row, in a
    lock mode that rows naming the tenant do not wait for. `log_name` names a new log. An existing log keeps
    its name, or heads that auditors kept would be of another log.
    """
    session.flush()
    session.execute(select(Tenant.id).where(Tenant.id == tenant_id).with_for_update(key_share=True))
    last = head(session, tenant_id)
    mine = select(EVENTS).where(EVENTS.c.tenant_id == tenant_id, EVENTS.c.leaf.is_(None))
    rows = session.execute(mine.order_by(EVENTS.c.number).limit(BATCH)).all()
    if last and not rows and last.key_id == key.id:
        return last
    start = last.size if last else 0
    size = start + len(rows)
    known = _read(session, tenant_id, cover(0, start))
    fresh = grow(known, start, (leaf_hash(canonical(entry(row))) for row in rows))
    root = fold([fresh[node] if node in fresh else known[node] for node in cover(0, size)])
    if rows:
        _store(session, tenant_id, start, [row.number for row in rows], fresh)
    name = last.origin if last else f"{log_name}/{tenant_id}"
    signed = Head(size, root, sign_head(key, name, size, root), key.id, db.now(session))
    if last:
        session.execute(update(HEADS).where(HEADS.c.tenant_id == tenant_id).values(**vars(signed)))
    else:
        session.execute(insert(HEADS).values(tenant_id=tenant_id, **vars(signed)))
    return signed


def _store(session: Session, tenant_id: str, start: int, numbers: list[int], fresh: Mapping[Node, bytes]) -> None:
    """Give the events their leaves and keep the subtrees that these complete."""
    placed = [{"event": number, "place": leaf} for leaf, number in enumerate(numbers, start)]
    by_number = update(EVENTS).where(EVENTS.c.number == bindparam("event")).values(leaf=bindparam("place"))
    session.connection().execute(by_number, placed)
    nodes = [{"tenant_id": tenant_id, "level": n[0], "position": n[1], "hash": value} for n, value in fresh.items()]
    session.connection().execute(insert(NODES), nodes)


def sign_head(key: SigningKey, name: str, size: int, root: bytes) -> str:
    return sign_note(key, name, f"{name}\n{size}\n{base64.b64encode(root).decode()}\n")


def entry(row: Any) -> dict[str, Any]:
    """What a leaf hashes, of a row of `events`: everything that says what happened, and no serial number."""
    at = row.at.isoformat(timespec="microseconds") + "Z"
    return {"at": at, "data": row.data, "kind": row.kind, "object": row.object_id}


def _read(session: Session, tenant_id: str, nodes: Iterable[Node]) -> dict[Node, bytes]:
    wanted = list(nodes)
    if not wanted:
        return {}
    # Every term names the whole key: SQLite reads the tenant's whole tree for row values IN a list.
    mine = NODES.c.tenant_id == tenant_id
    places = (and_(mine, NODES.c.level == level, NODES.c.position == position) for level, position in wanted)
    query = select(NODES).where(or_(*places))
    found = {(row.level, row.position): bytes(row.hash) for row in session.execute(query)}
    if len(found) != len(wanted):
        raise ValueError("the log has no tree of that size")
    return found


def head(session: Session, tenant_id: str) -> Head | None:
    """The signed head; None before the first sequencing."""
    row = session.execute(select(HEADS).where(HEADS.c.tenant_id == tenant_id)).first()
    return Head(row.size, bytes(row.root), row.note, row.key_id, row.signed_at) if row else None


def prove_inclusion(session: Session, tenant_id: str, index: int, size: int) -> list[bytes]:
    """Raises ValueError: there is no such leaf, or no tree of that size."""
    spans = inclusion_spans(index, size)
    return roots(spans, _read(session, tenant_id, span_nodes(spans)))


def prove_consistency(session: Session, tenant_id: str, old: int, new: int) -> list[bytes]:
    """Raises ValueError: the sizes are not in order, or there is no tree of that size."""
    spans = consistency_spans(old, new)
    return roots(spans, _read(session, tenant_id, span_nodes(spans)))


def entries(session: Session, tenant_id: str, start: int, limit: int) -> list[dict[str, Any]]:
    """Entries of the log from leaf `start` on."""
    mine = select(EVENTS).where(EVENTS.c.tenant_id == tenant_id, EVENTS.c.leaf >= start)
    return [entry(row) for row in session.execute(mine.order_by(EVENTS.c.leaf).limit(limit))]


def record_proven(
    session: Session,
    tenant_id: str,
    kind: str,
    object_id: str,
    data: dict[str, Any],
    key: SigningKey,
    log_name: str,
) -> Proven:
    """Append an event and everything that waits before it, in the caller's transaction, and prove it."""
    event = AuditEvent(tenant_id=tenant_id, kind=kind, object_id=object_id, data=data, at=db.now(session))
    session.add(event)
    session.flush()
    signed = sequence(session, tenant_id, key, log_name)
    find = select(EVENTS).where(EVENTS.c.number == event.number)
    while (row := session.execute(find).one()).leaf is None:
        signed = sequence(session, tenant_id, key, log_name)
    return Proven(entry(row), row.leaf, prove_inclusion(session, tenant_id, row.leaf, signed.size), signed)
