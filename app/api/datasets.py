"""Datasets: register, send content, read."""

from __future__ import annotations

import io
import logging
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from app.api.http.deps import (
    BY_METHOD,
    ONE_TRANSFER,
    CallerDep,
    IdempotentDep,
    PagerDep,
    PartsDep,
    Read,
    Write,
    accepted,
    problems,
    require_another_job,
)
from app.api.http.paging import Created, Page, matching
from app.api.http.patterns import reference
from app.api.http.transfer import ANY_SIZE, receive
from app.api.schemas import CoinOut, DatasetCreate, DatasetOut, DatasetState, SampleOut
from app.blobs import usage
from app.blobs.folder import Writer
from app.core.errors import Conflict, Unavailable, Unprocessable, UnsupportedMedia
from app.core.positions import members
from app.core.tables import Dataset, Job, Sample
from app.datasets import canaries, coin
from app.datasets import records as datasets
from app.deletions import carried
from app.formats import sandbox, uploads
from app.formats.manifest import ERASED_PREFIX, SourceError
from app.rules.policy import Choice

log = logging.getLogger("lethe.api")
router = APIRouter(prefix="/datasets", tags=["datasets"], dependencies=[BY_METHOD])
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


@router.post("", status_code=202, response_model=DatasetOut, responses=problems(403, 404, 409))
def create(body: DatasetCreate, who: CallerDep, held: PartsDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Register a dataset. A built-in source is taken in at once; `upload` waits for its content; of `external` data
    nothing is ever sent but what deletions carry (`carried_for`)."""
    job = None
    if body.carried_for is not None:
        dataset = carried.register(session, who.tenant_id, body.name, body.source, body.carried_for)
    else:
        require_another_job(session, held.settings, who.tenant_id)
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


@router.get("/{dataset}", responses=problems(403, 404))
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
        Sample.dataset_id == row.id, ~Sample.sample_id.startswith(ERASED_PREFIX, autoescape=True)
    )
    if split is not None:
        query = query.where(Sample.holdout == (split == "holdout"))
    rows, token = pager.rows_by_number(session, query, Sample.position)
    items = [SampleOut(id=s.sample_id, label=s.label, split="holdout" if s.holdout else "train") for s in rows]
    return Page(items=items, next_page_token=token)


NPZ = "application/x-npz"


@router.get(
    "/{dataset}/canaries",
    response_class=Response,
    responses={
        200: {
            "content": {NPZ: {"schema": {"type": "string", "format": "binary"}}},
            "description": "arrays `images` (N, H, W, C) uint8, `labels` and `ids`",
        },
        **problems(403, 404, 409),
    },
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
        digest = row.images
    if not len(planted):
        raise Conflict("No sample of this dataset has the subject `lethe:canary`.", kind="no-canaries")
    images = np.load(held.blobs.fetch(digest), mmap_mode="r", allow_pickle=False)
    file = io.BytesIO()
    np.savez(
        file,
        images=images[[position for position, *_ in trained]],
        labels=np.array([label for *_, label in trained], dtype=np.int64),
        ids=np.array([name for _, name, _ in trained], dtype=np.str_),
    )
    headers = {"Content-Disposition": f'attachment; filename="{row.id}-canaries.npz"'}
    return Response(file.getvalue(), 200, headers, NPZ)


@router.put(
    "/{dataset}/content",
    status_code=202,
    response_model=DatasetOut,
    responses=problems(403, 404, 409, 415, 507),
    max_body_size=ANY_SIZE,
    dependencies=[ONE_TRANSFER],
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {form: {"schema": {"type": "string", "format": "binary"}} for form in uploads.FORMS},
        }
    },
)
async def put_content(dataset: DatasetId, request: Request, who: CallerDep, held: PartsDep) -> JSONResponse:
    """Stream the content in, in the form that the Content-Type names.

    - `application/vnd.apache.parquet`: columns `id`, `image`, `label` and, optionally, `split` and `subject`.
    - `application/x-npz`: arrays `images` (N, H, W[, C]) uint8, `labels`, `ids` and, optionally, `holdout` (bool) and
      `subject`; no pickled objects.
    - `application/zip`: an image folder, `train/<class>/<name>.png` and `holdout/<class>/…` or `test/<class>/…`. A
      sample's id is its path, its label the place of its class among the folders of train, sorted, or among the
      source's `class_names`. Where all members end in `.npy` it is an npz.

    The form, ids, labels and an archive's directory are checked before the reply; images are decoded by the ingest
    job.
    """
    forms = uploads.FORMS.get(request.headers.get("content-type", "").partition(";")[0].strip().lower())
    if forms is None:
        raise UnsupportedMedia(f"Send one of: {', '.join(uploads.FORMS)}.")

    def ready() -> list[str] | None:
        with held.database.read() as session:
            row = datasets.get(session, who.tenant_id, dataset)
            datasets.require_awaiting(row)
            return row.source_params.get("class_names")

    def keep(writer: Writer, class_names: list[str] | None) -> DatasetOut:
        try:
            sandbox.call("app.formats.uploads:refuse_unfit", str(writer.path), class_names, forms)
        except sandbox.SandboxError as error:
            log.warning("an upload could not be looked at: %s", error)
            raise Unavailable("The content could not be looked at just now. Send it again.") from None
        except SourceError as error:
            raise Unprocessable(
                error.detail, kind="dataset-content", errors=[{"detail": line} for line in error.errors]
            ) from None
        stored = writer.commit()
        recorded = usage.kept_only_if_recorded(held.database, held.blobs, stored.digest)
        with recorded, held.database.write() as session:
            row = datasets.get(session, who.tenant_id, dataset, lock=True)
            usage.pin(session, held.blobs, stored.digest)
            return show(row, datasets.accept_content(session, row, stored))

    class_names = await run_in_threadpool(ready)
    context, writer = await receive(request, held, who.tenant_id)
    try:
        body = await run_in_threadpool(keep, writer, class_names)
    finally:
        await run_in_threadpool(context.__exit__, None, None, None)
    return JSONResponse(body.model_dump(mode="json"), 202, accepted(f"/v1/datasets/{body.id}"))
