"""Checking a certificate or a case file with the service's own keys, for who has no command line."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from app.api.http.deps import ONE_TRANSFER, CallerDep, IdempotencyKey, PartsDep, needs, problems
from app.api.http.transfer import FILE
from app.cases import checking
from app.core.errors import Unprocessable, UnsupportedMedia

router = APIRouter(tags=["cases"])
FORMS = {"application/zip": {"schema": FILE}, "application/json": {"schema": {"description": "a certificate"}}}


class CheckOut(BaseModel):
    name: str
    verified: bool | None = Field(description="null: not checked, as it needs what `detail` names")
    detail: str


class VerifyOut(BaseModel):
    of: Literal["certificate", "negative report", "case file"]
    verified: bool = Field(description="no check failed")
    checks: list[CheckOut]
    says: list[str]
    not_proved: list[str] = Field(description="what a file that is verified does not prove either")
    uncertified: list[str] = Field(description="models of which it does not certify that they forgot the samples")
    revoked: str | None = Field(description="since when the newest certificate of a case file does not count any more")


@router.post(
    "/case-files:verify",
    dependencies=[needs("audit"), ONE_TRANSFER],
    responses=problems(403, 413, 415),
    openapi_extra={"requestBody": {"required": True, "content": FORMS}},
)
async def verify(request: Request, _who: CallerDep, held: PartsDep, _: IdempotencyKey = None) -> VerifyOut:
    """Check a case file (zip) or a certificate (JSON) as `lethe verify` does, with the keys of this service. Nothing is
    stored. An auditor who does not trust the service runs `lethe verify` elsewhere."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in FORMS:
        raise UnsupportedMedia(f"Send one of: {', '.join(FORMS)}.")
    content = await request.body()
    if not content:
        raise Unprocessable("The body is empty.", kind="empty-body")

    def checked() -> VerifyOut:
        with held.database.read() as session:
            trusted = checking.trust(session)
        return VerifyOut.model_validate(checking.check(content, trusted))

    return await run_in_threadpool(checked)
