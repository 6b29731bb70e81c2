"""Aliases of versions, promotion and roll-back, model cards, and the end of a whole model."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.api.http.conditional import IfMatch, IfMatchDep
from app.api.http.deps import BY_METHOD, CallerDep, IdempotentDep, PagerDep, Read, Write, needs, problems
from app.api.http.paging import Page, matching
from app.api.http.patterns import ALIAS
from app.api.models import ModelId
from app.api.models import show as show_model
from app.api.schemas import AliasBody, AliasOut, Erasable, ModelOut, VersionOut
from app.api.versions import Number
from app.api.versions import show as show_version
from app.core.errors import NotFound
from app.core.tables import Alias, Model
from app.deletions import model_purge, unneeded
from app.models import records as models
from app.models import versions
from app.releases import aliases, promotion
from app.reports import model_card

router = APIRouter(prefix="/models/{model}", tags=["versions"], dependencies=[BY_METHOD])
AliasName = Annotated[str, Path(pattern=ALIAS)]


def show(row: Alias) -> AliasOut:
    return AliasOut(name=row.name, version=row.version, updated_at=row.updated_at)


@router.get("/aliases", responses=problems(403, 404))
def list_aliases(
    model: ModelId,
    who: CallerDep,
    session: Read,
    pager: PagerDep,
    version: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
) -> Page[AliasOut]:
    """The aliases of the model by name, or those of one version."""
    row = models.get(session, who.tenant_id, model)
    query = matching(select(Alias).where(Alias.model_id == row.id), {Alias.version: version})
    rows, token = pager.rows_by_name(session, query, Alias.name)
    return Page(items=[show(alias) for alias in rows], next_page_token=token)


@router.get("/aliases/{alias}", responses=problems(403, 404))
def read_alias(model: ModelId, alias: AliasName, who: CallerDep, session: Read) -> AliasOut:
    """What the alias means now."""
    found = session.get(Alias, (models.get(session, who.tenant_id, model).id, alias))
    if found is None:
        raise NotFound("There is no such alias.")
    return show(found)


def _check(seen: IfMatch, session: Session, model: Model, alias: str) -> None:
    found = session.get(Alias, (model.id, alias))
    seen.check(None if found is None else show(found))


@router.put("/aliases/{alias}", responses=problems(403, 404, 409, 412))
def point(
    model: ModelId, alias: AliasName, body: AliasBody, who: CallerDep, session: Write, seen: IfMatchDep
) -> AliasOut:
    """Let the alias mean a version that is live and holds no sample that was requested or erased."""
    row = models.get(session, who.tenant_id, model, lock=True)
    _check(seen, session, row, alias)
    return show(aliases.point(session, row, alias, versions.get(session, row, body.version)))


@router.delete(
    "/aliases/{alias}",
    status_code=204,
    response_class=Response,
    responses=problems(403, 404, 412),
)
def unpoint(model: ModelId, alias: AliasName, who: CallerDep, session: Write, seen: IfMatchDep) -> Response:
    row = models.get(session, who.tenant_id, model, lock=True)
    _check(seen, session, row, alias)
    aliases.unpoint(session, row, alias)
    return Response(status_code=204)


@router.post(
    "/versions/{number}:promote",
    response_model=VersionOut,
    responses=problems(403, 404, 409, 412),
)
def promote(
    model: ModelId, number: Number, who: CallerDep, session: Write, once: IdempotentDep, seen: IfMatchDep
) -> JSONResponse:
    """Make a superseded version or a candidate current; refused if it holds samples that were requested or erased."""
    row = models.get(session, who.tenant_id, model, lock=True)
    version = versions.get(session, row, number)
    seen.check(show_version(version))
    promotion.promote(session, row, version)
    return once.reply(200, show_version(version))


@router.post(":rollback", response_model=VersionOut, responses=problems(403, 404, 409))
def roll_back(model: ModelId, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Promote the parent of the current version, under the same conditions."""
    row = models.get(session, who.tenant_id, model, lock=True)
    return once.reply(200, show_version(promotion.roll_back(session, row)))


@router.get(":erasable", responses=problems(403, 404))
def erasable(
    model: ModelId,
    who: CallerDep,
    session: Read,
    version: Annotated[int | None, Query(ge=1, lt=2**31, description="absent: the whole model")] = None,
) -> Erasable:
    """What purging the model, or deleting a version of it, would erase; and who needs it. Nothing is changed."""
    row = models.get(session, who.tenant_id, model)
    if version is None:
        return Erasable.model_validate(unneeded.of_model(session, row))
    return Erasable.model_validate(unneeded.of_version(session, row, versions.get(session, row, version)))


@router.delete("/versions/{number:noun}", dependencies=[needs("admin")], responses=problems(403, 404, 409))
def delete_version(model: ModelId, number: Number, who: CallerDep, session: Write) -> VersionOut:
    """Erase the checkpoint of a version that nobody needs. This cannot be undone; `:erasable` says who needs it."""
    row = models.get(session, who.tenant_id, model, lock=True)
    version = versions.get(session, row, number)
    unneeded.delete_version(session, row, version)
    return show_version(version)


@router.post(":purge", response_model=ModelOut, dependencies=[needs("admin")], responses=problems(403, 404, 409))
def purge(model: ModelId, who: CallerDep, session: Write, once: IdempotentDep) -> JSONResponse:
    """Purge the whole model: every checkpoint and adversarial set. It cannot be undone; `:erasable` says what goes."""
    row = models.get(session, who.tenant_id, model, lock=True)
    model_purge.purge(session, row)
    return once.reply(200, show_model(session, row))


@router.get(
    "/versions/{number}/model_card.md",
    response_class=Response,
    responses={
        200: {"content": {"text/markdown": {"schema": {"type": "string"}}}, "description": "the card"},
        **problems(403, 404),
    },
)
def read_card(model: ModelId, number: Number, who: CallerDep, session: Read) -> Response:
    """The model card: Markdown with YAML front matter."""
    row = models.get(session, who.tenant_id, model)
    text = model_card.model_card(session, row, versions.get(session, row, number))
    return Response(text, media_type="text/markdown; charset=utf-8")
