"""A model's unlearning policy (docs/gate.md, "The policy"): methods, adversarial set, data, and what the audit must
show."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from app import catalog
from app.rules.gate import EscalationStep, candidates


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
        pattern = fault["ctx"]["pattern"]
        return f"must be {catalog.WORDS.get(pattern, f'a text that fits {pattern}')}"
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


class EscalationChoice(Choice):
    """A further step of the escalation: a method with its parameters."""

    stronger: bool = Field(
        False, description="a stronger setting of the method of the step before: passed over if that one over-forgot"
    )


MOST_FURTHER_STEPS = 8
MOST_OF_A_CLASS = 0.8


def _default_escalation(data: dict[str, Any]) -> tuple[EscalationChoice, ...]:
    """Exact retraining if the policy gives the whole remain set, unless it is the method already."""
    method = data.get("method")
    if data.get("remain") != "full" or method is None or catalog.METHODS[method.name].exact:
        return ()
    return (EscalationChoice(name="retrain"),)


class EachRule(BaseModel):
    """A job for each request: those due within seven days first, by date, then in the order of the requests."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    mode: Literal["each"]


class BatchRule(BaseModel):
    """One job for many requests: its cost per request falls with their number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    mode: Literal["batch"]
    max_requests: int = Field(100, ge=1, le=1_000_000, description="close on this number of requests")
    max_samples: int = Field(10_000, ge=1, le=100_000_000, description="close on this number of samples")
    max_age_seconds: float = Field(
        7 * 86400.0, ge=0, le=90 * 86400.0, description="close when the oldest request has waited this long"
    )
    crowd: int = Field(
        1,
        ge=1,
        le=1_000_000,
        description="samples that leave together at least: with fewer, age closes no batch, and the batch waits until "
        "the legal deadline. Who has both versions learns less of each the more leave with it",
    )

    @model_validator(mode="after")
    def _crowd_fits(self) -> BatchRule:
        if self.crowd > self.max_samples:
            raise ValueError("`crowd` is more than `max_samples`: such a batch could only close by the deadline")
        return self


class Policy(BaseModel):
    """How the service unlearns deletions from one model."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    when: EachRule | BatchRule = Field(
        default=EachRule(mode="each"),
        discriminator="mode",
        description="batches also close in time for the earliest legal deadline",
    )
    method: Choice = Field(default=Choice(name="amun"), validate_default=True)
    class_method: Choice | None = Field(
        None,
        description="in the place of `method` for a forget set that is most of a class; absent: `neg_grad_plus` where "
        "`method` is absent too, else none",
    )
    attack: Choice = Field(default=Choice(name="pgd_l2"), validate_default=True)
    adversarial: Literal["recompute", "precomputed"] = Field(
        "recompute",
        description="recompute on the current version (AMUN-A), or precomputed on the base (AMUN)",
    )
    remain: Literal["full", "subsample", "none"] = Field("full", description="access of the method to the remain set")
    remain_ratio: float = Field(
        5.0, gt=0, le=1000, description="with remain `subsample`: number of retained samples for each forgotten one"
    )
    escalation: tuple[EscalationChoice, ...] = Field(
        strict=False,
        default_factory=_default_escalation,
        validate_default=True,
        max_length=MOST_FURTHER_STEPS,
        description="further steps, tried on the same batch in this order if the candidate of `method` fails; absent: "
        "exact retraining if `remain` is `full`, else none",
    )
    on_inconclusive: Literal["publish", "retrain"] = Field(
        "publish",
        description="publish an inconclusive candidate with that label, or retrain exactly if `escalation` can",
    )
    audit: Choice = Field(default=Choice(name="rmia"), validate_default=True)
    probes: tuple[Choice, ...] = Field(
        (),
        strict=False,
        max_length=8,
        description="measured beside the audit on candidates that are published; each takes extra time",
    )
    utility_floor: float = Field(
        0.05,
        ge=0,
        le=1,
        description="largest loss of test accuracy, as a fraction, against the parent and against the version that the "
        "owner last trained, imported or promoted",
    )
    canaries: int = Field(
        0,
        ge=0,
        le=100_000,
        description="number of samples of the subject `lethe:canary` that each job unlearns beside the forget set; "
        "they are not erased, so `:audit` with `canaries` can measure at any time how well the model forgot them",
    )
    null_seconds: float = Field(
        600.0,
        ge=0,
        le=90 * 86400,
        description="most seconds of training for the null of a batch that has no other: where five exact retrains are "
        "within it, by their measured duration, and the legal deadline allows, the job trains them before it judges; "
        "0: never",
    )
    sham_seconds: float = Field(
        30 * 86400.0,
        ge=0,
        le=10 * 366 * 86400,
        description="with `canaries`: how often the service audits a sham, canaries that nothing has unlearned, which "
        "must fail; 0: never",
    )
    grace_seconds: int = Field(7 * 86400, ge=0, le=90 * 86400, description="how long a superseded checkpoint is kept")

    @model_validator(mode="before")
    @classmethod
    def _of_version_0_1(cls, data: Any) -> Any:
        """Version 0.1 called `escalation` `ladder`; stored policies and older clients still do."""
        if isinstance(data, dict) and "ladder" in data and "escalation" not in data:
            return {("escalation" if name == "ladder" else name): value for name, value in data.items()}
        return data

    @model_validator(mode="before")
    @classmethod
    def _by_shape(cls, data: Any) -> Any:
        """A policy that names no method leaves it to the shape of the request."""
        if isinstance(data, dict) and "method" not in data and "class_method" not in data:
            return {**data, "class_method": {"name": "neg_grad_plus"}}
        return data

    @field_validator("method")
    @classmethod
    def _method(cls, choice: Choice) -> Choice:
        return choose("methods", choice)

    @field_validator("class_method")
    @classmethod
    def _class_method(cls, choice: Choice | None) -> Choice | None:
        return None if choice is None else choose("methods", choice)

    @field_validator("attack")
    @classmethod
    def _attack(cls, choice: Choice) -> Choice:
        return choose("attacks", choice)

    @field_validator("audit")
    @classmethod
    def _audit(cls, choice: Choice) -> Choice:
        return choose("audits", choice)

    @field_validator("escalation")
    @classmethod
    def _escalation(cls, steps: tuple[EscalationChoice, ...]) -> tuple[EscalationChoice, ...]:
        chosen = [choose("methods", Choice(name=step.name, params=step.params)) for step in steps]
        return tuple(
            EscalationChoice(name=each.name, params=each.params, stronger=step.stronger)
            for each, step in zip(chosen, steps, strict=True)
        )

    @field_validator("probes")
    @classmethod
    def _probes(cls, probes: tuple[Choice, ...]) -> tuple[Choice, ...]:
        return choose_probes(probes)

    @model_validator(mode="after")
    def _remain_needed(self) -> Policy:
        for choice in self.named_methods:
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
        steps = self.steps
        if any(step.exact for step in steps[:-1]):
            raise ValueError("exact retraining is the last step: nothing comes after it")
        for before, step in pairwise(steps):
            if step.stronger and step.method != before.method:
                raise ValueError("a step can be stronger only than one of the same method, right before it")
        return self

    def for_shape(self, forgotten: Sequence[int], trained: Sequence[int]) -> Policy:
        """The policy for a forget set with that many samples of each class, of so many that were trained on."""
        most = any(gone and gone >= MOST_OF_A_CLASS * all_ for gone, all_ in zip(forgotten, trained, strict=True))
        if self.class_method is None or not most:
            return self
        return self.model_copy(update={"method": self.class_method, "class_method": None})

    # -- the steps as the gate takes them ----------------------------------------------------------

    @property
    def methods(self) -> tuple[Choice, ...]:
        """The policy's own method, then those of the further steps."""
        return (self.method, *self.escalation)

    @property
    def named_methods(self) -> tuple[Choice, ...]:
        """`methods` and the one for class-shaped sets."""
        return self.methods if self.class_method is None else (*self.methods, self.class_method)

    @property
    def steps(self) -> tuple[EscalationStep, ...]:
        own = EscalationStep(self.method.name, exact=catalog.METHODS[self.method.name].exact)
        return (
            own,
            *(
                EscalationStep(step.name, exact=catalog.METHODS[step.name].exact, stronger=step.stronger)
                for step in self.escalation
            ),
        )

    @property
    def notes(self) -> list[str]:
        """What an owner should know of this policy in advance."""
        found = []
        if not self.steps[-1].exact:
            found.append(
                "There is no last step: without exact retraining, a deletion whose candidates all fail their audit "
                "ends in needs-attention."
            )
        if (count := candidates(self.steps)) > 1:
            found.append(
                f"{count} approximate methods: the audit counts that the best-looking of {count} candidates may be "
                "published. A pass needs a wider interval, and a candidate that looks like a fail is passed over."
            )
        return found
