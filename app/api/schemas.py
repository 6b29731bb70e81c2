"""Bodies of the HTTP contract. Times are RFC 3339 UTC.

Sample ids appear in requests and in the listing of a dataset, and in no other reply.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, field_validator, model_validator

from app.deadlines import clock
from app.ids import ALPHABET
from app.policy import Choice, Policy, choose

Time = Annotated[
    datetime,
    PlainSerializer(lambda t: t.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z"), return_type=str),
    Field(json_schema_extra={"format": "date-time"}),
]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
SampleId = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]+$")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def id_pattern(prefix: str) -> str:
    return rf"^{prefix}_[{ALPHABET}]{{26}}$"


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str


# -- datasets --------------------------------------------------------------------------------------


class DatasetCreate(Body):
    name: Name
    source: Choice = Field(description="a source of the catalog; `upload` waits for `PUT …/content`")

    @field_validator("source")
    @classmethod
    def _source(cls, choice: Choice) -> Choice:
        return choose("sources", choice)


class DatasetOut(BaseModel):
    id: str
    name: str
    source: Choice
    state: Literal["awaiting-content", "ingesting", "ready", "failed"]
    samples: int
    train_samples: int
    classes: int
    shape: list[int] | None
    erased_samples: int
    job: str | None = Field(None, description="the ingest job, in the reply that started it")
    problem: dict[str, Any] | None
    created_at: Time


class SampleOut(BaseModel):
    id: str
    label: int
    split: Literal["train", "holdout"]


# -- models ----------------------------------------------------------------------------------------


class ModelCreate(Body):
    name: Name
    dataset: str = Field(pattern=id_pattern("dst"))
    architecture: Choice
    recipe: Choice = Field(default=Choice(name="sgd"), validate_default=True)
    policy: Policy = Field(default_factory=Policy)

    @field_validator("architecture")
    @classmethod
    def _architecture(cls, choice: Choice) -> Choice:
        return choose("architectures", choice)

    @field_validator("recipe")
    @classmethod
    def _recipe(cls, choice: Choice) -> Choice:
        return choose("recipes", choice)


class ModelOut(BaseModel):
    id: str
    name: str
    dataset: str
    architecture: Choice
    recipe: Choice
    policy: Policy
    current_version: int | None
    created_at: Time


class TrainBody(Body):
    seed: Seed = 0
    exclude_request: str | None = Field(
        None, pattern=id_pattern("del"), description="retrain exactly without this request's samples"
    )
    compare_only: bool = Field(False, description="keep the result to compare with; never publish it")


class SeedBody(Body):
    seed: Seed = 0


class ReferencesBody(Body):
    count: int = Field(16, ge=4, le=256, multiple_of=2, description="reference models; each sample is in half of them")
    seed: Seed = 0


class AliasBody(Body):
    version: int = Field(ge=1, lt=2**31)


class AliasOut(BaseModel):
    name: str
    version: int
    updated_at: Time


class VersionCreate(Body):
    digest: Digest = Field(description="sha256 of the safetensors file that will be sent")
    trained_on: Literal["train-split"] | Annotated[list[SampleId], Field(min_length=1, max_length=1_000_000)] = Field(
        description="the ids that the checkpoint was trained on, or the dataset's whole train split"
    )


class VersionOut(BaseModel):
    model: str
    number: int
    state: Literal["candidate", "current", "superseded", "quarantined", "purged"]
    origin: Literal["trained", "imported", "unlearned", "comparison"]
    parent: int | None
    digest: str
    size: int = Field(description="bytes; 0 while an announced checkpoint has not been sent")
    trained_samples: int
    metrics: dict[str, Any]
    job: str | None
    created_at: Time
    purge_after: Time | None
    purged_at: Time | None


# -- deletion requests -----------------------------------------------------------------------------


class DeletionCreate(Body):
    dataset: str = Field(pattern=id_pattern("dst"))
    model: str | None = Field(
        None, pattern=id_pattern("mdl"), description="this model only: the dataset keeps the samples"
    )
    sample_ids: Annotated[list[SampleId], Field(min_length=1, max_length=100_000)] | None = None
    subjects: Annotated[list[SampleId], Field(min_length=1, max_length=10_000)] | None = Field(
        None, description="instead of ids: every sample of these subjects"
    )
    jurisdiction: str = Field(
        "gdpr", max_length=20, description="`gdpr`, `gdpr:DE`, `gdpr:DE-BY` …, `uk-gdpr`, `ccpa`: whose clock runs"
    )
    basis: Name = Field("erasure-request", max_length=60, description="the ground, in your register's words")
    allow_data_loss: bool = Field(False, description="accept that a model loses its last sample of a class, or all")
    validate_only: bool = Field(False, description="check everything, store nothing, say what it would mean")

    @field_validator("jurisdiction")
    @classmethod
    def _known(cls, jurisdiction: str) -> str:
        clock(jurisdiction)
        return jurisdiction

    @model_validator(mode="after")
    def _one_of(self) -> DeletionCreate:
        if (self.sample_ids is None) == (self.subjects is None):
            raise ValueError("send either `sample_ids` or `subjects`")
        return self


class DeletionPreview(BaseModel):
    samples: int
    models: list[str] = Field(description="models that would be edited")
    due_at: Time


class ImportLine(BaseModel):
    line: int = Field(description="of the lines that are not blank, from 0")
    status: int
    id: str | None
    problem: dict[str, Any] | None


class ReasonBody(Body):
    reason: str = Field(min_length=1, max_length=2000, description="kept with the request; name nobody in it")


class RefuseBody(ReasonBody):
    sample_ids: Annotated[list[SampleId], Field(min_length=1, max_length=100_000)] | None = Field(
        None, description="refuse only these"
    )


class OutcomeOut(BaseModel):
    model: str
    state: Literal["pending", "batched", "published", "purged", "attention"]
    job: str | None
    version: int | None
    reason: str | None
    forecast_at: Time | None = Field(None, description="probable time of publication, by measured durations")


class ReceiptOut(BaseModel):
    subject: str
    detail: str
    digest: str | None
    due_at: Time | None
    done_at: Time | None


class DeletionOut(BaseModel):
    id: str
    status: Literal[
        "accepted", "processing", "published", "fulfilled", "needs-attention", "held", "refused", "cancelled"
    ]
    reason: str | None = Field(description="of a decision, or why its purge needs attention")
    dataset: str
    model: str | None
    samples: int
    samples_refused: int
    jurisdiction: str
    rule: str = Field(description="which reading of the law set the dates")
    basis: str
    received_at: Time
    confirm_by: Time | None
    due_at: Time
    extended_at: Time | None
    extension_reason: str | None
    decided_at: Time | None
    fulfilled_at: Time | None
    outcomes: list[OutcomeOut]
    receipts: list[ReceiptOut]


# -- jobs ------------------------------------------------------------------------------------------


class JobOut(BaseModel):
    id: str
    kind: Literal["ingest", "train", "import", "references", "precompute", "unlearn", "audit", "purge"]
    state: Literal["queued", "running", "succeeded", "rejected", "failed", "cancelled", "dead"]
    stage: str | None
    fraction: float
    eta_seconds: float | None = Field(description="at the present pace; absent unless it runs")
    attempts: int
    dataset: str | None
    model: str | None
    request: str | None
    result: dict[str, Any] | None
    problem: dict[str, Any] | None
    created_at: Time
    started_at: Time | None
    finished_at: Time | None


# -- keys, webhooks, compliance ------------------------------------------------------------------

Scope = Literal["read", "request", "operate", "audit", "admin"]


class KeyCreate(Body):
    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=5)]
    expires_in_days: int | None = Field(None, ge=1, le=3650)


class KeyRotate(Body):
    overlap_seconds: int = Field(0, ge=0, le=30 * 86400, description="how long the old key works beside the new one")


class KeyOut(BaseModel):
    id: str
    name: str
    scopes: list[Scope]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None


class KeyMade(KeyOut):
    token: str | None = Field(None, description="the key itself; shown once, absent when the reply is replayed")


EventKind = Annotated[str, Field(pattern=r"^[a-z-]{1,30}\.([a-z-]{1,30}|\*)$")]


class WebhookCreate(Body):
    url: str = Field(min_length=8, max_length=2000, pattern=r"^[\x21-\x7e]+$")
    events: Annotated[list[EventKind], Field(max_length=50)] = Field(
        default_factory=list, description="kinds such as `version.unlearned` or `request.*`; empty: all"
    )


class WebhookOut(BaseModel):
    id: str
    url: str
    events: list[str]
    created_at: Time
    disabled_at: Time | None


class WebhookMade(WebhookOut):
    secret: str | None = Field(None, description="signs deliveries; shown once, absent when the reply is replayed")


class DeliveryOut(BaseModel):
    id: str
    kind: str
    state: Literal["pending", "delivered", "failed"]
    attempts: int
    last_error: str | None
    created_at: Time
    due_at: Time | None


class RegisterEntry(BaseModel):
    request: str
    status: str
    dataset: str
    model: str | None
    samples: int
    samples_refused: int
    basis: str
    jurisdiction: str
    rule: str
    received_at: str
    confirm_by: str | None
    due_at: str
    extended_at: str | None
    extension_reason: str | None
    decided_at: str | None
    reason: str | None
    fulfilled_at: str | None
    days: float | None


class Summary(BaseModel):
    as_of: str
    year: int | None
    received: int
    by_status: dict[str, int]
    samples: int
    extended: int
    overdue: list[str]
    due_soon: list[str]
    answered_late: int
    mean_days: float | None
    median_days: float | None


# -- evidence --------------------------------------------------------------------------------------


class EnvelopeSignature(BaseModel):
    keyid: str
    sig: str


class Envelope(BaseModel):
    """DSSE: a signed in-toto statement."""

    payload: str = Field(description="base64 of the statement's canonical JSON")
    payloadType: str  # noqa: N815  (DSSE's own name)
    signatures: list[EnvelopeSignature]


class Opening(BaseModel):
    salt: str = Field(description="hex")


class Shredded(BaseModel):
    destroyed: bool = Field(description="false: there was no salt (left)")


class LogEntries(BaseModel):
    start: int
    entries: list[dict[str, Any]]


class LogProof(BaseModel):
    hashes: list[str] = Field(description="hex, from the leaf up")


class LogKey(BaseModel):
    id: str
    public_key: str
    not_before: str
    not_after: str | None


class LogKeys(BaseModel):
    keys: list[LogKey]


# -- the rest --------------------------------------------------------------------------------------


class CatalogEntry(BaseModel):
    summary: str
    params: dict[str, Any] = Field(description="JSON Schema of the parameters")
    needs_remain: bool
    needs_adversarial: bool
    needs_given: bool = Field(description="takes the adversarial set of another version instead of searching")
    exact: bool


class Readiness(BaseModel):
    status: Literal["ready", "degraded"]
    database: Literal["ok"]
    broker: Literal["ok", "unreachable", "none"]
    workers: int
    degraded: list[str] = Field(description="what is missing in words; requests are accepted all the same")
