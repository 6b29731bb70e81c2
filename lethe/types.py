"""The documents that the service answers with, as typed dictionaries. `tests/lethe/test_client_types.py` holds them
to the OpenAPI document. Times are RFC 3339 text in UTC."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Json = dict[str, Any]

JobState = Literal["queued", "running", "succeeded", "rejected", "failed", "cancelled", "dead"]
Split = Literal["train", "holdout"]
Scope = Literal["read", "request", "operate", "samples", "audit", "admin"]
RequestStatus = Literal[
    "accepted", "processing", "published", "fulfilled", "incomplete", "needs-attention", "held", "refused", "cancelled"
]
Verdict = Literal["pass", "fail", "inconclusive"]
NoticeKind = Literal["acknowledgement", "identity", "extension", "refusal", "completion", "recall"]
NoticeText = Literal[NoticeKind, "extension-ccpa", "refusal-ccpa"]
Language = Literal["en", "de", "fr"]


class Choice(TypedDict):
    """A name of the catalog and its parameters."""

    name: str
    params: Json


class Dataset(TypedDict):
    id: str
    name: str
    source: Choice
    state: Literal["awaiting-content", "ingesting", "ready", "failed", "erased"]
    carried_for: str | None
    id_namespace: str | None
    expires_at: str | None
    samples: int
    train_samples: int
    classes: int
    class_names: list[str | None] | None
    shape: list[int | None] | None
    erased_samples: int
    job: str | None
    canaries: Coin | None
    problem: Json | None
    created_at: str


class Coin(TypedDict):
    """Of a dataset whose canaries the service assigns: the digest that was logged first, and the coin."""

    commitment: str
    coin: str | None


class Shard(TypedDict):
    number: int
    content_type: str
    split: Literal["train", "holdout", "test", "val", "validation", "valid"] | None
    size: int
    whole: bool
    digest: str | None
    samples: int | None


class ClassCount(TypedDict):
    label: int
    train: int
    holdout: int


class SizeCount(TypedDict):
    height: int
    width: int
    samples: int


class DuplicateCount(TypedDict):
    samples: int
    contents: int
    across_splits: int


class Conversion(TypedDict):
    code: str
    samples: int
    detail: str


class IngestReport(TypedDict):
    samples: int
    form: str
    splits: dict[str, int]
    classes: list[ClassCount]
    modes: dict[str, int]
    sizes: list[SizeCount]
    different_sizes: int
    constant: int
    duplicates: DuplicateCount
    conversions: list[Conversion]


class Picture(TypedDict):
    label: int
    split: Split
    height: int
    width: int
    png: str


class DatasetErasable(TypedDict):
    samples: int
    bytes: int
    copies: int
    reference_signals: int
    shards: int
    needed: list[str]


class Sample(TypedDict):
    id: str
    label: int
    split: Split


class Model(TypedDict):
    id: str
    name: str
    dataset: str
    architecture: Choice
    recipe: Choice
    policy: Json
    current_version: int | None
    blessed_version: int | None
    device: str | None
    notes: list[str]
    input: Json
    base: Json | None
    created_at: str


class Version(TypedDict):
    id: str
    model: str
    number: int
    state: Literal["candidate", "current", "superseded", "purged"]
    origin: Literal["trained", "imported", "unlearned", "comparison"]
    parent: int | None
    digest: str
    size: int
    trained_samples: int | None
    metrics: Json
    job: str | None
    created_at: str
    purge_after: str | None
    purged_at: str | None


class Audit(TypedDict):
    id: str
    job: str
    published: bool
    verdict: Literal["pass", "fail", "inconclusive"]
    created_at: str


class Alias(TypedDict):
    name: str
    version: int
    updated_at: str


class Outcome(TypedDict):
    model: str
    state: Literal["pending", "batched", "published", "purged", "attention"]
    verdict: Verdict | None
    job: str | None
    version: int | None
    reason: str | None
    forecast_at: str | None


class Receipt(TypedDict):
    subject: str
    detail: str
    digest: str | None
    due_at: str | None
    done_at: str | None


class ReceiptListed(Receipt):
    request: str
    jurisdiction: str
    model: str | None


class Refusal(TypedDict):
    """One refusal, of the request or of a part."""

    at: str
    by: str | None
    samples: int
    ground: str | None
    reason: str | None
    late: bool
    letter_sent_at: str | None


class Identity(TypedDict):
    status: Literal["not-needed", "asked", "confirmed", "refused"]
    asked_at: str | None
    until: str | None
    ended_at: str | None
    moves_due_at: bool


class Proposal(TypedDict):
    """A refusal that waits for its second person."""

    by: str
    reason: str
    ground: str | None
    samples: int | None
    created_at: str


class Remain(TypedDict):
    subject: str
    model: str | None
    until: str | None


class HistoryEntry(TypedDict):
    at: str
    kind: str
    actor: str | None
    actor_name: str | None
    reason: str | None
    data: Json
    leaf: int | None


class DeletionRequest(TypedDict):
    id: str
    status: RequestStatus
    reason: str | None
    dataset: str
    model: str | None
    samples: int
    samples_refused: int
    jurisdiction: str
    rule: str
    basis: str
    ground: str | None
    reference: str | None
    identity: Identity
    complaint_about: str | None
    case: str | None
    received_at: str
    posted_at: str
    received_reason: str | None
    channel: str | None
    confirm_by: str | None
    confirmed_at: str | None
    due_at: str
    extended_at: str | None
    extension_reason: str | None
    extension_sent_at: str | None
    decided_at: str | None
    refusal_ground: str | None
    refusals: list[Refusal]
    proposal: Proposal | None
    fulfilled_at: str | None
    verdict: Verdict | None
    model_replaced_at: str | None
    erasure_complete_at: str | None
    answered_at: str | None
    answered_how: str | None
    remains: list[Remain]
    remains_reason: str | None
    outcomes: list[Outcome]
    receipts: list[Receipt]


class Preview(TypedDict):
    """What a deletion request would mean; nothing was stored."""

    samples: int
    models: list[str]
    due_at: str
    duplicates: int | None
    duplicate_ids: list[str]
    through_base: list[str]


class ImportLine(TypedDict):
    line: int
    status: int
    id: str | None
    problem: Json | None


class Escalation(TypedDict):
    """An unlearn job's step of its policy's escalation."""

    number: int
    of: int
    method: str
    after: str | None
    why: str | None
    next: str | None


class Worker(TypedDict):
    name: str
    device: str
    label: str
    kinds: list[str]
    offers: list[str]
    device_memory: int
    seen_at: str


class Job(TypedDict):
    id: str
    kind: str
    state: JobState
    waiting_for: str | None
    stage: str | None
    fraction: float
    eta_seconds: float | None
    attempts: int
    dataset: str | None
    model: str | None
    request: str | None
    parent: str | None
    device: str | None
    due_at: str | None
    escalation: Escalation | None
    result: Json | None
    problem: Json | None
    created_at: str
    started_at: str | None
    finished_at: str | None


class Key(TypedDict):
    id: str
    name: str
    scopes: list[Scope]
    role: str | None
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class KeyMade(Key):
    token: str | None


class Pool(TypedDict):
    """Reference models that were sent."""

    pool: str
    references: int
    samples: int
    design: Literal["given", "given-other"]


class AuditOffer(TypedDict):
    kind: Literal["canaries", "own-references", "two-references", "folds", "pool", "retrained-null"]
    judges: Literal["request", "procedure"]
    trainings: float
    seconds: float | None
    smallest_margin: float | None
    smallest_margin_alike: float | None
    possible: bool
    lacks: list[str]
    limits: str


class AuditPlan(TypedDict):
    model: str
    margin: float
    samples: int
    people: int | None
    controls: int
    control_people: int
    canaries_trained: int
    canaries_held_out: int
    training_seconds: float | None
    signal: float | None
    offers: list[AuditOffer]


class Webhook(TypedDict):
    id: str
    url: str
    events: list[str]
    created_at: str
    disabled_at: str | None


class WebhookMade(Webhook):
    secret: str | None


class Delivery(TypedDict):
    id: str
    kind: str
    state: Literal["pending", "delivered", "failed"]
    attempts: int
    last_error: str | None
    created_at: str
    due_at: str | None


class RegisterEntry(TypedDict):
    request: str
    status: str
    reference: str | None
    dataset: str
    model: str | None
    samples: int
    samples_refused: int
    basis: str
    ground: str | None
    jurisdiction: str
    rule: str
    channel: str | None
    received_on: str
    received_at: str
    posted_at: str
    received_reason: str | None
    identity: str
    complaint_about: str | None
    confirm_by: str | None
    confirmed_at: str | None
    due_at: str
    extended_at: str | None
    extension_reason: str | None
    extension_sent_at: str | None
    decided_at: str | None
    reason: str | None
    refusal_ground: str | None
    refusal_reason: str | None
    refused_late: bool | None
    verdict: str | None
    model_replaced_at: str | None
    fulfilled_at: str | None
    erasure_complete_at: str | None
    answered_at: str | None
    answered_how: str | None
    days: float | None


class Summary(TypedDict):
    as_of: str
    year: int | None
    received: int
    by_status: dict[str, int]
    by_verdict: dict[str, int]
    samples: int
    extended: int
    overdue: list[str]
    overdue_count: int
    due_soon: list[str]
    due_soon_count: int
    answered_late: int
    mean_days: float | None
    median_days: float | None


class Certificate(TypedDict):
    digest: str
    request: str
    supersedes: str | None
    receipts_done: int
    issued_at: str


class CertificateStatus(TypedDict):
    digest: str
    request: str
    status: Literal["valid", "superseded", "contested", "revoked"]
    since: str
    superseded_by: str | None
    contested_by: list[str]
    revoked_at: str | None


class Notice(TypedDict):
    id: str
    kind: NoticeKind
    language: Language
    subject: str
    body: str
    created_at: str
    sent_at: str | None
    sent_how: str | None
    sent_by: str | None


class Template(TypedDict):
    kind: NoticeText
    language: Language
    subject: str
    body: str
    updated_at: str | None
    fields: list[str]


class Paper(TypedDict):
    id: str
    kind: Literal["letter", "identity", "other"]
    name: str
    size: int
    digest: str
    created_at: str


class FileCheck(TypedDict):
    name: str
    verified: bool | None
    detail: str


class FileReport(TypedDict):
    """What the service's verifier says of a case file or a certificate."""

    of: Literal["certificate", "negative report", "case file"]
    verified: bool
    checks: list[FileCheck]
    says: list[str]
    not_proved: list[str]
    uncertified: list[str]
    revoked: str | None


class Span(TypedDict):
    """The requests of one letter about several datasets."""

    case: str
    requests: list[str]
    due_at: str
    not_read: list[str]


class Recall(TypedDict):
    id: str
    request: str
    versions: list[Json]
    keys: list[str]
    notice: str
    created_at: str


class Rules(TypedDict):
    two_people_on_refusal: bool
    keep_months: int
    remains: Literal["by-due-date", "by-grace"]
    controller: str
    contact: str
    authority: str
    language: Language


class Figures(TypedDict):
    year: int | None
    received: int
    by_law: dict[str, int]
    by_ground: dict[str, int]
    by_outcome: dict[str, int]
    by_refusal_ground: dict[str, int]
    refused_late: int
    by_verdict: dict[str, int]
    days: Json
    days_by_law: dict[str, Json]


class EnvelopeSignature(TypedDict):
    keyid: str
    sig: str


class Envelope(TypedDict):
    """DSSE: a signed in-toto statement."""

    payload: str
    payloadType: str
    signatures: list[EnvelopeSignature]


class LogKey(TypedDict):
    id: str
    public_key: str
    not_before: str
    not_after: str | None


class LogKeys(TypedDict):
    keys: list[LogKey]


class Progress(TypedDict, total=False):
    """Data of one event of a job."""

    state: JobState
    stage: str | None
    fraction: float
    attempt: int
