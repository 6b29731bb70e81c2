"""Models: register, read, and start jobs on them by hand."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import events
from app.api import jobs as job_api
from app.api.http.conditional import IfMatchDep
from app.api.http.deps import (
    ANOTHER_JOB,
    BY_METHOD,
    CallerDep,
    IdempotentDep,
    PagerDep,
    Read,
    Write,
    accepted,
    problems,
)
from app.api.http.paging import Created, Page, matching
from app.api.http.patterns import ARCHITECTURE, reference
from app.api.schemas import (
    ID_OR_NAME,
    BaseOut,
    JobOut,
    ModelCreate,
    ModelOut,
    Name,
    ReferencesBody,
    SeedBody,
    TrainBody,
)
from app.core.tables import Dataset, Job, Model
from app.datasets import records as datasets
from app.models import bases
from app.models import records as models
from app.rules.policy import Choice, Policy
from app.rules.states import JobKind

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
    """Build the pool of reference models that audits of this dataset, architecture and recipe need."""
    row = models.get(session, who.tenant_id, model)
    job = models.start(session, row, JobKind.REFERENCES, seed=body.seed, params={"count": body.count})
    return started(job, session, once)


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
