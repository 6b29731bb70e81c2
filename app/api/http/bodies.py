"""JSON bodies of async endpoints: checked as FastAPI would, without its detour over Python objects."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

Body = TypeVar("Body", bound=BaseModel)


def body_of(request: Request, raw: bytes, form: type[Body]) -> Body:
    """The body as `form`; RequestValidationError where it is not JSON, not said to be, or does not fit."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        fault = {"type": "media_type", "loc": ("body",), "msg": "Send application/json", "input": {}}
        raise RequestValidationError([fault])
    try:
        return form.model_validate_json(raw)
    except ValidationError as error:
        found = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_url=False)]
        raise RequestValidationError(found, body=_parsed(raw)) from None


def _parsed(raw: bytes) -> Any:
    """What places in the body are looked up in; None where it is no JSON."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None
