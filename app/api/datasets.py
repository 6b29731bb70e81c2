"""Datasets: register, send content, read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app import events
from app.api.http.deps import (
    BY_METHOD,
    ONE_TRANSFER,
    CallerDep,
    IdempotencyKey,
    IdempotentDep,
    PagerDep,
    Parts,
    PartsDep,
    Read,
    Write,
    accepted,
    needs,
    problems,
    require_another_job,
)
from app.api.http.paging import Created, Page, matching
from app.api.http.patterns import reference
from app.api.http.transfer import FilePart, receive, room_for, takes_file
from app.api.schemas import (
    CoinOut,
    DatasetCreate,
    DatasetErasable,
    DatasetOut,
    DatasetState,
    IngestReport,
    PictureOut,
    PreviewBody,
    SampleOut,
)
from app.blobs import usage
from app.blobs.folder import BlobMissingError, Writer
from app.core.config import Settings
from app.core.errors import Conflict, Unavailable, Unprocessable, UnsupportedMedia
from app.core.positions import members
from app.core.tables import Dataset, Job, Sample
from app.datasets import canaries, coin, samples, shards, storage
from app.datasets import records as datasets
from app.datasets.open_objects import objects_of
from app.deletions import carried, unneeded
from app.formats import previews, sandbox, uploads
from app.formats.manifest import ERASED_PREFIX, SourceError
from app.rules.policy import Choice

log = logging.getLogger("lethe.api")
router = APIRouter(prefix="/datasets", tags=["datasets"], dependencies=[BY_METHOD])
seeing = APIRouter(prefix="/datasets", tags=["datasets"], dependencies=[needs("samples")])
DatasetId = Annotated[
    str, Path(pattern=reference("dst"), description="its id, or its name if no other dataset has the name")
]


def show(dataset: Dataset, job: Job | None = None) -> DatasetOut:
    return DatasetOut(
        id=dataset.id,
        name=dataset.name,
        source=Choice(name=dataset.source, params=dataset.source_params),
        state=dataset.state,
        carried_for=dataset.carried_for,
        id_namespace=dataset.id_namespace,
        expires_at=carried.expires_at(dataset),
        samples=dataset.sample_count,
        train_samples=dataset.train_count,
        classes=dataset.class_count,
        class_names=dataset.class_names,
        shape=dataset.shape,
        erased_samples=len(members(dataset.erased, dataset.sample_count)),
        job=job.id if job else None,
        canaries=_coin(dataset),
        problem=dataset.problem,
        created_at=dataset.created_at,
    )


def _coin(dataset: Dataset) -> CoinOut | None:
    if dataset.coin is None:
        return None
    return CoinOut(
        commitment=coin.commitment(dataset.coin), coin=dataset.coin if dataset.state in ("ready", "erased") else None
    )


@dataclass(frozen=True)
class Expected:
    """What a body must be: its Content-Type, the forms that it may have, and what they are read with."""

    content_type: str
    forms: tuple[str, ...]
    params: dict[str, Any]


NPZ = "application/x-npz"
WAIT = {"Retry-After": "60"}
ALL_TYPES = tuple({**uploads.FORMS, **uploads.MANIFESTS})


def content_type_of(request: Request) -> str:
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found not in ALL_TYPES:
        raise UnsupportedMedia(f"Send one of: {', '.join(ALL_TYPES)}.")
    return found


def expected(settings: Settings, dataset: Dataset, content_type: str) -> Expected:
    """Of pictures, or of a manifest of where they lie, as the dataset's source is.

    Raises:
        UnsupportedMedia: such a dataset takes no such files.
    """
    known = uploads.MANIFESTS if dataset.source == "objects" else uploads.FORMS
    if content_type not in known:
        raise UnsupportedMedia(f"A dataset of source `{dataset.source}` takes: {', '.join(known)}.")
    params = dict(dataset.source_params)
    if dataset.source == "objects":
        params["allowed"] = storage.allowed(settings, dataset.tenant_id)
    return Expected(content_type, known[content_type], params)


def look_at(path: FilePath, what: Expected, split: str | None, *, alone: bool) -> int:
    """Check a file in a child, without its pictures; the number of its samples. alone: it is all of the content.

    Raises:
        Unprocessable: what is wrong with it.
    """
    params, forms = what.params, what.forms
    try:
        samples: int = sandbox.call("app.formats.uploads:refuse_unfit", str(path), params, forms, split, alone)
        return samples
    except sandbox.SandboxError as error:
        log.warning("an upload could not be looked at: %s", error)
        raise Unavailable(f"Just now {error}. Send it again.", headers=WAIT) from None
    except SourceError as error:
        raise Unprocessable(
            error.detail, kind="dataset-content", errors=[{"detail": line} for line in error.errors]
        ) from None


def _require_alone(session: Session, dataset: Dataset) -> None:
    datasets.require_awaiting(dataset)
    if shards.rows(session, dataset.id):
        raise Conflict("Shards of this dataset have come: send the others, and close it.", kind="shards-present")


@router.post("", status_code=202, response_model=DatasetOut, responses=problems(403, 404, 409))
def create(body: DatasetCreate, who: CallerDep, held: PartsDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Register a dataset. A built-in source is taken in at once; `upload` waits for its content; of `external` data
    nothing is ever sent but what deletions carry (`carried_for`)."""
    job = None
    if body.carried_for is not None:
        dataset = carried.register(session, who.tenant_id, body.name, body.source, body.carried_for)
    else:
        require_another_job(session, held.settings, who.tenant_id)
        storage.require_allowed(held.settings, who.tenant_id, body.source)
        dataset, job = datasets.register(
            session,
            who.tenant_id,
            body.name,
            body.source,
            id_namespace=body.id_namespace,
            assign_canaries=body.assign_canaries,
        )
    return once.reply(202, show(dataset, job), accepted(f"/v1/datasets/{dataset.id}"))


@router.get("", responses=problems(403))
def list_all(
    who: CallerDep,
    session: Read,
    pager: PagerDep,
    created: Created,
    state: Annotated[DatasetState | None, Query()] = None,
) -> Page[DatasetOut]:
    """The datasets, newest first."""
    query = created.of(select(Dataset).where(Dataset.tenant_id == who.tenant_id), Dataset.created_at)
    rows, token = pager.rows(session, matching(query, {Dataset.state: state}), Dataset.id)
    return Page(items=[show(row) for row in rows], next_page_token=token)


@router.get("/{dataset:noun}", responses=problems(403, 404))
def read(dataset: DatasetId, who: CallerDep, session: Read) -> DatasetOut:
    """One dataset."""
    return show(datasets.get(session, who.tenant_id, dataset))


@router.get("/{dataset}/samples", responses=problems(403, 404))
def list_samples(
    dataset: DatasetId,
    who: CallerDep,
    session: Read,
    pager: PagerDep,
    split: Annotated[Literal["train", "holdout"] | None, Query()] = None,
) -> Page[SampleOut]:
    """The manifest: every sample that is not erased, in the dataset's order."""
    row = datasets.get(session, who.tenant_id, dataset)
    query = select(Sample).where(
        Sample.dataset_id == (row.id if row.state == "ready" else ""),  # not what an ingest has stored so far
        ~Sample.sample_id.startswith(ERASED_PREFIX, autoescape=True),
    )
    if split is not None:
        query = query.where(Sample.holdout == (split == "holdout"))
    rows, token = pager.rows_by_number(session, query, Sample.position)
    items = [SampleOut(id=s.sample_id, label=s.label, split="holdout" if s.holdout else "train") for s in rows]
    return Page(items=items, next_page_token=token)


@router.get(
    "/{dataset}/canaries",
    response_class=Response,
    responses={
        200: {
            "content": {NPZ: {"schema": {"type": "string", "format": "binary"}}},
            "description": "arrays `images` (N, H, W, C) uint8, `labels` and `ids`. If the dataset's pictures have "
            "different sizes, `image_0` (H, W, C), `image_1` and so on stand for `images`",
        },
        **problems(403, 404, 409, 507),
    },
    dependencies=[ONE_TRANSFER],
)
def get_canaries(dataset: DatasetId, who: CallerDep, held: PartsDep) -> Response:
    """The canaries of the train split as an npz: what to mix into your training data if you train the model elsewhere.

    Those held out are not in it: never train on them.
    """
    with held.database.read() as session:
        row = datasets.get(session, who.tenant_id, dataset)
        if row.state != "ready" or row.images is None:
            raise Conflict("The dataset is not ready, or its samples are not held here.", kind="dataset-not-ready")
        planted = canaries.planted(session, row)
        trained = session.execute(
            select(Sample.position, Sample.sample_id, Sample.label)
            .where(Sample.dataset_id == row.id, Sample.subject == canaries.SUBJECT, ~Sample.holdout)
            .order_by(Sample.position)
        ).all()
        digest, shape = row.images, row.shape or []
    if not len(planted):
        raise Conflict("No sample of this dataset has the subject `lethe:canary`.", kind="no-canaries")
    said = [(name, label) for _, name, label in trained]
    with _refusals():
        size = held.blobs.size(digest)
        most = _most_of(held, shape, said)
        theirs, positions = objects_of(held.settings, who.tenant_id), [row[0] for row in trained]
        with room_for(held, who.tenant_id, 2 * most), sandbox.folder() as folder:  # as pictures, and as arrays
            pictures = previews.encoded_at(_reader(held, digest), size, positions, theirs.picture)
            target = previews.as_npz(pictures, folder, said, shape, most)
            made, file = target.stat().st_size, target.open("rb")  # which goes with the last who has it open
    name = f"{row.id}-canaries.npz"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Content-Length": str(made)}
    return FilePart(file, 0, made, 200, headers, NPZ)


@contextmanager
def _refusals() -> Iterator[None]:
    """What keeps stored pictures from being looked at, in words."""
    try:
        yield
    except storage.ObjectError as error:
        raise Conflict(f"A picture cannot be read: {error}.", kind=error.kind) from None
    except sandbox.SandboxError as error:
        raise Unavailable(f"Just now {error}. Ask again.", headers=WAIT) from None
    except (BlobMissingError, SourceError):
        raise Unavailable("The pictures could not be looked at just now. Ask again.", headers=WAIT) from None


MOST_UNKNOWN = 2**31  # bytes of an npz of pictures whose sizes nobody has said
BESIDE = 2**16  # bytes of an npz besides its arrays


def _most_of(held: Parts, shape: Sequence[int | None], said: Sequence[tuple[str, int]]) -> int:
    """Bytes that an npz of these pictures may have."""
    longest = max((len(name) for name, _ in said), default=0)
    height, width, channels = shape
    pixels = MOST_UNKNOWN if height is None or width is None else height * width * (channels or 1) * len(said)
    return min(held.settings.max_upload_bytes, BESIDE + len(said) * (8 + 4 * longest) + pixels)


def _reader(held: Parts, digest: str) -> previews.Read:
    return lambda start, stop: b"".join(held.blobs.read(digest, start, stop))


@router.get("/{dataset}/report", response_model=IngestReport, responses=problems(403, 404, 409))
def report(dataset: DatasetId, who: CallerDep, session: Read) -> dict[str, Any]:
    """What was taken in, and what was converted on the way. It names no sample."""
    row = datasets.get(session, who.tenant_id, dataset)
    if row.report is None:
        raise Conflict("Only a dataset that was uploaded, and is ready, has such a report.", kind="no-report")
    return row.report


@router.get("/{dataset}:erasable", responses=problems(403, 404))
def erasable(dataset: DatasetId, who: CallerDep, held: PartsDep, session: Read) -> DatasetErasable:
    """What `DELETE` of the dataset would erase, and who needs it."""
    row = datasets.get(session, who.tenant_id, dataset)
    return DatasetErasable.model_validate(unneeded.of_dataset(session, held.blobs, row))


@router.delete("/{dataset:noun}", status_code=204, dependencies=[needs("admin")], responses=problems(403, 404, 409))
def delete(dataset: DatasetId, who: CallerDep, held: PartsDep, session: Write) -> Response:
    """Erase a dataset that nobody needs: pictures, ids, and what came of an upload that was not finished. Its document
    stays. `:erasable` says before what goes."""
    row = datasets.get(session, who.tenant_id, dataset, lock=True)
    unneeded.delete_dataset(session, held.blobs, row)
    return Response(status_code=204)


@seeing.post("/{dataset}:preview", responses=problems(403, 404, 409))
def preview(
    dataset: DatasetId,
    body: PreviewBody,
    who: CallerDep,
    held: PartsDep,
    _: IdempotencyKey = None,  # nothing to replay: a reply that was kept would be a copy of the pictures
) -> list[PictureOut]:
    """The pictures of up to sixteen samples, in the order of their ids. The log keeps that, and how many, were seen."""
    with held.database.write() as session:
        row = datasets.get(session, who.tenant_id, dataset)
        if row.state != "ready" or row.images is None:
            raise Conflict("The dataset is not ready, or not held here.", kind="dataset-not-ready")
        positions = samples.resolve(session, held.settings, row, body.sample_ids, "/sample_ids").tolist()
        labels, train = datasets.labels_of(session, row)
        digest = row.images
        events.record(session, who.tenant_id, "dataset.previewed", row.id, samples=len(positions), key=who.key_id)
    with _refusals():
        size, theirs = held.blobs.size(digest), objects_of(held.settings, who.tenant_id)
        found = previews.pngs(_reader(held, digest), size, positions, theirs.picture)
    return [
        PictureOut(label=int(labels[position]), split="train" if train[position] else "holdout", **each)
        for position, each in zip(positions, found, strict=True)
    ]


@router.put(
    "/{dataset}/content",
    status_code=202,
    response_model=DatasetOut,
    **takes_file(*ALL_TYPES),
)
async def put_content(dataset: DatasetId, request: Request, who: CallerDep, held: PartsDep) -> JSONResponse:
    """Stream the content in, in the form that the Content-Type names.

    - `application/vnd.apache.parquet`: columns `image` and `label` and, optionally, `id`, `split` and `subject`.
    - `application/x-npz`: arrays `images` (N, H, W[, C]) or (N, C, H, W), `labels` and, optionally, `ids`, `holdout`
      (bool) or `split`, and `subject`; no pickled objects.
    - `application/zip`: an image folder, `<split>/<class>/<name>.png` or `<class>/<name>.png`. A sample's id is its
      path, its label the place of its class among all, sorted, or among the source's `class_names`. Where all members
      end in `.npy` it is an npz.
    - `application/x-tar`: a WebDataset, `<key>.jpg` with `<key>.cls` or `<key>.json`.

    A dataset of source `objects` takes a manifest of addresses instead, as `text/csv`, `application/x-ndjson` or
    Parquet: `address` and `label` and, optionally, `id`, `split` and `subject`.

    The form, ids, labels and an archive's directory are checked before the reply; images are decoded by the ingest
    job.
    """
    content_type = content_type_of(request)

    def ready() -> Expected:
        with held.database.read() as session:
            row = datasets.get(session, who.tenant_id, dataset)
            _require_alone(session, row)
            return expected(held.settings, row, content_type)

    def keep(writer: Writer, what: Expected) -> DatasetOut:
        look_at(writer.path, what, None, alone=True)
        stored = writer.commit()
        recorded = usage.kept_only_if_recorded(held.database, held.blobs, stored.digest)
        with recorded, held.database.write() as session:
            row = datasets.get(session, who.tenant_id, dataset, lock=True)
            _require_alone(session, row)
            usage.pin(session, held.blobs, stored.digest)
            return show(row, datasets.accept_content(session, row, stored))

    what = await run_in_threadpool(ready)
    context, writer = await receive(request, held, who.tenant_id)
    try:
        body = await run_in_threadpool(keep, writer, what)
    finally:
        await run_in_threadpool(context.__exit__, None, None, None)
    return JSONResponse(body.model_dump(mode="json"), 202, accepted(f"/v1/datasets/{body.id}"))
