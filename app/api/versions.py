"""Versions of a model: lineage, checkpoint transfer, audit report."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app import events
from app.api import jobs as job_api
from app.api.http import audit_replies
from app.api.http.deps import (
    BY_METHOD,
    ONE_TRANSFER,
    CallerDep,
    IdempotentDep,
    PagerDep,
    Parts,
    PartsDep,
    Read,
    Write,
    accepted,
    problems,
)
from app.api.http.paging import Created, Page, matching
from app.api.http.patterns import id_pattern
from app.api.http.transfer import FILE, download, receive, takes_file
from app.api.models import ModelId
from app.api.schemas import JobOut, Origin, SignatureOut, SignBody, Stated, VersionCreate, VersionOut
from app.blobs import usage
from app.blobs.folder import Writer
from app.cases import recall
from app.core import keys
from app.core.errors import Conflict, Unprocessable, UnsupportedMedia
from app.core.positions import mask_of
from app.core.tables import Dataset, Model, Version
from app.datasets import samples
from app.datasets.records import get as get_dataset
from app.datasets.records import is_held
from app.formats.checkpoint_header import CheckpointError, read_header
from app.models import records as models
from app.models import versions
from app.releases import export, imports, signatures
from app.releases.export import Form
from app.rules.states import VersionState

router = APIRouter(prefix="/models/{model}/versions", tags=["versions"], dependencies=[BY_METHOD])
by_id = APIRouter(prefix="/versions", tags=["versions"], dependencies=[BY_METHOD])
Number = Annotated[int, Path(ge=1, lt=2**31)]
Reason = Annotated[
    str | None, Query(min_length=1, max_length=500, description="why a withheld version is fetched; needs `admin`")
]
SAFETENSORS = "application/vnd.safetensors"
BINARY = (SAFETENSORS, "application/octet-stream")
ZIP = "application/zip"


def show(version: Version) -> VersionOut:
    return VersionOut(
        id=version.id,
        model=version.model_id,
        number=version.number,
        state=version.state,
        origin=version.origin,
        parent=version.parent,
        digest=version.digest,
        size=version.size,
        trained_samples=version.trained_count,
        metrics=version.metrics,
        job=version.job_id,
        created_at=version.created_at,
        purge_after=version.purge_after,
        purged_at=version.purged_at,
    )


@router.get("", responses=problems(403, 404))
def list_all(
    model: ModelId,
    who: CallerDep,
    session: Read,
    pager: PagerDep,
    created: Created,
    state: Annotated[VersionState | None, Query()] = None,
    origin: Annotated[Origin | None, Query()] = None,
) -> Page[VersionOut]:
    """The versions of the model, newest first."""
    row = models.get(session, who.tenant_id, model)
    query = created.of(select(Version).where(Version.model_id == row.id), Version.created_at)
    query = matching(query, {Version.state: state, Version.origin: origin})
    rows, token = pager.rows(session, query, Version.id)
    return Page(items=[show(version) for version in rows], next_page_token=token)


@router.post("", status_code=201, response_model=VersionOut, responses=problems(403, 404, 409))
def announce(
    model: ModelId, body: VersionCreate, who: CallerDep, held: PartsDep, session: Write, once: IdempotentDep
) -> JSONResponse:
    """Announce a checkpoint trained elsewhere; then send it with `PUT …/versions/{n}/checkpoint`."""
    row = models.get(session, who.tenant_id, model)
    dataset = get_dataset(session, who.tenant_id, row.dataset_id, lock=True)
    session.refresh(row, with_for_update=True)  # after the dataset: the order in which requests lock
    if dataset.state != "ready":
        raise Conflict("The model's dataset is not ready yet.", kind="dataset-not-ready")
    if (body.trained_on == "not-held") == is_held(dataset):
        raise Unprocessable("`trained_on` is `not-held` for a dataset of source `external`, and for no other.")
    if body.trained_on in ("train-split", "not-held"):
        positions = versions.train_split(session, dataset)
    else:
        positions = samples.resolve(session, held.settings, dataset, body.trained_on, "/trained_on")
    stated = _stated(session, held, row, dataset, body.stated) if body.stated else None
    version = imports.declare_import(session, row, body.digest, positions, stated)
    return once.reply(201, show(version), {"Location": f"/v1/models/{row.id}/versions/{version.number}"})


def _stated(session: Session, held: Parts, model: Model, dataset: Dataset, stated: Stated) -> dict[str, Any]:
    """What was stated, by position instead of by id, and logits in the order of the dataset's labels."""
    if not is_held(dataset):
        raise Unprocessable("Nothing can be measured on data that are not held here; leave `stated` out.")
    if stated.sample_ids is None and dataset.train_count == dataset.sample_count:
        raise Unprocessable("The dataset has no holdout: name in `sample_ids` the samples that you measured.")
    found = stated.model_dump(exclude={"sample_ids"}, exclude_none=True)
    if stated.sample_ids is not None:
        gone = mask_of(dataset.erased, dataset.sample_count)
        positions = samples.resolve(
            session, held.settings, dataset, stated.sample_ids, "/stated/sample_ids", gone, "erased"
        )
        found["positions"] = positions.tolist()
    if stated.logits is not None:
        if len(stated.logits[0]) != dataset.class_count:
            raise Unprocessable(
                f"Each row of `logits` has {len(stated.logits[0])} numbers, and the dataset has {dataset.class_count} "
                "classes."
            )
        order = models.input_of(model).order(dataset.class_names, dataset.class_count)
        if order is not None:
            found["logits"] = [[row[output] for output in order] for row in stated.logits]
    return found


@router.get("/{number:noun}", responses=problems(403, 404))
def read(model: ModelId, number: Number, who: CallerDep, session: Read) -> VersionOut:
    """One version."""
    return show(versions.get(session, models.get(session, who.tenant_id, model), number))


@by_id.get("/{version}", responses=problems(403, 404))
def read_by_id(version: Annotated[str, Path(pattern=id_pattern("ver"))], who: CallerDep, session: Read) -> VersionOut:
    """The version that an event or a webhook names."""
    return show(versions.by_id(session, who.tenant_id, version))


@router.put(
    "/{number}/checkpoint",
    status_code=202,
    response_model=JobOut,
    **takes_file(*BINARY),
)
async def put_checkpoint(
    model: ModelId, number: Number, request: Request, who: CallerDep, held: PartsDep
) -> JSONResponse:
    """Stream the announced safetensors file in. Its digest and header are checked before the reply; the import
    job holds names, shapes and values against the architecture and publishes the version."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in BINARY:
        raise UnsupportedMedia(f"Send one of: {', '.join(BINARY)}.")

    def ready() -> str:
        with held.database.read() as session:
            row = models.get(session, who.tenant_id, model)
            version = versions.get(session, row, number)
            imports.require_awaiting(session, row, version)
            return version.digest

    def keep(writer: Writer, announced: str) -> JobOut:
        try:
            with writer.path.open("rb") as file:
                read_header(file)
        except CheckpointError as error:
            raise Unprocessable(str(error), kind="checkpoint-refused") from None
        if writer.digest != announced:
            raise Unprocessable("The bytes do not have the announced digest.", kind="digest-mismatch")
        stored = writer.commit()
        recorded = usage.kept_only_if_recorded(held.database, held.blobs, stored.digest)
        with recorded, held.database.write() as session:
            row = models.get(session, who.tenant_id, model, lock=True)
            usage.pin(session, held.blobs, stored.digest)
            job = imports.accept_checkpoint(session, row, versions.get(session, row, number), stored)
            return job_api.show(session, job)

    digest = await run_in_threadpool(ready)
    context, writer = await receive(request, held, who.tenant_id)
    try:
        body = await run_in_threadpool(keep, writer, digest)
    finally:
        await run_in_threadpool(context.__exit__, None, None, None)
    return JSONResponse(body.model_dump(mode="json"), 202, accepted(f"/v1/jobs/{body.id}"))


CHECKPOINT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {SAFETENSORS: {"schema": FILE}}, "description": "the safetensors file"},
    206: {"content": {SAFETENSORS: {"schema": FILE}}, "description": "the range asked for"},
    304: {"description": "unchanged"},
    **problems(403, 404, 409, 410, 416),
}


@router.head("/{number}/checkpoint", include_in_schema=False)
@router.get(
    "/{number}/checkpoint", response_class=Response, responses=CHECKPOINT_RESPONSES, dependencies=[ONE_TRANSFER]
)
def get_checkpoint(
    model: ModelId,
    number: Number,
    request: Request,
    who: CallerDep,
    held: PartsDep,
    reason: Reason = None,
) -> Response:
    """Download: strong ETag, `Range`, `If-None-Match`, `Repr-Digest`; 410 once purged.

    A version that is not current and holds what was deleted since is withheld (409). A key with the scope `admin` gets
    it with a `reason`. The log has the download; the reason, which may name people, is beside it.
    """
    if reason is not None:
        keys.require(who, "admin")
    with held.database.read() as session:
        row = models.get(session, who.tenant_id, model)
        version = versions.get(session, row, number)
        versions.require_released(session, row, version, by_admin=reason is not None)
        withheld = versions.kept_back(session, version)
    response = download(request, held.blobs, version.digest, f"{row.id}-v{number}.safetensors", SAFETENSORS)
    sends = request.method == "GET" and response.status_code in (200, 206)
    if sends or withheld:  # before the first byte goes, and once the bytes are known to be there
        with held.database.write(who.key_id) as session:
            if sends:
                recall.record_download(session, version, who.key_id, "checkpoint", reason if withheld else None)
            if withheld:
                data = {"key": who.key_id, "digest": version.digest}
                events.record(session, who.tenant_id, "version.withheld-download", version.id, **data)
    return response


@router.get(
    "/{number}/export",
    response_class=Response,
    responses={
        200: {"content": {ZIP: {"schema": FILE}}, "description": "a zip of the folder"},
        **problems(403, 404, 409, 410),
    },
)
def export_folder(
    model: ModelId, number: Number, who: CallerDep, held: PartsDep, form: Annotated[Form, Query()] = "plain"
) -> Response:
    """The version as a folder that its library loads: `hugging-face` (models of transformers and timm) has
    `config.json`, weights and preprocessing; `plain` has weights and the code that loads them. A card is in both."""
    with held.database.write(who.key_id) as session:
        row = models.get(session, who.tenant_id, model)
        version = versions.get(session, row, number)
        versions.require_released(session, row, version)
        recall.record_download(session, version, who.key_id, form)
        found = export.folder(session, held.blobs, row, version, form)
        signatures.put_in(session, version, form, found)
    name = f"{row.id}-v{number}-{form}.zip"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(export.write(found, held.blobs), 200, headers, ZIP)


@router.post("/{number}:sign", status_code=202, response_model=VersionOut, responses=problems(403, 404, 409, 410))
def sign(
    model: ModelId,
    number: Number,
    body: SignBody,
    who: CallerDep,
    held: PartsDep,
    session: Write,
    once: IdempotentDep,
) -> JSONResponse:
    """Have the exported folder signed (OpenSSF Model Signing); `GET …/signature` has it within seconds, and the export
    brings it along as `model.sig`."""
    row = models.get(session, who.tenant_id, model)
    version = versions.get(session, row, number)
    signatures.ask(session, held.blobs, row, version, body.form)
    return once.reply(202, show(version), accepted(f"/v1/models/{row.id}/versions/{number}/signature"))


@router.get("/{number}/signature", responses=problems(403, 404, 409))
def read_signature(
    model: ModelId, number: Number, who: CallerDep, session: Read, form: Annotated[Form, Query()] = "plain"
) -> SignatureOut:
    """The signature of the exported folder, and the public key."""
    version = versions.get(session, models.get(session, who.tenant_id, model), number)
    row = signatures.get(session, version, form)
    return SignatureOut(bundle=json.loads(row.bundle or "{}"), public_key=row.public_key or "", files=row.files)


@router.get(
    "/{number}/audit",
    response_model=None,
    responses={
        200: {
            "description": "the report: JSON, or a self-contained page by `Accept: text/html`",
            "model": audit_replies.AuditDocument,
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
        **problems(403, 404),
    },
)
def get_audit(model: ModelId, number: Number, request: Request, who: CallerDep, session: Read) -> Response:
    """The report that a version was published with, or else its newest; an exact retrain beside it where there is."""
    row = models.get(session, who.tenant_id, model)
    found = audit_replies.find(session, versions.get(session, row, number))
    return audit_replies.answer(request, found, row.name)
