"""Shards: the files that a dataset comes in, one after the other, each resumable, until the dataset is closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.blobs.folder import Stored
from app.core.errors import Conflict, NotFound
from app.core.tables import Dataset, Job, Shard
from app.datasets import records as datasets

MOST_SHARDS = 10_000
MOST_PIECES = 1000  # of one shard


@dataclass(frozen=True)
class Received:
    """What has come of one shard. digest, samples: once it has come whole."""

    number: int
    content_type: str
    split: str | None
    size: int
    digest: str | None
    samples: int | None


def rows(session: Session, dataset_id: str, number: int | None = None) -> Sequence[Shard]:
    query = select(Shard).where(Shard.dataset_id == dataset_id).order_by(Shard.number, Shard.offset)
    return session.scalars(query if number is None else query.where(Shard.number == number)).all()


def received(session: Session, dataset_id: str, number: int | None = None) -> list[Received]:
    found: dict[int, Received] = {}
    for row in rows(session, dataset_id, number):
        size = row.size + (found[row.number].size if row.number in found else 0)
        found[row.number] = Received(row.number, row.content_type, row.split, size, row.digest, row.samples)
    return list(found.values())


def require_next(session: Session, dataset: Dataset, number: int, offset: int) -> list[Shard]:
    """The pieces that are there of a shard that is to go on at `offset`.

    Raises:
        Conflict: the dataset takes no content any more, or by itself; the shard is whole, or goes on elsewhere.
    """
    datasets.require_awaiting(dataset)
    pieces = list(rows(session, dataset.id, number))
    if pieces and pieces[0].digest is not None:
        raise Conflict("This shard is whole. To send another in its place, delete it first.", kind="shard-whole")
    there = sum(piece.size for piece in pieces)
    if offset != there:
        raise Conflict(f"{there} bytes of this shard have come: go on there.", kind="upload-offset", offset=there)
    if len(pieces) >= MOST_PIECES:
        raise Conflict(f"This shard came in {MOST_PIECES} pieces. Delete it, and send it again.", kind="upload-offset")
    return pieces


def keep(
    session: Session,
    dataset: Dataset,
    number: int,
    offset: int,
    stored: Stored,
    content_type: str,
    split: str | None,
    samples: int | None = None,
) -> list[str]:
    """Record what has come: a piece, or with `samples` the whole shard; digests of what that makes needless."""
    needless = []
    if samples is not None:
        needless = drop(session, dataset, number)
    session.add(
        Shard(
            dataset_id=dataset.id,
            number=number,
            offset=0 if samples is not None else offset,
            tenant_id=dataset.tenant_id,
            content_type=content_type,
            split=split,
            size=stored.size,
            blob=stored.digest,
            digest=stored.digest if samples is not None else None,
            samples=samples,
        )
    )
    session.flush()
    return [digest for digest in needless if digest != stored.digest]


def drop(session: Session, dataset: Dataset, number: int | None = None) -> list[str]:
    """Forget a shard, or all; digests of the bytes that were held of it."""
    found = rows(session, dataset.id, number)
    for row in found:
        session.delete(row)
    session.flush()
    return [row.blob for row in found if row.blob is not None]


def remove(session: Session, dataset: Dataset, number: int) -> list[str]:
    """Forget a shard that is to be sent again; digests of the bytes that were held of it.

    Raises:
        Conflict: the dataset takes no content any more.
        NotFound: nothing has come of it.
    """
    datasets.require_awaiting(dataset)
    if not rows(session, dataset.id, number):
        raise NotFound("Nothing has come of such a shard.")
    return drop(session, dataset, number)


def close(session: Session, dataset: Dataset, count: int) -> Job:
    """No shard comes any more: take them in.

    Raises:
        Conflict: there are more or fewer than `count`, or one has not come whole.
    """
    datasets.require_awaiting(dataset)
    there = received(session, dataset.id)
    if [shard.number for shard in there] != list(range(count)):
        raise Conflict(
            f"The dataset is to be closed with the shards 0 to {count - 1}, and has {len(there)}: send those that are "
            "missing, or delete those that are too many.",
            kind="shards-differ",
            shards=[shard.number for shard in there][:100],
        )
    if coming := [shard.number for shard in there if shard.digest is None]:
        raise Conflict(
            f"Shard {coming[0]} has not come whole: send the rest of it, or delete it.",
            kind="shard-incomplete",
            shards=coming[:100],
        )
    return datasets.start_ingest(session, dataset)


def taken_in(session: Session, dataset_id: str) -> list[str]:
    """The shards of a dataset that is ready hold no bytes any more; digests of those."""
    held = []
    for row in rows(session, dataset_id):
        if row.blob is not None:
            held.append(row.blob)
            row.blob = None
    return held
