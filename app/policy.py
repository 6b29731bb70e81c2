"""A model's unlearning policy: which method, which adversarial set, which data, and what the audit must show."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from app import catalog


class Choice(BaseModel):
    """A name from the catalog with its parameters; defaults are filled in when it is stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(max_length=60)
    params: dict[str, Any] = Field(default_factory=dict)


def choose(kind: str, choice: Choice) -> Choice:
    """The choice with its parameters checked and completed.

    Raises:
        ValueError: no such name, or parameters outside their schema; says which, without the values sent.
    """
    try:
        params = catalog.parse(kind, choice.name, choice.params)
    except KeyError:
        raise ValueError(f"no such name; the catalog has: {', '.join(catalog.KINDS[kind])}") from None
    except ValidationError as error:
        known = catalog.KINDS[kind][choice.name].params.model_fields
        places = [next((part for part in e["loc"][:1] if part in known), "params") for e in error.errors()]
        faults = [f"{place}: {e['msg']}" for place, e in zip(places, error.errors(), strict=True)]
        raise ValueError("; ".join(dict.fromkeys(faults))) from None
    return Choice(name=choice.name, params=params.model_dump())


class Each(BaseModel):
    """A job for every request, in the order they come."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["each"] = "each"


class Batch(BaseModel):
    """One job for many requests: its cost per request falls with their number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["batch"] = "batch"
    max_requests: int = Field(100, ge=1, le=1_000_000, description="close on so many requests")
    max_samples: int = Field(10_000, ge=1, le=100_000_000, description="close on so many samples")
    max_age_seconds: float = Field(
        7 * 86400.0, ge=0, le=90 * 86400.0, description="close when the oldest request has waited so long"
    )


class Policy(BaseModel):
    """How deletions of one model are carried out (DESIGN 4)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    when: Each | Batch = Field(
        default=Each(),
        discriminator="mode",
        description="batches also close in time for the earliest legal deadline",
    )
    method: Choice = Field(default=Choice(name="amun"), validate_default=True)
    attack: Choice = Field(default=Choice(name="pgd_l2"), validate_default=True)
    adversarial: Literal["recompute", "precomputed"] = Field(
        "recompute",
        description="recompute on the current version (AMUN-A), or precomputed on the base (AMUN)",
    )
    remain: Literal["full", "subsample", "none"] = Field("full", description="access of the method to the remain set")
    remain_ratio: float = Field(
        5.0, gt=0, le=1000, description="with remain `subsample`: so many retained samples per forgotten one"
    )
    audit: Choice = Field(default=Choice(name="rmia"), validate_default=True)
    utility_floor: float = Field(
        0.05, ge=0, le=1, description="largest loss of test accuracy against the parent, as a fraction"
    )
    grace_seconds: int = Field(7 * 86400, ge=0, le=90 * 86400, description="how long a superseded checkpoint is kept")

    @field_validator("method")
    @classmethod
    def _method(cls, choice: Choice) -> Choice:
        return choose("methods", choice)

    @field_validator("attack")
    @classmethod
    def _attack(cls, choice: Choice) -> Choice:
        return choose("attacks", choice)

    @field_validator("audit")
    @classmethod
    def _audit(cls, choice: Choice) -> Choice:
        return choose("audits", choice)

    @model_validator(mode="after")
    def _remain_needed(self) -> Policy:
        entry = catalog.METHODS[self.method.name]
        if (self.remain == "none" and entry.needs_remain) or (self.remain != "full" and entry.exact):
            raise ValueError(f"method {self.method.name} needs the whole remain set, which this policy does not give")
        return self
