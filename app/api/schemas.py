"""Bodies of the HTTP contract. Times are RFC 3339 UTC.

Sample ids appear in requests and in the listing of a dataset, and in no other reply.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, field_validator, model_validator

from app.api.http.patterns import DEVICE_LABEL, DIGEST, EVENT, NAME, SAMPLE_ID, URL, id_pattern, reference
from app.formats.input_contract import InputContract
from app.formats.preprocessing import InputBody
from app.rules.deadlines import clock
from app.rules.policy import Choice, Policy, choose, choose_probes

Time = Annotated[
    datetime,
    PlainSerializer(lambda t: t.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z"), return_type=str),
    Field(json_schema_extra={"format": "date-time"}),
]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=NAME)]
SampleId = Annotated[str, Field(min_length=1, max_length=256, pattern=SAMPLE_ID)]
Digest = Annotated[str, Field(pattern=DIGEST)]
DeviceLabel = Annotated[str, Field(pattern=DEVICE_LABEL)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Body(BaseModel):
    """What is sent: a number is a number, neither a text nor true or false."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Problem(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = Field(None, description="as in the header `X-Request-Id` and in the service's log")


# -- datasets --------------------------------------------------------------------------------------


class DatasetCreate(Body):
    name: Name
    source: Choice = Field(description="a source of the catalog; `upload` waits for `PUT …/content`")
    carried_for: str | None = Field(
        None,
        pattern=id_pattern("mdl"),
        description="of source `upload`: samples that this model is to forget, whose data are not held here (source "
        "`external`), with never-trained controls as holdout; all of it is erased by the deletion request that names "
        "the dataset, or unused after a day",
    )
    id_namespace: Name | None = Field(
        None,
        max_length=60,
        description="where its sample ids come from: an id that was erased in one dataset of a namespace is left out "
        "of every later one; without a namespace an id means something in its own dataset only",
    )

    @field_validator("source")
    @classmethod
    def _source(cls, choice: Choice) -> Choice:
        return choose("sources", choice)

    @model_validator(mode="after")
    def _one_meaning(self) -> DatasetCreate:
        if self.carried_for is not None and self.id_namespace is not None:
            raise ValueError("a carried dataset is erased whole, so that its ids need no namespace")
        return self


DatasetState = Literal["awaiting-content", "ingesting", "ready", "failed", "erased"]


class DatasetOut(BaseModel):
    id: str
    name: str
    source: Choice
    state: DatasetState
    carried_for: str | None = Field(description="the model that is to forget them; they are kept no longer")
    id_namespace: str | None = Field(description="where its sample ids come from, if it says so")
    expires_at: Time | None = Field(description="of a carried dataset: when it is erased unless a request uses it")
    samples: int = Field(description="taken in, of both splits, those included that were erased since")
    train_samples: int = Field(description="of them in the train split")
    classes: int
    class_names: list[str | None] | None = Field(
        description="by label, where the source names them; null in the place of one whose samples are all erased"
    )
    shape: list[int] | None
    erased_samples: int = Field(description="of both splits")
    job: str | None = Field(None, description="the ingest job, in the reply that started it")
    problem: dict[str, Any] | None
    created_at: Time


class SampleOut(BaseModel):
    id: str
    label: int
    split: Literal["train", "holdout"]


# -- models ----------------------------------------------------------------------------------------


class BaseBody(Body):
    """A version of another model, of the same architecture, that never saw the dataset."""

    model: str = Field(pattern=reference("mdl"), description="its id, or its name")
    version: int | None = Field(None, ge=1, lt=2**31, description="absent: the current one")
    never_saw: str | None = Field(
        None,
        min_length=10,
        max_length=1000,
        description="your word that it never saw the dataset, and why; a base whose data are not held here needs it, "
        "and every report repeats it",
    )


class BaseOut(BaseModel):
    model: str
    version: int
    digest: str
    never_saw: str = Field(description="why it is said that the base never saw the dataset")


class ModelCreate(Body):
    name: Name
    dataset: str = Field(pattern=reference("dst"), description="its id, or its name")
    architecture: Choice
    recipe: Choice = Field(default=Choice(name="sgd"), validate_default=True)
    policy: Policy = Field(default_factory=Policy)
    input: InputBody = Field(
        default_factory=InputBody, description="what the network sees of an image; absent: the image as it is"
    )
    base: BaseBody | None = Field(
        None,
        description="what training starts from, exact retraining and reference models too; null: random weights. Its "
        "head is replaced",
    )
    device: DeviceLabel | None = Field(None, description="only workers of this device label run its jobs; null: any")

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
    notes: list[str] = Field(description="what this policy cannot do, said before it is needed")
    input: InputContract
    base: BaseOut | None
    device: str | None
    current_version: int | None
    blessed_version: int | None = Field(
        description="the version that its owner last trained, imported or promoted; the utility floor is held against "
        "it, too"
    )
    created_at: Time


class Erasable(BaseModel):
    """What deleting would erase and end."""

    versions: list[int] = Field(description="whose checkpoints would go")
    bytes: int
    adversarial_sets: int = 0
    aliases: list[str] = Field(default_factory=list)
    jobs_cancelled: int = 0
    requests_settled: int = Field(0, description="open deletion requests that the end of the whole model settles")
    needed: list[str] = Field(description="who needs it, in words; while there is anybody, it is refused")


class TrainBody(Body):
    seed: Seed = 0
    exclude_request: str | None = Field(
        None, pattern=id_pattern("del"), description="retrain exactly without this request's samples"
    )
    compare_only: bool = Field(False, description="keep the result to compare with; never publish it")
    promote: bool = Field(
        False,
        description="let the result take the place of a current version; else it is a candidate, which `:promote` "
        "makes current",
    )


class AuditBody(Body):
    version: int | None = Field(None, ge=1, lt=2**31, description="absent: the current one")
    audit: Choice | None = Field(None, description="absent: the policy's")
    probes: tuple[Choice, ...] | None = Field(
        None, strict=False, max_length=8, description="absent: the policy's, of canaries none"
    )
    sample_ids: Annotated[list[SampleId], Field(min_length=1, max_length=100_000)] | None = Field(
        None, description="measure these instead of the forget set of the batch that made the version"
    )
    grouped: bool = Field(False, description="the samples named were chosen together: 0.5 is not their null")
    canaries: bool = Field(
        False, description="measure the canaries that this version and those before it have forgotten, instead"
    )

    @model_validator(mode="after")
    def _one_set(self) -> AuditBody:
        if self.canaries and (self.sample_ids is not None or self.grouped):
            raise ValueError("`canaries` takes the place of `sample_ids`")
        return self

    @field_validator("audit")
    @classmethod
    def _audit(cls, choice: Choice | None) -> Choice | None:
        return choose("audits", choice) if choice else None

    @field_validator("probes")
    @classmethod
    def _probes(cls, probes: tuple[Choice, ...] | None) -> tuple[Choice, ...] | None:
        return choose_probes(probes) if probes else probes


class AuditOut(BaseModel):
    id: str
    job: str
    published: bool = Field(description="the version was published with this report; others were made since")
    verdict: Literal["pass", "fail", "inconclusive"]
    created_at: Time


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


Logits = Annotated[list[float], Field(min_length=2, max_length=10_000)]


class Stated(Body):
    """What the model's owner measured, on the holdout or on the samples named."""

    accuracy: float | None = Field(None, ge=0, le=1, description="a fraction")
    logits: Annotated[list[Logits], Field(min_length=1, max_length=256)] | None = Field(
        None, description="of `sample_ids`, in their order; each row in the order of the network's own outputs"
    )
    sample_ids: Annotated[list[SampleId], Field(min_length=1, max_length=100_000)] | None = Field(
        None, description="which samples; absent: the holdout"
    )
    tolerance: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="largest difference that is agreement; absent: 0.005 of the accuracy, 0.01 of any logit",
    )

    @model_validator(mode="after")
    def _one_measure(self) -> Stated:
        if (self.accuracy is None) == (self.logits is None):
            raise ValueError("send either `accuracy` or `logits`")
        if self.logits is not None:
            if len(self.sample_ids or ()) != len(self.logits):
                raise ValueError("`logits` needs `sample_ids`, one for each row")
            if len({len(row) for row in self.logits}) > 1:
                raise ValueError("every row of `logits` must have one number for each class")
        elif self.tolerance is not None and self.tolerance > 1:
            raise ValueError("the `tolerance` of an accuracy is a fraction")
        return self


class VersionCreate(Body):
    digest: Digest = Field(description="sha256 of the safetensors file that will be sent")
    trained_on: (
        Literal["train-split", "not-held"] | Annotated[list[SampleId], Field(min_length=1, max_length=1_000_000)]
    ) = Field(
        description="the ids that the checkpoint was trained on, or the dataset's whole train split, or `not-held` "
        "where the dataset is of source `external`"
    )
    stated: Stated | None = Field(
        None, description="the import measures the same, and refuses a checkpoint that does not agree"
    )


Origin = Literal["trained", "imported", "unlearned", "comparison"]


class VersionOut(BaseModel):
    id: str = Field(description="as events and webhooks name it")
    model: str
    number: int
    state: Literal["candidate", "current", "superseded", "purged"]
    origin: Origin
    parent: int | None
    digest: str
    size: int = Field(description="bytes; 0 while an announced checkpoint has not been sent")
    trained_samples: int | None = Field(description="null: on data that are not held here")
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
    sample_ids: Annotated[list[SampleId], Field(min_length=1, max_length=100_000)] | None = Field(
        None, description="neither these nor `subjects` for a dataset that is `carried_for` a model: all of it"
    )
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
        if self.sample_ids is not None and self.subjects is not None:
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


class ReceiptListed(ReceiptOut):
    request: str
    model: str | None


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


class EscalationOut(BaseModel):
    number: int = Field(description="from 1: the policy's own method")
    of: int
    method: str
    after: str | None = Field(description="the job whose candidate was rejected before it")
    why: str | None = Field(description="why that one was")
    next: str | None = Field(description="the job that its batch went on to")


class JobOut(BaseModel):
    id: str
    kind: str = Field(
        description="ingest, train, import, references, reference, precompute, unlearn, audit, purge; a service of a "
        "newer version may have left others"
    )
    state: Literal["queued", "running", "succeeded", "rejected", "failed", "cancelled", "dead"]
    waiting_for: str | None = Field(description="of a queued job that no live worker takes: which worker is missing")
    stage: str | None
    fraction: float
    eta_seconds: float | None = Field(
        description="from the last progress, at the pace up to then; absent unless it runs"
    )
    attempts: int
    dataset: str | None
    model: str | None
    request: str | None
    parent: str | None = Field(description="the job that this one is a part of")
    device: str | None
    escalation: EscalationOut | None = Field(description="of an unlearn job: its step of the policy's escalation")
    result: dict[str, Any] | None
    problem: dict[str, Any] | None
    created_at: Time
    started_at: Time | None
    finished_at: Time | None


class WorkerOut(BaseModel):
    name: str
    device: str
    label: str = Field(description="device label that models may name")
    kinds: list[str] = Field(description="kinds of jobs that it takes; none: every kind")
    offers: list[str] = Field(description="plug-ins and libraries that not every worker has")
    device_memory: int = Field(description="peak, bytes")
    seen_at: Time


class WorkerList(BaseModel):
    workers: list[WorkerOut]


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
    role: str | None = Field(description="of a user of the console, who signs in and has no token; null: a key")
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None


class KeyMade(KeyOut):
    token: str | None = Field(None, description="the key itself; shown once, absent when the reply is replayed")


EventKind = Annotated[str, Field(pattern=EVENT)]


class WebhookCreate(Body):
    url: str = Field(min_length=8, max_length=2000, pattern=URL)
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


DeliveryState = Literal["pending", "delivered", "failed"]


class DeliveryOut(BaseModel):
    id: str
    kind: str
    state: DeliveryState
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


class CertificateOut(BaseModel):
    digest: str = Field(description="sha256 of the statement; what a newer certificate names as superseded")
    request: str
    supersedes: str | None
    receipts_done: int = Field(description="of the request's receipts, when it was sealed")
    issued_at: Time


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
    deleted: bool = Field(description="false: there was no salt (left)")


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
    plugin: bool = Field(description="a package that the operator installed adds it")
    module: str | None = Field(description="a library that its workers must have besides Lethe's own")


class Readiness(BaseModel):
    status: Literal["ready", "starting", "degraded"]
    database: Literal["ok"]
    broker: Literal["ok", "unreachable", "refuses", "none"]
    workers: int
    storage: Literal["ok", "unreachable", "refuses"]
    degraded: list[str] = Field(description="what is missing in words; requests are accepted all the same")
