"""Bases: a version of another model that training starts from, and that never saw the dataset."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from app import catalog
from app.core.errors import Conflict, Unprocessable
from app.core.positions import Positions, mask_of
from app.core.tables import Dataset, Model, Sample, Version
from app.datasets import records as datasets
from app.models import records as models
from app.models import versions
from app.rules.policy import Choice

HAS_BASE = Model.base["model"].as_string().is_not(None)
OTHER_DATA = "its data are those of dataset {}, which is another one"


def describe(
    session: Session,
    tenant_id: str,
    dataset: Dataset,
    architecture: Choice,
    *,
    model: str,
    version: int | None,
    never_saw: str | None,
) -> dict[str, Any]:
    """What is kept of a base: `model`, `version`, `digest`, and why it is said that it `never_saw` the dataset.

    version: None: the model's current one. never_saw: the owner's word, which a base on data that are not held needs.

    Raises:
        NotFound, Conflict, Gone: there is no such version, or its bytes are gone.
        Unprocessable: it is another network, or saw the dataset.
    """
    base = models.get(session, tenant_id, model)
    models.refuse_purged(base)
    number = version or base.current_version
    if number is None:
        raise Conflict("The base has no current version.", kind="no-version")
    found = versions.get(session, base, number)
    versions.require_released(session, base, found)
    if _identity(base.architecture, base.architecture_params) != _identity(architecture.name, architecture.params):
        raise Unprocessable(
            f"The base is {base.architecture} with other parameters or another architecture than this model's: a base "
            "is the same network, with any number of classes.",
            kind="base-architecture",
        )
    if versions.holds_erased(session, tenant_id, found.digest):
        raise Conflict(
            "The base was trained on samples that have been requested for deletion or erased since: a model that "
            "starts from it would hold what it learned of them. Take a version that has unlearned them.",
            kind="trained-on-erased",
        )
    own = session.get_one(Dataset, base.dataset_id)
    if datasets.is_held(own):
        _refuse_seen(session, own, dataset)
        never_saw = OTHER_DATA.format(own.id)
    elif not never_saw:
        raise Unprocessable(
            "The base was trained on data that are not held here, so nobody but you knows them: say in `never_saw` "
            "why it never saw this dataset. Reports repeat it.",
            kind="base-unknown-data",
        )
    return {"model": base.id, "version": found.number, "digest": found.digest, "never_saw": never_saw}


def _identity(architecture: str, params: dict[str, Any]) -> Any:
    return architecture, catalog.parse("architectures", architecture, params).identity()


def _refuse_seen(session: Session, own: Dataset, dataset: Dataset) -> None:
    same = own.id == dataset.id or (own.images is not None and own.images == dataset.images)
    if not same and own.id_namespace is not None and own.id_namespace == dataset.id_namespace:
        other = aliased(Sample)
        both = (
            select(func.count())
            .select_from(Sample)
            .join(other, other.sample_id == Sample.sample_id)
            .where(Sample.dataset_id == dataset.id, other.dataset_id == own.id)
        )
        if shared := session.scalars(both).one():
            raise Unprocessable(
                f"The base saw the data: {shared} samples of this dataset are in its own, by id.", kind="base-saw-data"
            )
    if same:
        raise Unprocessable(
            "The base saw the data: it was trained on this dataset. A base must never have seen it, or exact "
            "retraining would not forget.",
            kind="base-saw-data",
        )


def learned_through(
    session: Session, tenant_id: str, models_: Collection[str], positions: Positions | None, size: int
) -> list[tuple[Model, str]]:
    """Models that hold something of samples of another dataset, because their training started, at first or second
    hand, from a version of one of `models_` that was trained on any of `positions`; each with a sentence that says so.

    positions: of `size` samples; None: every version of `models_` counts.
    """
    query = select(Model).where(Model.tenant_id == tenant_id, Model.purged_at.is_(None), HAS_BASE).order_by(Model.id)
    others = session.scalars(query).all()
    found: dict[str, tuple[Model, str]] = {}
    for other in others:
        if (base := _base(other))["model"] in models_ and _learned(session, base, positions, size):
            found[other.id] = (other, f"it starts from version {base['version']} of {base['model']}")
    while further := [other for other in others if other.id not in found and _base(other)["model"] in found]:
        found |= {
            other.id: (other, f"it starts from {_base(other)['model']}, and {found[_base(other)['model']][1]}")
            for other in further
        }
    return [
        (other, f"{words}, which was trained on the samples. Purge it; a model from a version without them can follow.")
        for other, words in found.values()
        if other.id not in models_
    ]


def _base(model: Model) -> dict[str, Any]:
    return model.base or {"model": None}


def _learned(session: Session, base: dict[str, Any], positions: Positions | None, size: int) -> bool:
    if positions is None:
        return True
    query = select(Version.trained_on).where(Version.model_id == base["model"], Version.number == base["version"])
    return bool(mask_of(session.scalars(query).one(), size)[positions].any())


def starting_from(session: Session, model: Model) -> list[Model]:
    """The models that are not purged and whose training starts from a version of `model`."""
    others = select(Model).where(Model.tenant_id == model.tenant_id, Model.purged_at.is_(None), Model.id != model.id)
    found = session.scalars(others.order_by(Model.id)).all()
    return [other for other in found if (other.base or {}).get("model") == model.id]
