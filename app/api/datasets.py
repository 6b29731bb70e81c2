"""Datasets: register, send content, read."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from app import datasets, erasure, uploads
from app.api.deps import BY_METHOD, CallerDep, IdempotentDep, PagerDep, PartsDep, Read, Write, accepted, problems
from app.api.paging import Page
from app.api.schemas import DatasetCreate, DatasetOut, SampleOut, id_pattern
from app.api.transfer import ANY_SIZE, receive
from app.errors import Unprocessable, UnsupportedMedia
from app.policy import Choice
from app.positions import members
from app.storage import Writer
from app.tables import Dataset, Job, Sample

router = APIRouter(prefix="/datasets", tags=["datasets"], dependencies=[BY_METHOD])
DatasetId = Annotated[str, Path(pattern=id_pattern("dst"))]
FORMS = {"application/vnd.apache.parquet": "parquet"}


def show(dataset: Dataset, job: Job | None = None) -> DatasetOut:
    return DatasetOut(
        id=dataset.id,
        name=dataset.name,
        source=Choice(name=dataset.source, params=dataset.source_params),
        state=dataset.state,
        samples=dataset.sample_count,
        train_samples=dataset.train_count,
        classes=dataset.class_count,
        shape=dataset.shape,
        erased_samples=len(members(dataset.erased, dataset.sample_count)),
        job=job.id if job else None,
        problem=dataset.problem,
        created_at=dataset.created_at,
    )


@router.post("", status_code=202, response_model=DatasetOut, responses=problems(403))
def create(body: DatasetCreate, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Register a dataset. A built-in source is taken in at once; `upload` waits for its content."""
    dataset, job = datasets.register(session, who.tenant_id, body.name, body.source)
    return once.reply(202, show(dataset, job), accepted(f"/v1/datasets/{dataset.id}"))


@router.get("", responses=problems(403))
def list_all(who: CallerDep, session: Read, pager: PagerDep) -> Page[DatasetOut]:
    """The datasets, newest first."""
    rows, token = pager.rows(session, select(Dataset).where(Dataset.tenant_id == who.tenant_id), Dataset.id)
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
        Sample.dataset_id == row.id, ~Sample.sample_id.startswith(uploads.ERASED_PREFIX, autoescape=True)
    )
    if split is not None:
        query = query.where(Sample.holdout == (split == "holdout"))
    rows, token = pager.rows_by_number(session, query, Sample.position)
    items = [SampleOut(id=s.sample_id, label=s.label, split="holdout" if s.holdout else "train") for s in rows]
    return Page(items=items, next_page_token=token)


@router.put(
    "/{dataset}/content",
    status_code=202,
    response_model=DatasetOut,
    responses=problems(403, 404, 409, 413, 415),
    max_body_size=ANY_SIZE,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {form: {"schema": {"type": "string", "format": "binary"}} for form in FORMS},
        }
    },
)
async def put_content(dataset: DatasetId, request: Request, who: CallerDep, held: PartsDep) -> JSONResponse:
    """Stream the content in: Parquet with columns `id`, `image`, `label` and, optionally, `split` and `subject`.

    Columns and ids are checked before the reply; images are decoded by the ingest job.
    """
    form = FORMS.get(request.headers.get("content-type", "").partition(";")[0].strip().lower())
    if form is None:
        raise UnsupportedMedia(f"Send one of: {', '.join(FORMS)}.")

    def ready() -> None:
        with held.database.read() as session:
            datasets.require_awaiting(datasets.get(session, who.tenant_id, dataset))

    def keep(writer: Writer) -> DatasetOut:
        try:
            uploads.check_parquet(writer.path)
        except uploads.SourceError as error:
            raise Unprocessable(
                error.detail, kind="dataset-content", errors=[{"detail": line} for line in error.errors]
            ) from None
        stored = writer.commit()
        with held.database.write() as session:
            row = datasets.get(session, who.tenant_id, dataset, lock=True)
            erasure.pin(session, held.blobs, stored.digest)
            return show(row, datasets.accept_content(session, row, stored, form))

    await run_in_threadpool(ready)
    context, writer = await receive(request, held.blobs, held.settings.max_upload_bytes)
    try:
        body = await run_in_threadpool(keep, writer)
    finally:
        await run_in_threadpool(context.__exit__, None, None, None)
    return JSONResponse(body.model_dump(mode="json"), 202, accepted(f"/v1/datasets/{dataset}"))
