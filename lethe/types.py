"""The documents that the service answers with, as typed dictionaries. `tests/lethe/test_client_types.py` holds them
to the OpenAPI document. Times are RFC 3339 text in UTC."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Json = dict[str, Any]

JobState = Literal["queued", "running", "succeeded", "rejected", "failed", "cancelled", "dead"]
Split = Literal["train", "holdout"]
Scope = Literal["read", "request", "operate", "audit", "admin"]
RequestStatus = Literal[
    "accepted", "processing", "published", "fulfilled", "needs-attention", "held", "refused", "cancelled"
]


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
    shape: list[int] | None
    erased_samples: int
    job: str | None
    problem: Json | None
    created_at: str


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
    model: str | None


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
    received_at: str
    confirm_by: str | None
    due_at: str
    extended_at: str | None
    extension_reason: str | None
    decided_at: str | None
    fulfilled_at: str | None
    outcomes: list[Outcome]
    receipts: list[Receipt]


class Preview(TypedDict):
    """What a deletion request would mean; nothing was stored."""

    samples: int
    models: list[str]
    due_at: str


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


class Summary(TypedDict):
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


class Certificate(TypedDict):
    digest: str
    request: str
    supersedes: str | None
    receipts_done: int
    issued_at: str


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
