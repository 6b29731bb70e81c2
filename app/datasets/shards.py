"""Shards: the files that a dataset comes in, one after the other, each resumable, until the dataset is closed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.blobs.folder import Stored
from app.core.errors import Conflict, Gone, NotFound, SupersededError
from app.core.tables import Dataset, Job, Sample, Shard
from app.datasets import records as datasets
from app.formats.manifest import HOLDOUT

MOST_SHARDS = 10_000
MOST_PIECES = 1000  # of one shard
ROWS_AT_ONCE = 10_000


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


def reuse(session: Session, dataset: Dataset, number: int, digest: str, split: str | None) -> list[str]:
    """Make a file that another dataset of the tenant has a shard of this one; digests of what that makes needless.

    split: that it was sent with. What was trained on there is not held out here, nor the other way round.

    Raises:
        Conflict: the dataset takes no content any more, or only by itself.
        NotFound: no dataset that is ready has such a file of this split, or its samples are all erased.
    """
    datasets.require_awaiting(dataset)
    if dataset.source != "upload":
        raise Conflict("Only a dataset of source `upload` takes files of others.", kind="not-an-upload")
    query = (
        select(Shard)
        .join(Dataset, Dataset.id == Shard.dataset_id)
        .where(Shard.tenant_id == dataset.tenant_id, Shard.digest == digest, Shard.samples > 0)
        .where(Dataset.state == "ready", Dataset.source == "upload", Dataset.carried_for.is_(None))
        .where(Shard.split.is_(None) if split is None else Shard.split.in_(_like(split)))
        .order_by(Dataset.id.desc(), Shard.number)
    )
    found = session.scalars(query.limit(1)).first()
    if found is None:
        raise NotFound("No dataset of yours has such a file, sent with this split. Send it.")
    needless = drop(session, dataset, number)
    session.add(
        Shard(
            dataset_id=dataset.id,
            number=number,
            offset=0,
            tenant_id=dataset.tenant_id,
            content_type=found.content_type,
            split=found.split,
            size=found.size,
            digest=digest,
            samples=found.samples,
            held_in=found.dataset_id,
        )
    )
    session.flush()
    return needless


def _like(split: str) -> list[str]:
    """All names of splits that mean the same."""
    return [name for name, held in HOLDOUT.items() if held == HOLDOUT[split]]


@dataclass(frozen=True)
class Held:
    """A shard that another dataset has, within its file `images`: what is said of the samples that nobody has asked to
    erase, as (position there, id, subject, label, holdout), while the session is open. class_names: by label, where
    classes have names; None in the place of one that is erased."""

    dataset: str
    images: str
    class_names: list[str | None] | None
    samples: Iterator[tuple[int, str, str | None, int, bool]]


def held(session: Session, shard: Shard) -> Held:
    """What another dataset has of a shard.

    Raises:
        Gone: the other dataset was deleted, and the shard with it.
    """
    other = session.get(Dataset, shard.held_in)
    query = select(Shard).where(Shard.dataset_id == shard.held_in).order_by(Shard.number)
    theirs = session.scalars(query).all()
    place = next((number for number, each in enumerate(theirs) if each.digest == shard.digest), None)
    if other is None or other.state != "ready" or other.images is None or place is None:
        raise Gone("A dataset that has one of the shards was deleted. Send the shard.", kind="shard-gone")
    start = sum(each.samples or 0 for each in theirs[:place])
    stop = start + (theirs[place].samples or 0)
    gone = set(datasets.unavailable(other).tolist())
    within = select(Sample.position, Sample.sample_id, Sample.subject, Sample.label, Sample.holdout).where(
        Sample.dataset_id == other.id, Sample.position >= start, Sample.position < stop
    )
    there = session.execute(within.order_by(Sample.position), execution_options={"yield_per": ROWS_AT_ONCE})
    samples = (
        (position, name, subject, label, holdout)
        for position, name, subject, label, holdout in there
        if position not in gone
    )
    return Held(other.id, other.images, other.class_names, samples)


def require_same(session: Session, found: Sequence[Held]) -> None:
    """To be called within the transaction that takes them in.

    Raises:
        SupersededError: something was erased since `held`.
    """
    for each in found:
        other = session.get(Dataset, each.dataset)
        if other is None or other.images != each.images:
            raise SupersededError("samples of a shard that another dataset has were erased while it was taken in")


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
    lost = [row.number for row in rows(session, dataset.id) if row.held_in is not None and not _is_there(session, row)]
    if lost:
        raise Conflict(
            f"The dataset that has shard {lost[0]} was deleted: send the shard.", kind="shard-gone", shards=lost[:100]
        )
    return datasets.start_ingest(session, dataset)


def _is_there(session: Session, shard: Shard) -> bool:
    other = session.get(Dataset, shard.held_in)
    return other is not None and other.state == "ready"


def taken_in(session: Session, dataset: Dataset, upload: str | None, counts: Sequence[int], sizes: int) -> list[str]:
    """The shards of a dataset that is ready hold no bytes any more; digests of those.

    upload: of the one file that it came in, else None, of `sizes` bytes. counts: samples of each file, so that
    later datasets may name them.
    """
    there = rows(session, dataset.id)
    if upload is not None and not there and counts:
        whole = Shard(dataset_id=dataset.id, number=0, offset=0, tenant_id=dataset.tenant_id, digest=upload)
        whole.content_type, whole.size = "application/octet-stream", sizes
        session.add(whole)
        there = [whole]
    needless = []
    for row, samples in zip(there, counts if there else [], strict=True):
        if row.blob is not None:
            needless.append(row.blob)
        row.blob, row.held_in, row.samples = None, None, samples
    return needless


def takers(session: Session, dataset: Dataset) -> Sequence[str]:
    """Datasets that are still to take a file from this one."""
    return session.scalars(select(Shard.dataset_id).where(Shard.held_in == dataset.id).distinct()).all()
