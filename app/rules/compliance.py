"""What a tenant decides about its requests: who refuses, how long the register names people, what letters say."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Language = Literal["en", "de", "fr"]
Channel = Literal["letter", "e-mail", "web-form", "phone", "in-person", "agent", "other"]


class Rules(BaseModel):
    """The compliance rules of a tenant."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    two_people_on_refusal: bool = Field(False, description="a refusal waits until a second API key approves it")
    keep_months: int = Field(
        24,
        ge=1,
        le=240,
        description="how long references, letters, notices and identity notes are kept after a request has ended; "
        "under `ccpa` never shorter than 24 months",
    )
    remains: Literal["by-due-date", "by-grace"] = Field(
        "by-due-date",
        description="superseded checkpoints and reference pools of a request go by its due date, or after the policy's "
        "grace and 90 days",
    )
    controller: str = Field("", max_length=500, description="name and address, as letters have them")
    contact: str = Field("", max_length=200, description="where the person can write to")
    authority: str = Field("", max_length=300, description="the supervisory authority that takes complaints")
    language: Language = Field("en", description="of notices, where none is named")
