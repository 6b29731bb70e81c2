"""Datasets: registering, taking content in, and the manifest that ingesting writes."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, or_, select, text
from sqlalchemy.orm import Session

from app import catalog, events, jobs
from app.blobs.folder import Stored
from app.core import db
from app.core.config import Settings
from app.core.errors import Conflict, Gone, NotFound
from app.core.ids import is_id, new_id
from app.core.positions import Positions, bitmap, mask_of
from app.core.tables import Dataset, Idempotency, Job, Model, Sample
from app.datasets import coin as toss
from app.formats.manifest import ERASED_PREFIX
from app.formats.names import normal
from app.jobs import Claim, routing
from app.rules import plugins
from app.rules.policy import Choice
from app.rules.sources import awaits_content
from app.rules.states import JobKind


def get(session: Session, tenant_id: str, dataset_id: str, *, lock: bool = False) -> Dataset:
    query = select(Dataset).where(Dataset.tenant_id == tenant_id, Dataset.id == dataset_id)
    dataset = session.scalars(query.with_for_update() if lock else query).first()
    if dataset is None:
        named = select(Dataset).where(
            Dataset.tenant_id == tenant_id, Dataset.name == dataset_id, Dataset.carried_for.is_(None)
        )
        found = session.scalars((named.with_for_update() if lock else named).limit(6)).all()
        if len(found) > 1:
            ids = ", ".join(each.id for each in found)
            raise Conflict(f"Several datasets have this name: {ids}.", kind="name-shared")
        dataset = found[0] if found else None
    if dataset is None:
        raise NotFound("There is no such dataset.")
    return dataset


def id_of(session: Session, tenant_id: str, dataset: str) -> str:
    """The id that an id or a name stands for. An id is not looked up.

    Raises:
        NotFound, Conflict: no dataset has the name, or several have it.
    """
    return dataset if is_id("dst", dataset) else get(session, tenant_id, dataset).id


def register(
    session: Session,
    tenant_id: str,
    name: str,
    source: Choice,
    carried_for: str | None = None,
    id_namespace: str | None = None,
    assign_canaries: bool = False,
) -> tuple[Dataset, Job | None]:
    """A dataset from a built-in source starts its ingest job at once; an upload waits for its content; data that are
    not held here are ready as they are.

    carried_for: the model that is to forget what will be uploaded (`app.deletions.carried`). assign_canaries: a coin of
    the service's decides which canaries of an upload are trained on; its digest is in the event.
    """
    coin = toss.new_coin() if assign_canaries else None
    dataset = Dataset(
        id=new_id("dst"),
        tenant_id=tenant_id,
        name=name,
        source=source.name,
        source_params=source.params,
        carried_for=carried_for,
        id_namespace=id_namespace,
        state="awaiting-content" if awaits_content(source.name, source.params) else "ingesting",
        coin=coin,
        created_at=db.now(session),
    )
    if not is_held(dataset):
        _describe(dataset)
    session.add(dataset)
    session.flush()
    routing.require(session, dataset.id, plugins.needed([("sources", source.name)]))
    logged = {"canary_coin": toss.commitment(coin)} if coin else {}
    events.record(session, tenant_id, "dataset.registered", dataset.id, source=source.name, **logged)
    return dataset, _ingest(session, dataset) if dataset.state == "ingesting" else None


def is_held(dataset: Dataset) -> bool:
    """Whether this service has the samples; else each deletion brings its own."""
    return catalog.SOURCES[dataset.source].held


def _describe(dataset: Dataset) -> None:
    """Data that are not held: what their models must know of them."""
    params = catalog.ExternalSource.model_validate(dataset.source_params)
    dataset.state, dataset.class_count, dataset.shape = "ready", params.classes, list(params.shape)
    dataset.class_names = list(params.class_names) if params.class_names else None
    dataset.sample_count = dataset.train_count = 0


def accept_content(session: Session, dataset: Dataset, stored: Stored) -> Job:
    """Take uploaded bytes as the dataset's content, to be decoded by an ingest job.

    Raises:
        Conflict: the dataset has content already, or is not of source `upload`.
    """
    require_awaiting(dataset)
    dataset.upload = stored.digest
    return start_ingest(session, dataset)


def start_ingest(session: Session, dataset: Dataset) -> Job:
    dataset.state, dataset.problem = "ingesting", None
    return _ingest(session, dataset)


def require_awaiting(dataset: Dataset) -> None:
    if not awaits_content(dataset.source, dataset.source_params):
        raise Conflict("This dataset has its content from its source; none is uploaded to it.", kind="not-an-upload")
    if dataset.state == "erased":
        raise Gone("This dataset has been erased.", kind="dataset-erased")
    if dataset.state not in ("awaiting-content", "failed"):
        raise Conflict("This dataset has its content; datasets are immutable.", kind="content-present")


def _ingest(session: Session, dataset: Dataset) -> Job:
    return jobs.enqueue(
        session,
        tenant_id=dataset.tenant_id,
        kind=JobKind.INGEST,
        lane=f"dataset:{dataset.id}",
        dataset_id=dataset.id,
    )


Row = tuple[str, str | None, int, bool]
"""(id, subject, label, holdout) of one sample."""


def write_samples(session: Session, claim: Claim, start: int, rows: Sequence[Row]) -> None:
    """Store samples from position `start` on, in a transaction of their own, so that others write meanwhile.

    The first also removes what an attempt before has left. The dataset is not ready before `write_manifest`.
    """
    jobs.fenced(session, claim)
    if start == 0:
        session.execute(delete(Sample).where(Sample.dataset_id == claim.dataset_id))
    values = [
        {"dataset_id": claim.dataset_id, "position": p, "sample_id": i, "subject": s, "label": y, "holdout": h}
        for p, (i, s, y, h) in enumerate(rows, start)
    ]
    db.insert_many(session, Sample, values)


def write_manifest(
    session: Session,
    claim: Claim,
    *,
    labels: NDArray[np.int32],
    holdout: NDArray[np.bool_],
    class_names: Sequence[str] | None,
    shape: Sequence[int | None],
    images: Stored,
    erased: Positions,
    duplicates: NDArray[np.int64],
    report: dict[str, Any] | None = None,
) -> None:
    """Mark the dataset ready, once its samples are stored: the end of an ingest job, in one fenced transaction."""
    jobs.fenced(session, claim)
    dataset = session.get_one(Dataset, claim.dataset_id, with_for_update=True)
    size = len(labels)
    dataset.images, dataset.shape, dataset.sample_count = images.digest, list(shape), size
    dataset.train_count = int((~holdout).sum())
    # A class may be called after a person: its name goes with the last of its samples.
    left = set(np.delete(labels, erased).tolist())
    gone = set(labels[erased].tolist()) - left
    names = _without(class_names or [], gone)
    forget_names(session, dataset, class_names, gone)
    dataset.class_names = names or None
    dataset.class_count = len(class_names) if class_names else int(labels.max()) + 1
    dataset.erased = bitmap(erased, size) if len(erased) else b""
    dataset.report = report
    dataset.duplicates = duplicates.astype("<u4").tobytes()
    dataset.state, dataset.upload = "ready", None
    events.record(session, claim.tenant_id, "dataset.ready", dataset.id, samples=size)


def forget_names(
    session: Session, dataset: Dataset, names: Sequence[str | None] | None, gone: Collection[int] | None
) -> bool:
    """Take the names of classes that have no samples any more out of what the client sent for the dataset and for its
    models, and out of replies that are kept for a client that asks again; whether there were any.

    names: of the classes, by label; gone: which of them; None: all."""
    if gone is not None and not gone:
        return False
    lost = {normal(name) for label, name in enumerate(names or []) if name and (gone is None or label in gone)}

    def left(said: list[str | None]) -> list[str | None] | None:
        if gone is None or not names:  # the outputs of a network are in the order of the labels then
            lost.update(normal(name) for label, name in enumerate(said) if name and (gone is None or label in gone))
        if gone is None:
            return None
        return _without(said, gone) if not names else _left(said, lost)

    if said := dataset.source_params.get("class_names"):
        dataset.source_params = {**dataset.source_params, "class_names": left(said)}
    for model in session.scalars(select(Model).where(Model.dataset_id == dataset.id).order_by(Model.id)):
        if said := (model.input or {}).get("class_names"):
            model.input = {**(model.input or {}), "class_names": left(said)}
    if lost:
        _forget_in_replies(session, dataset, lost)
    return bool(lost)


def _forget_in_replies(session: Session, dataset: Dataset, names: Collection[str]) -> None:
    """In what was said of this dataset and of its models, which name it, to calls that made or changed them."""
    about = or_(*(Idempotency.route.contains(f"/v1/{kind}") for kind in ("datasets", "models")))
    told = Idempotency.body.contains('"class_names"'), Idempotency.body.contains(dataset.id)
    for row in session.scalars(select(Idempotency).where(Idempotency.tenant_id == dataset.tenant_id, about, *told)):
        row.body = json.dumps(_unnamed(json.loads(row.body or "null"), names), ensure_ascii=False)


def _unnamed(said: Any, names: Collection[str]) -> Any:
    """A document with null for these names of classes."""
    if isinstance(said, list):
        return [_unnamed(each, names) for each in said]
    if not isinstance(said, dict):
        return said
    found = {key: _unnamed(value, names) for key, value in said.items()}
    if isinstance(listed := found.get("class_names"), list):
        found["class_names"] = _left(listed, names)
    return found


def _left(said: Sequence[str | None], lost: Collection[str]) -> list[str | None]:
    """Names but for those that are lost, in whatever form they were sent."""
    return [None if name is not None and normal(name) in lost else name for name in said]


def has_named_outputs(session: Session, dataset: Dataset) -> bool:
    """Whether a model's input contract names the classes of the dataset."""
    contracts = session.scalars(select(Model.input).where(Model.dataset_id == dataset.id))
    return any((contract or {}).get("class_names") for contract in contracts)


def _without(names: Sequence[str | None], gone: Collection[int]) -> list[str | None]:
    return [None if label in gone else name for label, name in enumerate(names)]


def fail(session: Session, claim: Claim, problem: dict[str, Any]) -> None:
    """The content could not be taken in: say why; new content may be sent."""
    dataset = session.get_one(Dataset, claim.dataset_id, with_for_update=True)
    dataset.state, dataset.problem, dataset.upload = "failed", problem, None
    jobs.drop_unfinished(session, dataset.id)


_SQLITE_LABELS = text(
    "SELECT group_concat(v) FROM (SELECT label * 2 + holdout AS v FROM samples WHERE dataset_id = :d ORDER BY position)"
)
_POSTGRES_LABELS = text(
    "SELECT string_agg(int4send(label * 2 + CAST(holdout AS integer)), '' ORDER BY position) "
    "FROM samples WHERE dataset_id = :d"
)
_labels: dict[str, NDArray[np.int32]] = {}
MOST_LABELS = 4  # datasets whose labels a process keeps: once a dataset is ready they never change


def labels_of(session: Session, dataset: Dataset) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Labels and train split of a dataset that is ready, by position, read as one value and kept."""
    if not dataset.sample_count:  # of data that are not held here
        return np.empty(0, dtype=np.int32), np.empty(0, dtype=np.bool_)
    packed = _labels.pop(dataset.id, None)
    if packed is None or len(packed) != dataset.sample_count:
        if session.get_bind().dialect.name == "sqlite":
            listed: str = session.execute(_SQLITE_LABELS, {"d": dataset.id}).scalar_one()
            packed = np.fromstring(listed, dtype=np.int32, sep=",")
        else:
            sent: bytes = session.execute(_POSTGRES_LABELS, {"d": dataset.id}).scalar_one()
            packed = np.frombuffer(sent, dtype=">i4").astype(np.int32)
    _labels[dataset.id] = packed
    while len(_labels) > MOST_LABELS:
        _labels.pop(next(iter(_labels)), None)
    return packed >> 1, packed & 1 == 0


def suppression(settings: Settings, dataset_id: str, sample_id: str) -> str:
    """The text in place of an erased id: a keyed digest, so that the service knows the id when it is sent again."""
    return next(suppressions(settings, dataset_id, sample_id))


def suppressions(settings: Settings, dataset_id: str, sample_id: str) -> Iterator[str]:
    """`suppression` under each of the service's secrets, the present one first."""
    for secret in settings.every_secret():
        key = hmac.new(secret, f"suppression:{dataset_id}".encode(), hashlib.sha256).digest()
        yield ERASED_PREFIX + hmac.new(key, sample_id.encode(), hashlib.sha256).hexdigest()


def suppress(session: Session, dataset: Dataset, digests: Sequence[str]) -> None:
    """Erased samples of a dataset that is not taken in yet: their `suppression` stands in its manifest beforehand."""
    known = suppressed(session, dataset.id)
    fresh = [digest for digest in dict.fromkeys(digests) if digest not in known]
    rows = [
        {"dataset_id": dataset.id, "position": position, "sample_id": digest, "label": 0, "holdout": False}
        for position, digest in enumerate(fresh, len(known))
    ]
    db.insert_many(session, Sample, rows)


def suppressed(session: Session, dataset_id: str) -> set[str]:
    """What `suppress` has left for the ingest."""
    erased = Sample.sample_id.startswith(ERASED_PREFIX, autoescape=True)
    return set(session.scalars(select(Sample.sample_id).where(Sample.dataset_id == dataset_id, erased)))


def duplicates_left(session: Session, dataset: Dataset, positions: Positions) -> Positions | None:
    """Other samples of the content of those at `positions`, which are neither among them nor erased.

    None where nobody knows: pixels are not held here, or were taken in before duplicates were looked for.
    """
    packed = session.scalars(select(Dataset.duplicates).where(Dataset.id == dataset.id)).one()
    if packed is None:
        return None
    pairs = np.frombuffer(packed, dtype="<u4").astype(np.int64).reshape(-1, 2)
    going = np.isin(pairs[:, 1], positions)
    left = pairs[np.isin(pairs[:, 0], pairs[going, 0]) & ~going, 1]
    there: Positions = np.sort(left[~mask_of(dataset.erased, dataset.sample_count)[left]])
    return there


def unavailable(dataset: Dataset) -> Positions:
    """Positions that no new version may train on: requested or erased."""
    gone = mask_of(dataset.requested, dataset.sample_count) | mask_of(dataset.erased, dataset.sample_count)
    positions: Positions = gone.nonzero()[0]
    return positions
