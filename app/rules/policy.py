"""A model's unlearning policy: which methods, which adversarial set, which data, and what the audit must show."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from app import catalog
from app.rules import gate


class Choice(BaseModel):
    """A name from the catalog with its parameters; defaults are filled in when it is stored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

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
        faults = [f"{place}: {_said(fault)}" for place, fault in zip(places, error.errors(), strict=True)]
        raise ValueError("; ".join(dict.fromkeys(faults))) from None
    return Choice(name=choice.name, params=params.model_dump())


def _said(fault: Any) -> str:
    if fault["type"] == "string_pattern_mismatch":
        return f"must be {catalog.WORDS[fault['ctx']['pattern']]}"
    message: str = fault["msg"].removeprefix("Value error, ")
    return message


def choose_probes(probes: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """The probes with their parameters checked and completed.

    Raises:
        ValueError: as `choose`, or a probe is named twice.
    """
    if len({probe.name for probe in probes}) < len(probes):
        raise ValueError("each probe may be named once")
    return tuple(choose("probes", probe) for probe in probes)


class Rung(Choice):
    """One rung of the ladder: a method with its parameters."""

    stronger: bool = Field(
        False, description="a stronger setting of the method of the rung before: passed over when that one over-forgot"
    )


MOST_RUNGS = 8


def _default_ladder(data: dict[str, Any]) -> tuple[Rung, ...]:
    """Exact retraining where the remain set is held, unless it is the method already."""
    method = data.get("method")
    if data.get("remain") != "full" or method is None or catalog.METHODS[method.name].exact:
        return ()
    return (Rung(name="retrain"),)


class Each(BaseModel):
    """A job for every request, in the order they come."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    mode: Literal["each"]


class Batch(BaseModel):
    """One job for many requests: its cost per request falls with their number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    mode: Literal["batch"]
    max_requests: int = Field(100, ge=1, le=1_000_000, description="close on so many requests")
    max_samples: int = Field(10_000, ge=1, le=100_000_000, description="close on so many samples")
    max_age_seconds: float = Field(
        7 * 86400.0, ge=0, le=90 * 86400.0, description="close when the oldest request has waited so long"
    )


class Policy(BaseModel):
    """How deletions of one model are carried out."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    when: Each | Batch = Field(
        default=Each(mode="each"),
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
    ladder: tuple[Rung, ...] = Field(
        strict=False,
        default_factory=_default_ladder,
        validate_default=True,
        max_length=MOST_RUNGS,
        description="what is tried on the same batch when a candidate fails, after `method`, in this order; absent: "
        "exact retraining where `remain` is `full`, else nothing",
    )
    on_inconclusive: Literal["publish", "retrain"] = Field(
        "publish", description="publish an inconclusive candidate labelled so, or retrain exactly where the ladder can"
    )
    audit: Choice = Field(default=Choice(name="rmia"), validate_default=True)
    probes: tuple[Choice, ...] = Field(
        (),
        strict=False,
        max_length=8,
        description="measured beside the audit on candidates that are published; each has its cost",
    )
    utility_floor: float = Field(
        0.05, ge=0, le=1, description="largest loss of test accuracy against the parent, as a fraction"
    )
    canaries: int = Field(
        0,
        ge=0,
        le=100_000,
        description="so many samples of the subject `lethe:canary` are forgotten along with each job; they are not "
        "erased, so that `:audit` with `canaries` can measure at any time how well the model forgot them",
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

    @field_validator("ladder")
    @classmethod
    def _ladder(cls, rungs: tuple[Rung, ...]) -> tuple[Rung, ...]:
        chosen = [choose("methods", Choice(name=rung.name, params=rung.params)) for rung in rungs]
        return tuple(
            Rung(name=each.name, params=each.params, stronger=rung.stronger)
            for each, rung in zip(chosen, rungs, strict=True)
        )

    @field_validator("probes")
    @classmethod
    def _probes(cls, probes: tuple[Choice, ...]) -> tuple[Choice, ...]:
        return choose_probes(probes)

    @model_validator(mode="after")
    def _remain_needed(self) -> Policy:
        for choice in self.methods:
            entry = catalog.METHODS[choice.name]
            if (self.remain == "none" and entry.needs_remain) or (self.remain != "full" and entry.exact):
                raise ValueError(f"method {choice.name} needs the whole remain set, which this policy does not give")
        return self

    @model_validator(mode="after")
    def _canaries_attacked(self) -> Policy:
        if self.canaries and catalog.ATTACKS[self.attack.name].needs_given:
            raise ValueError(f"attack {self.attack.name} knows no example of canaries: take one that searches")
        return self

    @model_validator(mode="after")
    def _in_order(self) -> Policy:
        rungs = self.rungs
        if any(rung.exact for rung in rungs[:-1]):
            raise ValueError("exact retraining ends a ladder: nothing comes after it")
        for before, rung in pairwise(rungs):
            if rung.stronger and rung.method != before.method:
                raise ValueError("a rung can be stronger only than one of the same method, right before it")
        return self

    # -- the ladder as the gate climbs it ----------------------------------------------------------

    @property
    def methods(self) -> tuple[Choice, ...]:
        """The policy's own method, then the ladder's."""
        return (self.method, *self.ladder)

    @property
    def rungs(self) -> tuple[gate.Rung, ...]:
        own = gate.Rung(self.method.name, exact=catalog.METHODS[self.method.name].exact)
        return (
            own,
            *(
                gate.Rung(rung.name, exact=catalog.METHODS[rung.name].exact, stronger=rung.stronger)
                for rung in self.ladder
            ),
        )

    @property
    def notes(self) -> list[str]:
        """What an owner should know of this policy before it is needed."""
        found = []
        if not self.rungs[-1].exact:
            found.append(
                "There is no last rung: without exact retraining a deletion whose candidates all fail their audit "
                "ends in needs-attention."
            )
        if gate.splits(self.rungs):
            found.append(
                "Several approximate methods: candidates are chosen on one half of the reference models and judged on "
                "the other, so each judgement has half of them; with too few to part, one candidate is judged."
            )
        return found
