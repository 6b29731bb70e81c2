"""Shards of a dataset: several files, sent one after the other, each resumable, and closed."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from app.api import datasets as dataset_replies
from app.api.datasets import ALL_TYPES, DatasetId, Expected, content_type_of, expected, look_at
from app.api.http.deps import (
    BY_METHOD,
    CallerDep,
    IdempotencyKey,
    IdempotentDep,
    PartsDep,
    Read,
    Write,
    accepted,
    problems,
)
from app.api.http.paging import Page
from app.api.http.transfer import receive, takes_file
from app.api.schemas import DatasetClose, DatasetOut, ShardOut, ShardReuse, ShardSplit
from app.blobs import usage
from app.blobs.folder import Writer
from app.core.errors import Unprocessable
from app.datasets import records as datasets
from app.datasets import shards

router = APIRouter(prefix="/datasets", tags=["datasets"], dependencies=[BY_METHOD])
Number = Annotated[int, Path(ge=0, lt=shards.MOST_SHARDS, description="from 0 on, in the order of the dataset")]
COPIED_AT_ONCE = 2**22  # bytes


def show(shard: shards.Received) -> ShardOut:
    return ShardOut(
        number=shard.number,
        content_type=shard.content_type,
        split=shard.split,
        size=shard.size,
        whole=shard.digest is not None,
        digest=shard.digest,
        samples=shard.samples,
    )


@router.get("/{dataset}/shards", responses=problems(403, 404))
def list_shards(dataset: DatasetId, who: CallerDep, session: Read) -> Page[ShardOut]:
    """What has come of each shard, all on one page. To resume one, go on at its `size`."""
    row = datasets.get(session, who.tenant_id, dataset)
    return Page(items=[show(shard) for shard in shards.received(session, row.id)], next_page_token=None)


@router.put(
    "/{dataset}/shards/{number}",
    response_model=ShardOut,
    **takes_file(*ALL_TYPES),
)
async def put_shard(
    dataset: DatasetId,
    number: Number,
    request: Request,
    who: CallerDep,
    held: PartsDep,
    split: Annotated[ShardSplit | None, Query(description="of all its samples, if the file names none")] = None,
    upload_offset: Annotated[int, Header(ge=0, lt=2**62, description="bytes that have come before")] = 0,
    upload_complete: Annotated[Literal["?0", "?1"], Header(description="`?0`: more of it follows")] = "?1",
) -> JSONResponse:
    """Send a shard, or go on with one.

    What came before a connection broke is kept: `GET …/shards` says how much, and the next request sends the rest with
    that `Upload-Offset`. A shard that is whole is checked like `content`; if it is refused, nothing of it is kept.
    """
    content_type = content_type_of(request)

    def ready() -> Expected:
        with held.database.read() as session:
            row = datasets.get(session, who.tenant_id, dataset)
            shards.require_next(session, row, number, upload_offset)
            return expected(held.settings, row, content_type)

    def keep(writer: Writer, what: Expected, whole: bool) -> ShardOut:
        with ExitStack() as stack:
            if whole and upload_offset:
                writer = _put_together(writer, upload_offset, stack)
            samples = None
            if whole:
                try:
                    samples = look_at(writer.path, what, split, alone=False)
                except Unprocessable:
                    _forget()
                    raise
            stored = writer.commit()
            recorded = usage.kept_only_if_recorded(held.database, held.blobs, stored.digest)
            with recorded, held.database.write() as session:
                row = datasets.get(session, who.tenant_id, dataset, lock=True)
                shards.require_next(session, row, number, upload_offset)
                usage.pin(session, held.blobs, stored.digest)
                gone = shards.keep(session, row, number, upload_offset, stored, content_type, split, samples)
                [found] = shards.received(session, row.id, number)
            for digest in gone:
                usage.remove(held.database, held.blobs, digest)
            return show(found)

    def _put_together(rest: Writer, offset: int, stack: ExitStack) -> Writer:
        with held.database.read() as session:
            row = datasets.get(session, who.tenant_id, dataset)
            pieces = [(piece.blob or "", piece.size) for piece in shards.require_next(session, row, number, offset)]
        whole = stack.enter_context(held.blobs.writer(offset + rest.size, who.tenant_id))
        for digest, size in pieces:
            for part in held.blobs.read(digest, 0, size):
                whole.write(part)
        with rest.path.open("rb") as file:
            while part := file.read(COPIED_AT_ONCE):
                whole.write(part)
        return whole

    def _forget() -> None:
        with held.database.write() as session:
            row = datasets.get(session, who.tenant_id, dataset, lock=True)
            gone = shards.drop(session, row, number)
        for digest in gone:
            usage.remove(held.database, held.blobs, digest)

    what = await run_in_threadpool(ready)
    context, writer = await receive(request, held, who.tenant_id, whole=False)
    try:
        whole = upload_complete == "?1" and not getattr(request.state, "broken_off", False)
        body = await run_in_threadpool(keep, writer, what, whole)
    finally:
        await run_in_threadpool(context.__exit__, None, None, None)
    return JSONResponse(body.model_dump(mode="json"))


@router.post("/{dataset}/shards/{number}:reuse", response_model=ShardOut, responses=problems(403, 404, 409))
def reuse_shard(
    dataset: DatasetId,
    number: Number,
    body: ShardReuse,
    who: CallerDep,
    held: PartsDep,
    _: IdempotencyKey = None,  # the same again gives the same
) -> ShardOut:
    """Take a shard from another dataset of yours that has it, so that it is not sent twice. Its samples keep ids,
    labels, subjects and splits; what was erased or is requested is left out. Without one that has it, sent with the
    same `split`: 404."""
    with held.database.write() as session:
        row = datasets.get(session, who.tenant_id, dataset, lock=True)
        gone = shards.reuse(session, row, number, body.digest, body.split)
        [found] = shards.received(session, row.id, number)
    for digest in gone:
        usage.remove(held.database, held.blobs, digest)
    return show(found)


@router.delete("/{dataset}/shards/{number}", status_code=204, responses=problems(403, 404, 409))
def delete_shard(dataset: DatasetId, number: Number, who: CallerDep, held: PartsDep) -> Response:
    """Remove a shard, or what has come of it, from a dataset that is not closed."""
    with held.database.write() as session:
        row = datasets.get(session, who.tenant_id, dataset, lock=True)
        gone = shards.remove(session, row, number)
    for digest in gone:
        usage.remove(held.database, held.blobs, digest)
    return Response(status_code=204)


@router.post("/{dataset}:close", status_code=202, response_model=DatasetOut, responses=problems(403, 404, 409))
def close(dataset: DatasetId, body: DatasetClose, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """No shard follows: take the dataset in. `shards` says how many there are, so that none is missed in silence."""
    row = datasets.get(session, who.tenant_id, dataset, lock=True)
    job = shards.close(session, row, body.shards)
    return once.reply(202, dataset_replies.show(row, job), accepted(f"/v1/datasets/{row.id}"))
