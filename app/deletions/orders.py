"""Orders of clients and their results: plain values for accepting deletion requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.core import db
from app.core.positions import Positions
from app.core.tables import Model, OutcomeRow


@dataclass(frozen=True)
class Order:
    """A deletion that a client asks for: samples by id, or all samples of some subjects.

    `model_id`: this model only; the dataset keeps the samples. `validate_only`: say what it would mean.
    """

    tenant_id: str
    sample_ids: Sequence[str]
    subjects: Sequence[str]
    dataset_id: str
    model_id: str | None
    jurisdiction: str
    basis: str
    allow_data_loss: bool
    validate_only: bool = False
    traceparent: str | None = None  # of the call, which its jobs and events continue
    again: Mapping[str, Any] = field(default_factory=dict)  # columns of a request that a restored backup has lost
    actor: str = db.SERVICE  # id of the key that asks
    received_at: datetime | None = None  # UTC; none: now
    received_reason: str | None = None
    reference: str | None = None
    channel: str | None = None
    ground: str | None = None
    complaint_about: str | None = None
    case_id: str | None = None


@dataclass(frozen=True)
class Impact:
    """What carrying out an order would mean.

    duplicates: how many other samples have the same content and stay, None where nobody knows; duplicate_ids: the first
    of them. Both are of a preview.
    """

    positions: Positions
    affected: list[Model]
    received_at: datetime
    due_at: datetime
    duplicates: int | None = None
    duplicate_ids: Sequence[str] = ()
    through: Sequence[tuple[Model, str]] = ()  # models that learned of the samples through their base, and how


@dataclass
class NewRequest:
    """A request as it was just written: the members of its row that clients see, outside any session."""

    id: str
    tenant_id: str
    dataset_id: str
    model_id: str | None
    decision: str
    jurisdiction: str
    rule: str
    basis: str
    by_subject: bool
    sample_count: int
    refused_count: int
    positions: bytes
    received_at: datetime
    due_at: datetime
    confirm_by: datetime | None
    posted_at: datetime | None
    received_reason: str | None
    channel: str | None
    local_year: int | None
    ground: str | None
    complaint_about: str | None
    case_id: str | None
    reference: str | None = None
    replayed_at: datetime | None = None
    reason: str | None = None
    extended_at: datetime | None = None
    extension_reason: str | None = None
    decided_at: datetime | None = None
    fulfilled_at: datetime | None = None
    refusal_ground: str | None = None
    identity: str = "not-needed"
    identity_asked_at: datetime | None = None
    identity_until: datetime | None = None
    identity_ended_at: datetime | None = None
    confirmed_at: datetime | None = None
    remains_until: datetime | None = None
    remains_reason: str | None = None
    extension_sent_at: datetime | None = None
    answered_at: datetime | None = None
    answered_how: str | None = None


@dataclass
class NewOutcome:
    """The same of an outcome."""

    model_id: str
    state: str
    job_id: str | None
    version: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Accepted:
    """A new request as it was written, and its outcomes in the order of their models."""

    request: NewRequest
    outcomes: list[OutcomeRow | NewOutcome]
