"""The OpenAPI document made fit for generators: names of operations that stay, and shared schemas said once. And what
a path allows."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from app.api.http import conditional, described
from app.api.http.deps import BY_METHOD_SCOPE
from app.api.schemas import DeletionCreate, ImportLine, Problem


def operation_id(route: APIRoute) -> str:
    """`deletion_requests_create`, `jobs_list`: the tag and the endpoint's name, without the path."""
    tag = str(route.tags[0]).replace(" ", "_") if route.tags else "service"
    return f"{tag}_{route.name.removesuffix('_all').removesuffix(f'_{tag}')}"


def install(app: FastAPI) -> None:
    """Let the application describe itself so. Once a process: every application has the same routes."""
    plain: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        if not _document:
            _document.update(_made_fit(plain()))
        return _document

    app.openapi = openapi  # type: ignore[method-assign]


_document: dict[str, Any] = {}


def _made_fit(document: dict[str, Any]) -> dict[str, Any]:
    for body in (Problem, DeletionCreate, ImportLine):  # that FastAPI does not see used
        document["components"]["schemas"][body.__name__] = body.model_json_schema()
    for schema in document["components"]["schemas"].values():
        for member in schema.get("properties", {}).values():
            _say_default(member)
    for item in document["paths"].values():
        for method, operation in item.items():
            _say_scopes(method, operation)
    conditional.describe(document)
    described.describe(document)
    return document


def words(document: dict[str, Any]) -> list[str]:
    """Every name of a member that the document's schemas know."""
    schemas = document["components"]["schemas"].values()
    return sorted({name for schema in schemas for name in schema.get("properties", {})})


def allowed(app: FastAPI, scope: Scope) -> str:
    """The Allow header of a path: every method that some route takes there (the router names those of one only)."""
    found = {
        method
        for method in ("DELETE", "GET", "POST", "PUT")
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in app.routes)
    }
    return ", ".join(sorted(found | ({"HEAD"} if "GET" in found else set())))


def _say_scopes(method: str, operation: dict[str, Any]) -> None:
    """`read` to look and `operate` to change, where the method says which."""
    own = "read" if method == "get" else "operate"
    for way in operation.get("security", ()):
        for name, scopes in way.items():
            way[name] = [own if scope == BY_METHOD_SCOPE else scope for scope in scopes]


def _say_default(member: dict[str, Any]) -> None:
    """A default that is an object, of a member described elsewhere, goes into words: generators cannot make it."""
    if isinstance(member.get("default"), dict) and member.keys() & {"$ref", "oneOf", "anyOf", "allOf"}:
        said = f"default: `{json.dumps(member.pop('default'))}`"
        member["description"] = f"{member['description']}; {said}" if member.get("description") else said
