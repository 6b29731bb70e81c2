"""Models: register, read, and start jobs on them by hand."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app import events
from app.api import jobs as job_api
from app.api.http.conditional import IfMatchDep
from app.api.http.deps import (
    ANOTHER_JOB,
    BY_METHOD,
    CallerDep,
    IdempotentDep,
    PagerDep,
    PartsDep,
    Read,
    Write,
    accepted,
    problems,
)
from app.api.http.paging import Created, Page, matching
from app.api.http.patterns import ARCHITECTURE, reference
from app.api.http.transfer import receive, takes_file
from app.api.schemas import (
    ID_OR_NAME,
    AuditOffer,
    AuditPlan,
    BaseOut,
    JobOut,
    ModelCreate,
    ModelOut,
    Name,
    PoolOut,
    ReferencesBody,
    SeedBody,
    TrainBody,
)
from app.blobs import usage
from app.blobs.folder import Writer
from app.core.errors import Conflict, Unavailable, Unprocessable, UnsupportedMedia
from app.core.positions import mask_of
from app.core.tables import Dataset, Job, Model
from app.datasets import records as datasets
from app.datasets import samples
from app.deletions import planning
from app.formats import sandbox
from app.formats.manifest import SourceError
from app.models import bases, pools, versions
from app.models import records as models
from app.rules.audit_plan import plan
from app.rules.policy import Choice, Policy
from app.rules.states import JobKind

log = logging.getLogger("lethe.api")
NPZ = "application/x-npz"
router = APIRouter(prefix="/models", tags=["models"], dependencies=[BY_METHOD])
Architecture = Annotated[str, Field(pattern=ARCHITECTURE)]
ModelId = Annotated[
    str, Path(pattern=reference("mdl"), description="its id, or its name if no other model has the name")
]


def show(session: Session, model: Model) -> ModelOut:
    policy = Policy.model_validate(model.policy)
    return ModelOut(
        id=model.id,
        name=model.name,
        dataset=model.dataset_id,
        architecture=Choice(name=model.architecture, params=model.architecture_params),
        recipe=Choice(name=model.recipe, params=model.recipe_params),
        policy=policy,
        notes=models.notes(session, model, policy),
        input=models.input_of(model),
        base=BaseOut.model_validate(model.base) if model.base else None,
        device=model.device,
        current_version=model.current_version,
        blessed_version=model.blessed_version,
        created_at=model.created_at,
    )


def started(job: Job, session: Write, once: IdempotentDep) -> JSONResponse:
    return once.reply(202, job_api.show(session, job), accepted(f"/v1/jobs/{job.id}"))


@router.post("", status_code=201, response_model=ModelOut, responses=problems(403, 404))
def create(body: ModelCreate, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Register a classifier on a dataset: architecture, training recipe and unlearning policy."""
    base = None
    if body.base is not None:
        dataset = datasets.get(session, who.tenant_id, body.dataset)
        base = bases.describe(session, who.tenant_id, dataset, body.architecture, **body.base.model_dump())
    model = models.register(
        session,
        who.tenant_id,
        dataset_id=body.dataset,
        name=body.name,
        architecture=body.architecture,
        recipe=body.recipe,
        policy=body.policy,
        contract=body.input.contract(),
        base=base,
        device=body.device,
    )
    return once.reply(201, show(session, model), {"Location": f"/v1/models/{model.id}"})


@router.get("", responses=problems(403, 404, 409))
def list_all(
    who: CallerDep,
    session: Read,
    pager: PagerDep,
    created: Created,
    dataset: Annotated[Name | None, Query(description=ID_OR_NAME)] = None,
    architecture: Annotated[Architecture | None, Query()] = None,
) -> Page[ModelOut]:
    """The models, newest first."""
    query = created.of(select(Model).where(Model.tenant_id == who.tenant_id), Model.created_at)
    dataset = dataset and datasets.id_of(session, who.tenant_id, dataset)
    query = matching(query, {Model.dataset_id: dataset, Model.architecture: architecture})
    rows, token = pager.rows(session, query, Model.id)
    return Page(items=[show(session, row) for row in rows], next_page_token=token)


@router.get("/{model:noun}", responses=problems(403, 404))
def read(model: ModelId, who: CallerDep, session: Read) -> ModelOut:
    """One model with its policy."""
    return show(session, models.get(session, who.tenant_id, model))


@router.put("/{model}/policy", responses=problems(403, 404, 412))
def set_policy(model: ModelId, body: Policy, who: CallerDep, session: Write, seen: IfMatchDep) -> ModelOut:
    """Replace the policy. A running job keeps the one it began with; a rejected job may be retried under the new.

    `If-Match` means the model, whose document holds the policy.
    """
    row = models.get(session, who.tenant_id, model, lock=True)
    seen.check(show(session, row))
    models.require_possible(session.get_one(Dataset, row.dataset_id), body)
    row.policy = body.model_dump()
    models.note_needs(session, row)
    events.record(session, who.tenant_id, "model.policy-changed", row.id)
    return show(session, row)


@router.post(
    "/{model}:train",
    status_code=202,
    response_model=JobOut,
    responses=problems(403, 404, 409),
    dependencies=[ANOTHER_JOB],
)
def train(
    model: ModelId, who: CallerDep, session: Write, once: IdempotentDep, body: TrainBody = TrainBody()
) -> JSONResponse:
    """Train version 1, or a candidate beside the current version; or, with `exclude_request` and `compare_only`, an
    exact retrain to compare with."""
    row = models.get(session, who.tenant_id, model)
    job = models.start_training(
        session,
        row,
        seed=body.seed,
        exclude_request=body.exclude_request,
        compare_only=body.compare_only,
        promote=body.promote,
    )
    return started(job, session, once)


@router.post(
    "/{model}:references",
    status_code=202,
    response_model=JobOut,
    responses=problems(403, 404, 409),
    dependencies=[ANOTHER_JOB],
)
def references(
    model: ModelId, who: CallerDep, session: Write, once: IdempotentDep, body: ReferencesBody = ReferencesBody()
) -> JSONResponse:
    """Build the pool of reference models that audits of this dataset, architecture and recipe need; or take your own
    models for it, imported as versions."""
    row = models.get(session, who.tenant_id, model)
    params: dict[str, Any] = {"count": body.count, "design": body.design}
    if body.versions is not None:
        given = [versions.by_id(session, who.tenant_id, version) for version in body.versions]
        for version in given:
            versions.require_present(version)
            pools.require_reference(session, row, version)
        pools.require_left_out(session, row, given)
        params = {"versions": body.versions}
    job = models.start(session, row, JobKind.REFERENCES, seed=body.seed, params=params)
    return started(job, session, once)


@router.put(
    "/{model}/references",
    status_code=201,
    response_model=PoolOut,
    **takes_file(NPZ),
)
async def put_references(
    model: ModelId,
    request: Request,
    who: CallerDep,
    held: PartsDep,
    alike: Annotated[
        bool, Query(description="your word that they were trained as the model was: same architecture and recipe")
    ] = False,
) -> JSONResponse:
    """Send what your own reference models say, as an npz: `ids` (N), `membership` (references, N) bool, whether each
    was trained on the sample, and `log_odds` (references, N) of the true class, or `logits` (references, N, classes).

    Every sample needs a reference that left it out, and every reference some that it saw and some that it did not.
    Without `alike` they are evidence of the attack that has these models, and reports say so.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != NPZ:
        raise UnsupportedMedia(f"Send {NPZ}.")

    def ready() -> None:
        with held.database.read() as session:
            pools.require_ready(session, models.get(session, who.tenant_id, model))

    def keep(writer: Writer) -> PoolOut:
        try:
            said = sandbox.call("app.formats.reference_upload:describe", str(writer.path))
            with held.database.read() as session:
                row = models.get(session, who.tenant_id, model)
                dataset = session.get_one(Dataset, row.dataset_id)
                gone = mask_of(dataset.erased, dataset.sample_count)
                found = samples.resolve(session, held.settings, dataset, said["ids"], "/ids", gone, "erased")
                labels, _ = datasets.labels_of(session, dataset)
                images, size = dataset.images, dataset.sample_count
                if said["classes"] not in (0, dataset.class_count):
                    raise Unprocessable(
                        f"`logits` has {said['classes']} classes, and the dataset has {dataset.class_count}."
                    )
            with ExitStack() as files:
                paths = [files.enter_context(held.blobs.scratch(who.tenant_id)) for _ in range(said["references"])]
                where, true = found.tolist(), labels[found].tolist()
                targets = [str(path) for path in paths]
                sandbox.call("app.formats.reference_upload:write", str(writer.path), where, true, size, targets)
                stored = [held.blobs.adopt(path) for path in paths]
        except sandbox.SandboxError as error:
            log.warning("references could not be looked at: %s", error)
            raise Unavailable(f"Just now {error}. Send it again.", headers={"Retry-After": "60"}) from None
        except SourceError as error:
            raise Unprocessable(
                error.detail, kind="references-refused", errors=[{"detail": line} for line in error.errors]
            ) from None
        with ExitStack() as kept:
            for each in stored:
                kept.enter_context(usage.kept_only_if_recorded(held.database, held.blobs, each.digest))
            session = kept.enter_context(held.database.write())
            row = models.get(session, who.tenant_id, model, lock=True)
            if session.get_one(Dataset, row.dataset_id).images != images:
                raise Conflict("Samples were erased while this came in. Send it again.", kind="samples-erased")
            for each in stored:
                usage.pin(session, held.blobs, each.digest)
            design = pools.GIVEN if alike else pools.GIVEN_OTHER
            name = pools.given(session, row, [each.digest for each in stored], design)
        return PoolOut(pool=name, references=len(stored), samples=len(found), design=design)

    await run_in_threadpool(ready)
    context, writer = await receive(request, held, who.tenant_id)
    try:
        body = await run_in_threadpool(keep, writer)
    finally:
        await run_in_threadpool(context.__exit__, None, None, None)
    return JSONResponse(body.model_dump(mode="json"), 201)


@router.get("/{model}:audit-plan", responses=problems(403, 404))
def audit_plan(
    model: ModelId,
    who: CallerDep,
    session: Read,
    samples: Annotated[
        int | None, Query(ge=1, le=10_000_000, description="of the forget set to come; absent: what waits, or 1")
    ] = None,
    people: Annotated[
        int | None, Query(ge=1, le=10_000_000, description="whose they are, if they are requested by person")
    ] = None,
    margin: Annotated[float | None, Query(gt=0, lt=0.5, description="absent: the policy's")] = None,
) -> AuditPlan:
    """What each kind of audit would cost, and which margin it could pass, before anything is trained."""
    row = models.get(session, who.tenant_id, model)
    here = planning.situation(session, row, samples, people, margin)
    return AuditPlan(
        model=row.id,
        margin=here.margin,
        samples=here.samples,
        people=here.people,
        controls=here.controls,
        control_people=here.control_people,
        canaries_trained=here.canaries[0],
        canaries_held_out=here.canaries[1],
        training_seconds=here.training,
        signal=here.signal,
        offers=[AuditOffer(**vars(offer)) for offer in plan(here)],
    )


@router.post(
    "/{model}:precompute",
    status_code=202,
    response_model=JobOut,
    responses=problems(403, 404, 409),
    dependencies=[ANOTHER_JOB],
)
def precompute(
    model: ModelId, who: CallerDep, session: Write, once: IdempotentDep, body: SeedBody = SeedBody()
) -> JSONResponse:
    """Precompute adversarial examples of the whole training set on the current version (policy `precomputed`)."""
    row = models.get(session, who.tenant_id, model)
    return started(models.start(session, row, JobKind.PRECOMPUTE, seed=body.seed), session, once)
