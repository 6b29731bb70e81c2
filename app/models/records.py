"""Models: a classifier's registration, and the jobs a client can start on it by hand."""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import catalog, events, jobs
from app.core import db
from app.core.errors import Conflict, NotFound, Unprocessable
from app.core.ids import is_id, new_id
from app.core.tables import Dataset, DeletionRequest, Job, Model
from app.datasets import canaries
from app.datasets import records as datasets
from app.formats.input_contract import ContractError, InputContract
from app.jobs import routing
from app.rules import plugins
from app.rules.policy import BatchRule, Choice, Policy
from app.rules.states import JobKind, JobState


def get(session: Session, tenant_id: str, model_id: str, *, lock: bool = False) -> Model:
    """The tenant's model of that id, or of that name.

    With `lock` its dataset's row is locked before it: everybody takes them in that order.
    """
    query = select(Model).where(Model.tenant_id == tenant_id, Model.id == model_id)
    model = session.scalars(query).first() or _named(session, tenant_id, model_id)
    if model is None:
        raise NotFound("There is no such model.")
    if lock:
        session.execute(select(Dataset.id).where(Dataset.id == model.dataset_id).with_for_update())
        session.refresh(model, with_for_update=True)
    return model


def _named(session: Session, tenant_id: str, name: str) -> Model | None:
    """The one model of that name; purged ones have lost theirs to the others.

    Raises:
        Conflict: several have it.
    """
    found = session.scalars(
        select(Model).where(Model.tenant_id == tenant_id, Model.name == name, Model.purged_at.is_(None)).limit(6)
    ).all()
    if len(found) > 1:
        raise Conflict(f"Several models have this name: {', '.join(model.id for model in found)}.", kind="name-shared")
    return found[0] if found else None


def id_of(session: Session, tenant_id: str, model: str) -> str:
    """The id that an id or a name stands for. An id is not looked up.

    Raises:
        NotFound, Conflict: no model has the name, or several have it.
    """
    return model if is_id("mdl", model) else get(session, tenant_id, model).id


def register(
    session: Session,
    tenant_id: str,
    *,
    dataset_id: str,
    name: str,
    architecture: Choice,
    recipe: Choice,
    policy: Policy,
    contract: InputContract | None = None,
    base: dict[str, Any] | None = None,
    device: str | None = None,
) -> Model:
    dataset = datasets.get(session, tenant_id, dataset_id)
    if recipe.name == "linear_probe" and base is None:
        raise Unprocessable(
            "A linear probe needs `base`: features of random weights say nothing. Send the model whose version it "
            "starts from.",
            kind="base-missing",
        )
    if dataset.carried_for is not None:
        raise Conflict("This dataset is carried for one model, and goes with its deletion.", kind="carried-dataset")
    require_possible(dataset, policy)
    contract = contract or InputContract()
    require_fits(dataset, contract)
    model = Model(
        id=new_id("mdl"),
        tenant_id=tenant_id,
        dataset_id=dataset.id,
        name=name,
        architecture=architecture.name,
        architecture_params=architecture.params,
        recipe=recipe.name,
        recipe_params=recipe.params,
        policy=policy.model_dump(),
        input=None if contract == InputContract() else contract.model_dump(mode="json"),
        base=base,
        device=device,
        created_at=db.now(session),
    )
    session.add(model)
    session.flush()
    note_needs(session, model)
    events.record(session, tenant_id, "model.registered", model.id, dataset=dataset.id)
    return model


def note_needs(session: Session, model: Model) -> None:
    """Keep the model's jobs from workers that lack a plug-in or a library that it or its policy names."""
    choices = [("architectures", model.architecture), ("recipes", model.recipe)]
    choices += plugins.of_policy(Policy.model_validate(model.policy))
    routing.require(session, model.id, plugins.needed(choices))


def input_of(model: Model) -> InputContract:
    """The model's input contract; of a model of before there were contracts, that of images as they are."""
    return InputContract.model_validate(model.input or {})


def require_fits(dataset: Dataset, contract: InputContract) -> None:
    """Refuse a contract that cannot be of a network for the dataset. Of one that is not ready, its jobs say so.

    Raises:
        Unprocessable: says what does not fit.
    """
    if dataset.state != "ready" or dataset.shape is None:
        return
    try:
        contract.pixels_of(dataset.shape)
        contract.order(dataset.class_names, dataset.class_count)
    except ContractError as error:
        raise Unprocessable(str(error), kind="input-contract") from None


def family(model: Model) -> str:
    """Names every reference pool that audits of this dataset, architecture, recipe and input may use."""
    architecture = catalog.parse("architectures", model.architecture, model.architecture_params)
    recipe = catalog.parse("recipes", model.recipe, model.recipe_params)
    chosen = ((model.architecture, architecture), (model.recipe, recipe))
    parts = [model.dataset_id, *(f"{name}:{params.model_dump_json()}" for name, params in chosen)]
    contract = input_of(model)
    if not contract.plain:  # named only where there is one, so that pools of before still fit
        parts.append(f"input:{contract.model_dump_json(exclude={'class_names'})}")
    if model.base:
        parts.append(f"base:{model.base['digest']}")
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()


NO_CANARIES = "The policy asks for canaries, and the dataset has none: no sample of it has the subject `lethe:canary`."
NOT_HELD = (
    "This service does not hold the model's training data. So there is no last step (exact retraining), no reference "
    "models can be trained, every audit is inconclusive (no references), and each deletion brings its own samples."
)


def require_possible(dataset: Dataset, policy: Policy) -> None:
    """Refuse a policy that needs data which this service does not hold.

    Raises:
        Unprocessable: says which part of the policy, and why.
    """
    if datasets.is_held(dataset):
        return
    needs = []
    if policy.remain != "none":
        needs.append(f"`remain: {policy.remain}` gives access to the remain set; send `none`")
    if isinstance(policy.when, BatchRule):
        needs.append("`when: batch` joins requests, and each brings data of its own; send `each`")
    if policy.adversarial == "precomputed":
        needs.append("`adversarial: precomputed` needs the training set; send `recompute`")
    if catalog.ATTACKS[policy.attack.name].needs_given:
        needs.append(f"attack {policy.attack.name} takes an adversarial set made of the training set")
    if policy.on_inconclusive == "retrain":
        needs.append("`on_inconclusive: retrain` needs the training set; send `publish`")
    if policy.canaries:
        needs.append("canaries are samples of the training set; send `canaries: 0`")
    if needs:
        raise Unprocessable(
            f"This service does not hold the model's training data: {'; '.join(needs)}.",
            kind="data-not-held",
        )


def notes(session: Session, model: Model, policy: Policy) -> list[str]:
    """What an owner should know of this model's setting before it is needed."""
    dataset = session.get_one(Dataset, model.dataset_id)
    if not datasets.is_held(dataset):
        return [NOT_HELD]
    lacking = policy.canaries and dataset.state == "ready" and not len(canaries.planted(session, dataset))
    return [*policy.notes, NO_CANARIES] if lacking else policy.notes


def refuse_purged(model: Model) -> None:
    if model.purged_at is not None:
        raise Conflict("This model was purged.", kind="model-purged")


def start(
    session: Session,
    model: Model,
    kind: JobKind,
    *,
    seed: int,
    params: dict[str, Any] | None = None,
    dataset_id: str | None = None,
) -> Job:
    """Queue a job of `kind` on the model, in the model's lane (reference pools have a lane of their own).

    dataset_id: of the data that a deletion carries; None: the model's own dataset.
    """
    refuse_purged(model)
    dataset = datasets.get(session, model.tenant_id, dataset_id or model.dataset_id)
    if not datasets.is_held(dataset) and kind is not JobKind.IMPORT:
        raise Conflict("This service does not hold the model's training data.", kind="data-not-held")
    if dataset.state != "ready":
        raise Conflict("The model's dataset is not ready yet.", kind="dataset-not-ready")
    if kind in (JobKind.PRECOMPUTE, JobKind.AUDIT) and model.current_version is None:
        raise Conflict("The model has no current version.", kind="no-version")
    lane = f"model:{model.id}"
    if kind is JobKind.REFERENCES:  # pools are shared by models of one dataset, architecture and recipe
        lane = f"references:{family(model)[:40]}"
    return jobs.enqueue(
        session,
        tenant_id=model.tenant_id,
        kind=kind,
        lane=lane,
        dataset_id=dataset.id,
        model_id=model.id,
        device=model.device,
        params=params,
        seed=seed,
    )


def start_training(
    session: Session,
    model: Model,
    *,
    seed: int,
    exclude_request: str | None,
    compare_only: bool,
    promote: bool = False,
) -> Job:
    """Train version 1, or retrain exactly without one request's samples to compare with.

    promote: let it take the place of a current version; else it is a candidate beside it.
    """
    if promote and compare_only:
        raise Unprocessable("A comparison is never published; leave `promote` out.", kind="comparison-incomplete")
    if compare_only != (exclude_request is not None):
        raise Unprocessable(
            "`compare_only` and `exclude_request` go together: a comparison is an exact retrain without the "
            "samples of one deletion request.",
            kind="comparison-incomplete",
        )
    if exclude_request is not None:
        _require_comparable(session, model, exclude_request)
    params = {"exclude_request": exclude_request, "compare_only": compare_only, "promote": promote}
    return start(session, model, JobKind.TRAIN, seed=seed, params=params)


def _require_comparable(session: Session, model: Model, request_id: str) -> None:
    query = select(DeletionRequest).where(
        DeletionRequest.tenant_id == model.tenant_id,
        DeletionRequest.dataset_id == model.dataset_id,
        DeletionRequest.id == request_id,
    )
    request = session.scalars(query).first()
    if request is None:
        raise NotFound("There is no such deletion request on the model's dataset.")
    if request.fulfilled_at is not None:
        raise Conflict(
            "The samples of this request have been erased, so a retrain can no longer be measured on them; start "
            "the comparison right after the deletion request.",
            kind="samples-erased",
        )


def has_running_job(session: Session, model: Model) -> bool:
    active = select(Job.id).where(Job.model_id == model.id, Job.state == JobState.RUNNING)
    return session.scalars(active.limit(1)).first() is not None
