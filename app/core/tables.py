"""ORM rows. Constraints do the guarding; every row belongs to a tenant.

A *model* is always a classifier. Only `samples` holds the string ids of samples; everything else speaks of a
sample by its integer position in the dataset, in packed form (`app.core.positions`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, query_expression, validates

Json = JSON().with_variant(JSONB(), "postgresql")
Serial = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers only INTEGER keys by itself
Id = String(40)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: DateTime(), dict[str, Any]: Json, list[Any]: Json}  # noqa: RUF012


class Tenant(Base):
    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    served_at: Mapped[datetime | None]  # when a worker last took a job of its: tenants take turns
    served_urgent_at: Mapped[datetime | None]  # the same of jobs with an imminent deadline


class ApiKey(Base):
    """`lifetime_days` is what its successor is given, too; `expires_at` comes sooner once there is one.

    With a `role` it is a user of the console, who has no token but signs in; `identity` is who that is to the identity
    provider.
    """

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[Any]]
    lifetime_days: Mapped[int | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    role: Mapped[str | None] = mapped_column(String(20))
    identity: Mapped[str | None] = mapped_column(Text)
    rotated_from: Mapped[str | None] = mapped_column(Id)  # the key in whose place it came
    __table_args__ = (
        Index(
            "uq_api_keys_identity",
            "identity",
            unique=True,
            postgresql_where=text("identity IS NOT NULL"),
            sqlite_where=text("identity IS NOT NULL"),
        ),
    )


class ConsoleSession(Base):
    """A user's session in the console, or the link that opens one (`is_link`), once. Its token acts as the user's key.

    Only a digest of the token's secret is stored.
    """

    __tablename__ = "console_sessions"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), index=True)
    digest: Mapped[str] = mapped_column(String(64))
    is_link: Mapped[bool]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]


class Agreement(Base):
    """Digests of settings that every part must have alike; the highest number of a name is the present one."""

    __tablename__ = "agreements"
    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]


class Dataset(Base):
    """A manifest of samples and where their bytes are.

    `images` is the digest of its pictures as they came (`app.formats.pictures`), of where they lie
    (`app.formats.references`), or of a .npy blob, uint8 (N, H, W, C), where they came as an array; row = position.
    `requested` marks positions under a deletion request against the whole dataset,
    `erased` those whose bytes are gone (bitmaps).
    """

    __tablename__ = "datasets"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(String(60))
    source_params: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(20))  # awaiting-content | ingesting | ready | failed | erased
    problem: Mapped[dict[str, Any] | None]
    upload: Mapped[str | None] = mapped_column(String(71))
    images: Mapped[str | None] = mapped_column(String(71))
    sample_count: Mapped[int] = mapped_column(Integer, default=0)
    train_count: Mapped[int] = mapped_column(Integer, default=0)
    class_count: Mapped[int] = mapped_column(Integer, default=0)
    shape: Mapped[list[Any] | None]  # [height, width, channels]; no height and width where its pictures differ
    class_names: Mapped[list[Any] | None]  # by label, where the source names them
    # Packed pairs: the first position of a content that several samples have, and the position of each of them.
    # None: not known, where it has no pixels or was taken in by an earlier version.
    duplicates: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    report: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)  # what was taken in, without ids
    id_namespace: Mapped[str | None] = mapped_column(String(60))  # datasets that share it share the meaning of an id
    carried_for: Mapped[str | None] = mapped_column(Id)  # the model that is to forget them; they are kept no longer
    requested: Mapped[bytes] = mapped_column(LargeBinary, default=b"", deferred=True)
    erased: Mapped[bytes] = mapped_column(LargeBinary, default=b"", deferred=True)
    coin: Mapped[str | None] = mapped_column(String(64))  # hex; decides which canaries are trained on
    created_at: Mapped[datetime]


class Sample(Base):
    """The one table with sample ids. Erasing overwrites the id with a keyed digest (a suppression entry)."""

    __tablename__ = "samples"
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    sample_id: Mapped[str] = mapped_column(Text().with_variant(Text(collation="C"), "postgresql"))
    subject: Mapped[str | None] = mapped_column(Text)
    label: Mapped[int] = mapped_column(Integer)
    holdout: Mapped[bool]
    __table_args__ = (
        # The id first: it differs at the first comparison, where the dataset's name is the same in all entries.
        Index("uq_samples_id", "sample_id", "dataset_id", unique=True, postgresql_include=["position"]),
        Index("ix_samples_subject", "dataset_id", "subject"),
        {"sqlite_with_rowid": False},  # so that SQLite's indexes hold the position, too
    )


class Shard(Base):
    """One of the files that a dataset comes in, or what has come of it so far: a row for each piece, by its offset.

    blob: the digest of bytes that are held, until they are taken in. digest: of the whole file, once it has come.
    """

    __tablename__ = "dataset_shards"
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    content_type: Mapped[str] = mapped_column(String(60))
    split: Mapped[str | None] = mapped_column(String(20))  # of all samples, where the file names none
    size: Mapped[int] = mapped_column(BigInteger)
    blob: Mapped[str | None] = mapped_column(String(71))
    digest: Mapped[str | None] = mapped_column(String(71), index=True)
    samples: Mapped[int | None] = mapped_column(Integer)
    held_in: Mapped[str | None] = mapped_column(Id, index=True)  # the dataset that has this file already


class DatasetCopy(Base):
    """What an input contract makes of a dataset's pixels: resized, cropped, in grey. Models of one geometry share it.

    `digest` is that of a .npy blob as the dataset's own; it is rewritten, and goes, with the dataset's pixels.
    """

    __tablename__ = "dataset_copies"
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)  # `InputContract.copy_of`
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    digest: Mapped[str] = mapped_column(String(71))
    shape: Mapped[list[Any]]  # [height, width, channels]
    created_at: Mapped[datetime]


class Suppression(Base):
    """What a tenant has erased and must not take in again: a keyed digest (`app.datasets.suppression`)."""

    __tablename__ = "suppressions"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime]


class Model(Base):
    """A registered classifier. `requested` marks positions under requests that name this model only."""

    __tablename__ = "models"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    name: Mapped[str] = mapped_column(Text)
    architecture: Mapped[str] = mapped_column(String(60))
    architecture_params: Mapped[dict[str, Any]]
    recipe: Mapped[str] = mapped_column(String(60))
    recipe_params: Mapped[dict[str, Any]]
    policy: Mapped[dict[str, Any]]
    input: Mapped[dict[str, Any] | None]  # its input contract; none: images as they are
    base: Mapped[dict[str, Any] | None]  # what its training starts from (`app.models.bases`); none: random weights
    device: Mapped[str | None] = mapped_column(String(40))  # label of the workers that its jobs need; none: any
    current_version: Mapped[int | None] = mapped_column(Integer)
    blessed_version: Mapped[int | None] = mapped_column(Integer)  # that its owner last trained, imported or promoted
    requested: Mapped[bytes] = mapped_column(LargeBinary, default=b"", deferred=True)
    created_at: Mapped[datetime]
    purged_at: Mapped[datetime | None]
    withheld_since: Mapped[datetime | None]  # a backup was restored that lacks carried data which had been forgotten


class Need(Base):
    """What not every worker has, a plug-in or a library, and a job needs: by the id of its model, of the dataset that
    it takes in, or of the job itself."""

    __tablename__ = "needs"
    owner: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(80), primary_key=True)  # `app.catalog.special`


class Alias(Base):
    """A name for one version of a model, such as `production`; its history is in the events."""

    __tablename__ = "aliases"
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    version: Mapped[int] = mapped_column(Integer)
    updated_at: Mapped[datetime]


class Version(Base):
    """An immutable checkpoint. `trained_on`: bitmap of the exact positions it was trained on."""

    __tablename__ = "versions"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int] = mapped_column(Integer)
    parent: Mapped[int | None] = mapped_column(Integer)
    origin: Mapped[str] = mapped_column(String(20))  # trained | imported | unlearned | comparison
    state: Mapped[str] = mapped_column(String(20))
    digest: Mapped[str] = mapped_column(String(71))
    size: Mapped[int] = mapped_column(BigInteger)
    trained_on: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    trained_count: Mapped[int | None] = mapped_column(Integer)  # none: on samples that are not held here
    class_counts: Mapped[list[Any]]  # training samples per class
    metrics: Mapped[dict[str, Any]]
    stated: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)  # of an import: what its owner measured
    # Of an import: the network's names of the file's tensors, where they differ; null is one that no network has.
    file_names: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    fingerprint: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)  # `app.formats.fingerprints`
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), unique=True)
    created_at: Mapped[datetime]
    purge_after: Mapped[datetime | None]
    purged_at: Mapped[datetime | None]
    __table_args__ = (
        UniqueConstraint("model_id", "number", name="uq_versions_number"),
        # Pages of the list, newest first, whole and by each filter.
        Index("ix_versions_listed", "model_id", "id"),
        Index("ix_versions_state", "model_id", "state", "id"),
        Index("ix_versions_origin", "model_id", "origin", "id"),
    )


class DeletionRequest(Base):
    """The legal life of one request. `positions`: its samples, packed, in the order of their positions."""

    __tablename__ = "deletion_requests"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    decision: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str | None] = mapped_column(Text)
    jurisdiction: Mapped[str] = mapped_column(String(20))
    basis: Mapped[str] = mapped_column(String(60))
    sample_count: Mapped[int] = mapped_column(Integer)
    positions: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    received_at: Mapped[datetime]
    due_at: Mapped[datetime]
    rule: Mapped[str] = mapped_column(String(60), server_default="")  # which reading of the law set `due_at`
    confirm_by: Mapped[datetime | None]
    extended_at: Mapped[datetime | None]
    extension_reason: Mapped[str | None] = mapped_column(Text)
    decided_at: Mapped[datetime | None]
    refused_count: Mapped[int] = mapped_column(Integer, server_default="0")  # of a partial grant
    by_subject: Mapped[bool] = mapped_column(server_default=text("false"))  # a grouped set: 0.5 is not its null
    fulfilled_at: Mapped[datetime | None]
    overdue_at: Mapped[datetime | None]  # when it was noticed that it had not ended in time
    replayed_at: Mapped[datetime | None]  # fulfilled before a backup was restored, so that it must be carried out again
    posted_at: Mapped[datetime | None]  # when it was entered here, where that was after it was received
    received_reason: Mapped[str | None] = mapped_column(Text)  # why it was entered later
    ground: Mapped[str | None] = mapped_column(String(20))  # the statute's, of `app.rules.grounds`
    refusal_ground: Mapped[str | None] = mapped_column(String(30))
    identity: Mapped[str] = mapped_column(String(20), server_default="not-needed")  # | asked | confirmed | refused
    identity_asked_at: Mapped[datetime | None]
    identity_until: Mapped[datetime | None]  # until when the controller waits for it
    identity_ended_at: Mapped[datetime | None]
    confirmed_at: Mapped[datetime | None]  # when its receipt was confirmed to the person
    complaint_about: Mapped[str | None] = mapped_column(Id)  # the earlier request that this one reopens
    case_id: Mapped[str | None] = mapped_column(Id)  # of requests of one letter about several datasets: the first's id
    remains_until: Mapped[datetime | None]  # later than the due date, by a decision of a person
    remains_reason: Mapped[str | None] = mapped_column(Text)
    channel: Mapped[str | None] = mapped_column(String(20))  # how it came: `app.rules.compliance.Channel`
    local_year: Mapped[int | None] = mapped_column(Integer)  # of receipt where the controller acts, if it is not UTC's
    wait_over_at: Mapped[datetime | None]  # when it was noticed that no proof of identity had come in time
    extension_sent_at: Mapped[datetime | None]  # when the notice of the extension went
    answered_at: Mapped[datetime | None]  # when the letter with the answer went
    answered_how: Mapped[str | None] = mapped_column(Text)
    __table_args__ = (
        Index(
            "ix_requests_to_confirm",
            "tenant_id",
            "confirm_by",
            "id",
            postgresql_where=text("confirm_by IS NOT NULL AND confirmed_at IS NULL AND fulfilled_at IS NULL"),
            sqlite_where=text("confirm_by IS NOT NULL AND confirmed_at IS NULL AND fulfilled_at IS NULL"),
        ),
        Index(
            "ix_requests_no_answer",
            "tenant_id",
            "received_at",
            "id",
            postgresql_where=text("fulfilled_at IS NOT NULL AND answered_at IS NULL"),
            sqlite_where=text("fulfilled_at IS NOT NULL AND answered_at IS NULL"),
        ),
        Index(
            "ix_requests_extension_unsent",
            "tenant_id",
            "id",
            postgresql_where=text("extended_at IS NOT NULL AND extension_sent_at IS NULL"),
            sqlite_where=text("extended_at IS NOT NULL AND extension_sent_at IS NULL"),
        ),
        Index(
            "ix_requests_waiting",
            "identity_until",
            postgresql_where=text("identity = 'asked' AND wait_over_at IS NULL"),
            sqlite_where=text("identity = 'asked' AND wait_over_at IS NULL"),
        ),
        Index(
            "ix_requests_complaints",
            "complaint_about",
            postgresql_where=text("complaint_about IS NOT NULL"),
            sqlite_where=text("complaint_about IS NOT NULL"),
        ),
        Index(
            "ix_requests_case",
            "case_id",
            postgresql_where=text("case_id IS NOT NULL"),
            sqlite_where=text("case_id IS NOT NULL"),
        ),
        Index(
            "ix_requests_open",
            "due_at",
            postgresql_where=text("fulfilled_at IS NULL"),
            sqlite_where=text("fulfilled_at IS NULL"),
        ),
        Index(  # what still needs an answer, by its due date
            "ix_requests_unanswered",
            "tenant_id",
            "due_at",
            "id",
            "decision",
            postgresql_where=text("fulfilled_at IS NULL"),
            sqlite_where=text("fulfilled_at IS NULL"),
        ),
        # Pages of the list, newest first, whole and by each filter.
        Index("ix_requests_listed", "tenant_id", "received_at", "id", "due_at"),
        Index("ix_requests_dataset", "dataset_id", "received_at", "id"),
        Index("ix_requests_decision", "tenant_id", "decision", "received_at", "id"),
        Index(
            "ix_requests_model",
            "model_id",
            "id",
            postgresql_where=text("model_id IS NOT NULL"),
            sqlite_where=text("model_id IS NOT NULL"),
        ),
        Index(
            "ix_requests_unfulfilled",
            "tenant_id",
            "received_at",
            "id",
            "decision",
            postgresql_where=text("fulfilled_at IS NULL"),
            sqlite_where=text("fulfilled_at IS NULL"),
        ),
        Index(
            "ix_requests_fulfilled",
            "fulfilled_at",
            postgresql_where=text("fulfilled_at IS NOT NULL"),
            sqlite_where=text("fulfilled_at IS NOT NULL"),
        ),
        Index(
            "ix_requests_replayed",
            "dataset_id",
            postgresql_where=text("replayed_at IS NOT NULL"),
            sqlite_where=text("replayed_at IS NOT NULL"),
        ),
    )


class Tally(Base):
    """How many of a tenant's requests, received in a year, have one value. Read together with `TallyChange`.

    Triggers of the database write the changes, in the transaction of the request (`app.deletions.tallies`).
    """

    __tablename__ = "tallies"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    year: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(20), primary_key=True)  # request | answered | verdict
    value: Mapped[str] = mapped_column(String(200), primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    samples: Mapped[int] = mapped_column(BigInteger)


class TallyChange(Base):
    """What is to be added to a tally, and is not yet: rows of their own, so that nobody waits for a tally."""

    __tablename__ = "tally_changes"
    number: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(Id)
    year: Mapped[int] = mapped_column(Integer)
    name: Mapped[str] = mapped_column(String(20))
    value: Mapped[str] = mapped_column(String(200))
    requests: Mapped[int] = mapped_column(BigInteger)
    samples: Mapped[int] = mapped_column(BigInteger)
    __table_args__ = (Index("ix_tally_changes", "tenant_id", "name"),)


class OutcomeRow(Base):
    """What became of one request in one affected model."""

    __tablename__ = "outcomes"
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    state: Mapped[str] = mapped_column(String(20))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    version: Mapped[int | None] = mapped_column(Integer)
    reason: Mapped[str | None] = mapped_column(Text)
    __table_args__ = (
        Index("ix_outcomes_model", "model_id", "request_id"),
        Index(
            "ix_outcomes_pending",
            "model_id",
            postgresql_where=text("state = 'pending'"),
            sqlite_where=text("state = 'pending'"),
        ),
    )


class Job(Base):
    """The machine life. `lane` is what must not run twice at once, held by a partial unique index."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str] = mapped_column(String(20))
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"))
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    request_id: Mapped[str | None] = mapped_column(ForeignKey("deletion_requests.id"))
    parent_id: Mapped[str | None] = mapped_column(Id)  # the job that this one is a part of
    device: Mapped[str | None] = mapped_column(String(40))  # label of the workers that may take it; none: any
    lane: Mapped[str] = mapped_column(String(60))
    params: Mapped[dict[str, Any]]
    seed: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(20))
    stage: Mapped[str | None] = mapped_column(String(40))
    fraction: Mapped[float] = mapped_column(default=0.0)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    fence: Mapped[int] = mapped_column(Integer, default=0)
    owner: Mapped[str | None] = mapped_column(Text)
    lease_until: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    result: Mapped[dict[str, Any] | None]
    problem: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    available_at: Mapped[datetime]
    hinted_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    traceparent: Mapped[str | None] = mapped_column(String(55))  # W3C: whoever asked for it
    due_at: Mapped[datetime | None] = query_expression()  # no column: of its requests, where a list is in their order
    __table_args__ = (
        Index(
            "uq_jobs_running_lane",
            "lane",
            unique=True,
            postgresql_where=text("state = 'running'"),
            sqlite_where=text("state = 'running'"),
        ),
        Index("ix_jobs_claim", "state", "available_at"),
        Index(
            "ix_jobs_parts",
            "parent_id",
            "id",
            postgresql_where=text("parent_id IS NOT NULL"),
            sqlite_where=text("parent_id IS NOT NULL"),
        ),
        Index(  # whether another job of its lane goes before it
            "ix_jobs_waiting",
            "lane",
            "id",
            "available_at",
            postgresql_where=text("state = 'queued'"),
            sqlite_where=text("state = 'queued'"),
        ),
        Index("ix_jobs_counted", "kind", "state", "fence"),  # all that a scrape of the metrics reads
        Index("ix_jobs_of_model", "model_id", "kind", "state", "id"),  # what runs on it, and how long such jobs took
        # Pages of the list, newest first, whole and by each filter.
        Index("ix_jobs_listed", "tenant_id", "id"),
        Index("ix_jobs_created", "tenant_id", "created_at", "id"),
        Index("ix_jobs_dataset", "dataset_id", "id"),
        Index("ix_jobs_model", "model_id", "id"),
        Index("ix_jobs_kind", "tenant_id", "kind", "id"),
        Index("ix_jobs_state", "tenant_id", "state", "id"),
        Index(
            "ix_jobs_request",
            "request_id",
            "kind",
            "state",
            "id",
            postgresql_where=text("request_id IS NOT NULL"),
            sqlite_where=text("request_id IS NOT NULL"),
        ),
    )


class JobArtifact(Base):
    """What a stage of a job has stored, so that a new owner goes on from there: adversarial, candidate, resume …"""

    __tablename__ = "job_artifacts"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    digest: Mapped[str] = mapped_column(String(71))
    facts: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class JobEvent(Base):
    """Progress that clients follow; its number is the SSE event id."""

    __tablename__ = "job_events"
    number: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    kind: Mapped[str] = mapped_column(String(20))  # state | progress
    data: Mapped[dict[str, Any]]
    at: Mapped[datetime]
    __table_args__ = (
        Index(
            "ix_job_events_lost",
            "kind",
            postgresql_where=text("kind = 'lease-lost'"),
            sqlite_where=text("kind = 'lease-lost'"),
        ),
        Index("ix_job_events_job", "job_id", "number"),
    )


class AuditRow(Base):
    """A report: of a published version, or of an exact retrain kept to compare with (`comparison_of`: the job)."""

    __tablename__ = "audit_reports"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    version: Mapped[int | None] = mapped_column(Integer)
    compares_request: Mapped[str | None] = mapped_column(ForeignKey("deletion_requests.id"))
    verdict: Mapped[str] = mapped_column(String(20))
    report: Mapped[dict[str, Any]] = mapped_column(Json, deferred=True)
    created_at: Mapped[datetime]
    __table_args__ = (
        Index("ix_audit_version", "model_id", "version"),
        Index("ix_audit_verdict", "verdict"),
        Index(  # those without one are nearly all: SQLite would look for them here
            "ix_audit_compared",
            "compares_request",
            postgresql_where=text("compares_request IS NOT NULL"),
            sqlite_where=text("compares_request IS NOT NULL"),
        ),
    )


class AdversarialRow(Base):
    """A precomputed adversarial set of one base version (AMUN without -A), held until its samples are erased."""

    __tablename__ = "adversarial_sets"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    version: Mapped[int] = mapped_column(Integer)
    attack: Mapped[str] = mapped_column(String(60))
    attack_params: Mapped[dict[str, Any]]
    digest: Mapped[str] = mapped_column(String(71))
    positions: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    created_at: Mapped[datetime]
    __table_args__ = (Index("ix_adversarial_model", "model_id"),)


class ReferenceRow(Base):
    """One reference model's signals: logits and log-odds of every sample, never its weights."""

    __tablename__ = "reference_models"
    pool: Mapped[str] = mapped_column(String(64), primary_key=True)  # digest of dataset, architecture, recipe, design
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    family: Mapped[str] = mapped_column(String(64), index=True)  # digest of dataset, architecture and recipe
    pool_size: Mapped[int] = mapped_column(Integer)  # complete when it has this number of rows
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    digest: Mapped[str] = mapped_column(String(71))
    erased_before: Mapped[int] = mapped_column(Integer, server_default="0")  # samples it was never trained on
    design: Mapped[str] = mapped_column(String(20), server_default="halves")  # halves | folds | given | given-other
    created_at: Mapped[datetime]


class Receipt(Base):
    """One thing that was purged for a request, or will be at a date. Nothing is claimed that has none.

    `sealed`: the newest certificate has it with these dates.
    """

    __tablename__ = "receipts"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), index=True)
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    subject: Mapped[str] = mapped_column(String(60))
    detail: Mapped[str] = mapped_column(Text)
    digest: Mapped[str | None] = mapped_column(String(71))
    due_at: Mapped[datetime | None]
    done_at: Mapped[datetime | None]
    sealed: Mapped[bool] = mapped_column(default=False)

    @validates("due_at", "done_at")
    def _moved(self, _: str, moment: datetime | None) -> datetime | None:
        self.sealed = False
        return moment

    __table_args__ = (
        Index(  # what the sweeper looks for every second
            "ix_receipts_unsealed",
            "request_id",
            postgresql_where=text("NOT sealed"),
            sqlite_where=text("sealed = 0"),
        ),
        Index(  # the same
            "ix_receipts_pending",
            "subject",
            postgresql_where=text("done_at IS NULL"),
            sqlite_where=text("done_at IS NULL"),
        ),
        # Pages of the list, newest first: of what is not done, and of a model.
        Index(
            "ix_receipts_undone",
            "id",
            postgresql_where=text("done_at IS NULL"),
            sqlite_where=text("done_at IS NULL"),
        ),
        Index(  # of what is not done, the earliest date first
            "ix_receipts_dated",
            "due_at",
            "id",
            postgresql_where=text("done_at IS NULL"),
            sqlite_where=text("done_at IS NULL"),
        ),
        Index("ix_receipts_model", "model_id", "id"),
    )


class OwedObject(Base):
    """An object in somebody's storage that a request erases: a row until it is gone, since the address may say whose
    picture it is.

    owner: this service may not delete it; its owner does, and confirms.
    """

    __tablename__ = "objects_to_delete"
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    address: Mapped[str] = mapped_column(Text)
    owner: Mapped[bool]


class Outbox(Base):
    """Messages that leave after the commit that wrote them."""

    __tablename__ = "outbox"
    number: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    topic: Mapped[str] = mapped_column(String(20))  # hint: a job's id; blob: the digest of bytes to remove
    key: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime]


class Idempotency(Base):
    __tablename__ = "idempotency"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    route: Mapped[str] = mapped_column(String(120), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    status: Mapped[int | None] = mapped_column(Integer)
    headers: Mapped[dict[str, Any] | None]
    body: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]


class Webhook(Base):
    """A receiver of events. `disabled_at`: it answered 410, or its owner switched it off.

    `old_secret` signs too until `old_until`: a receiver learns of a rotation without missing a message.
    """

    __tablename__ = "webhooks"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(Text)
    events: Mapped[list[Any]]  # kinds it wants; empty: all
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]
    old_secret: Mapped[str | None] = mapped_column(Text)
    old_until: Mapped[datetime | None]


class Delivery(Base):
    """One event on its way to one receiver. `due_at`: the next attempt; none when it is done with."""

    __tablename__ = "deliveries"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    kind: Mapped[str] = mapped_column(String(60))
    body: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(20))  # pending | delivered | failed
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    due_at: Mapped[datetime | None] = mapped_column(index=True)
    traceparent: Mapped[str | None] = mapped_column(String(55))  # W3C: what the event happened in
    __table_args__ = (
        Index("ix_deliveries_listed", "webhook_id", "id"),
        Index(
            "ix_deliveries_unmade",
            "webhook_id",
            "state",
            "id",
            postgresql_where=text("state <> 'delivered'"),
            sqlite_where=text("state <> 'delivered'"),
        ),
        Index(
            "ix_deliveries_open",
            "state",
            "due_at",
            postgresql_where=text("state <> 'delivered'"),
            sqlite_where=text("state <> 'delivered'"),
        ),
    )


class AuditEvent(Base):
    """What happened to which object, committed with the change that caused it. Names nobody."""

    __tablename__ = "events"
    number: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))  # found by its leaves, or by those that wait
    kind: Mapped[str] = mapped_column(String(60))
    object_id: Mapped[str] = mapped_column(Id, index=True)
    data: Mapped[dict[str, Any]]
    at: Mapped[datetime]
    leaf: Mapped[int | None] = mapped_column(BigInteger)  # its place in the tenant's log; none until sequenced
    __table_args__ = (
        Index("uq_events_leaf", "tenant_id", "leaf", unique=True),
        Index(
            "ix_events_waiting",
            "tenant_id",
            "number",
            postgresql_where=text("leaf IS NULL"),
            sqlite_where=text("leaf IS NULL"),
        ),
        Index(
            "ix_events_gate",
            "kind",
            postgresql_where=text("kind LIKE 'gate.%'"),
            sqlite_where=text("kind LIKE 'gate.%'"),
        ),
    )


class LogNode(Base):
    """The hash of one complete subtree of a tenant's log."""

    __tablename__ = "log_nodes"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    level: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class LogHead(Base):
    """A tenant's tree as last signed."""

    __tablename__ = "log_heads"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    root: Mapped[bytes] = mapped_column(LargeBinary)
    note: Mapped[str] = mapped_column(Text)
    key_id: Mapped[str] = mapped_column(String(71))
    signed_at: Mapped[datetime]


class Commitment(Base):
    """Salt and tags of a request's ids, made before the ids are overwritten. Shredding sets `salt` to null."""

    __tablename__ = "commitments"
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    salt: Mapped[bytes | None] = mapped_column(LargeBinary)
    tags: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    deleted_at: Mapped[datetime | None]


class CertificateRow(Base):
    """Signed evidence of one request; a later one supersedes it when a dated receipt is done."""

    __tablename__ = "certificates"
    digest: Mapped[str] = mapped_column(String(71), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), index=True)
    supersedes: Mapped[str | None] = mapped_column(ForeignKey("certificates.digest"), unique=True)
    receipts_done: Mapped[int] = mapped_column(Integer)  # of the request when it was sealed
    envelope: Mapped[str] = mapped_column(Text, deferred=True)
    issued_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]  # its operator no longer vouches for it; the log says so, too
    __table_args__ = (Index("ix_certificates_listed", "tenant_id", "issued_at", "digest"),)


class NegativeReport(Base):
    """Signed evidence that no deletion is certified: of a request or of an audit. Unsigned until the sweeper comes."""

    __tablename__ = "negative_reports"
    number: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    request_id: Mapped[str | None] = mapped_column(ForeignKey("deletion_requests.id"), index=True)
    audit_id: Mapped[str | None] = mapped_column(ForeignKey("audit_reports.id"), index=True)
    asked_at: Mapped[datetime]
    issued_at: Mapped[datetime | None]
    digest: Mapped[str | None] = mapped_column(String(71))
    envelope: Mapped[str | None] = mapped_column(Text, deferred=True)
    __table_args__ = (
        Index(
            "ix_negative_reports_waiting",
            "number",
            postgresql_where=text("issued_at IS NULL"),
            sqlite_where=text("issued_at IS NULL"),
        ),
    )


class ComplianceRules(Base):
    """What a tenant has decided about its requests; without a row the defaults of `app.rules.compliance` hold."""

    __tablename__ = "compliance_rules"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    rules: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime]


class Refusal(Base):
    """One refusal, of a request or of a part: the event that records it has its moment, its people and its reason.

    year: of receipt, as figures count it. positions: of the samples; none where an earlier version refused a part.
    late: the law's time for a refusal had passed. letter_sent_at: when the letter that says it went.
    """

    __tablename__ = "refusals"
    event: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=False)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), index=True)
    year: Mapped[int] = mapped_column(Integer)
    samples: Mapped[int] = mapped_column(Integer)
    ground: Mapped[str | None] = mapped_column(String(30))
    positions: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    late: Mapped[bool] = mapped_column(server_default=text("false"))
    letter_sent_at: Mapped[datetime | None]
    __table_args__ = (
        Index(
            "ix_refusals_unsent",
            "tenant_id",
            "request_id",
            postgresql_where=text("letter_sent_at IS NULL"),
            sqlite_where=text("letter_sent_at IS NULL"),
        ),
    )


class Proposal(Base):
    """A refusal that waits for its second person. `positions`: a part of the request; none: all of it.

    suspended: the request was under way, and waits for this decision alone.
    """

    __tablename__ = "proposals"
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    key_id: Mapped[str] = mapped_column(Id)
    reason: Mapped[str] = mapped_column(Text)
    ground: Mapped[str | None] = mapped_column(String(30))
    positions: Mapped[bytes | None] = mapped_column(LargeBinary)
    suspended: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime]


# -- what may name people: in these tables alone, and erased at the end of its retention (`app.cases.retention`) --


class CaseDetails(Base):
    """Of a request: the ticket or letter by which its controller finds it, and a note on the identity."""

    __tablename__ = "case_details"
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    reference: Mapped[str | None] = mapped_column(Text)
    identity_note: Mapped[str | None] = mapped_column(Text)
    __table_args__ = (Index("ix_case_reference", "tenant_id", "reference"),)


class CaseReason(Base):
    """The reason of an event in free words. The log has the event without it."""

    __tablename__ = "case_reasons"
    event: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=False)
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), index=True)
    reason: Mapped[str] = mapped_column(Text)


class CasePaper(Base):
    """What came with a case: a letter, a proof of identity."""

    __tablename__ = "case_papers"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), index=True)
    kind: Mapped[str] = mapped_column(String(20))  # letter | identity | other
    name: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(Integer)
    digest: Mapped[str] = mapped_column(String(71))
    content: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    created_at: Mapped[datetime]


class Notice(Base):
    """A notice to the person, as it was rendered and, once `sent_at` is set, as it was sent."""

    __tablename__ = "notices"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    language: Mapped[str] = mapped_column(String(8))
    subject: Mapped[str] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    sent_how: Mapped[str | None] = mapped_column(String(40))
    sent_by: Mapped[str | None] = mapped_column(Id)
    __table_args__ = (
        Index(
            "ix_notices_unsent",
            "tenant_id",
            "request_id",
            postgresql_where=text("sent_at IS NULL"),
            sqlite_where=text("sent_at IS NULL"),
        ),
    )


class NoticeTemplate(Base):
    """A tenant's own text of a notice, in place of the one that is shipped."""

    __tablename__ = "notice_templates"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    language: Mapped[str] = mapped_column(String(8), primary_key=True)
    subject: Mapped[str] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[datetime]


class CaseFile(Base):
    """The newest case file of a request: asked for by a client, put together and signed by the sweeper."""

    __tablename__ = "case_files"
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    asked_at: Mapped[datetime]
    asked_by: Mapped[str] = mapped_column(Id)
    with_papers: Mapped[bool] = mapped_column(server_default=text("false"))
    made_at: Mapped[datetime | None]
    problem: Mapped[str | None] = mapped_column(Text)
    content: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    __table_args__ = (
        Index(
            "ix_case_files_asked",
            "asked_at",
            postgresql_where=text("made_at IS NULL"),
            sqlite_where=text("made_at IS NULL"),
        ),
    )


class Download(Base):
    """Who has fetched the bytes of a version, so that they can be recalled."""

    __tablename__ = "downloads"
    number: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"), index=True)
    key_id: Mapped[str] = mapped_column(Id)
    form: Mapped[str] = mapped_column(String(20))  # checkpoint | plain | hugging-face
    at: Mapped[datetime]
    reason: Mapped[str | None] = mapped_column(Text)  # of a withheld one; it may name people, and goes as reasons do
    __table_args__ = (
        Index(
            "ix_downloads_reasons",
            "tenant_id",
            "at",
            postgresql_where=text("reason IS NOT NULL"),
            sqlite_where=text("reason IS NOT NULL"),
        ),
    )


class ModelSignature(Base):
    """The signature of a version's exported folder (OpenSSF Model Signing). `files`: SHA-256 by name, as signed."""

    __tablename__ = "model_signatures"
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    form: Mapped[str] = mapped_column(String(20), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    files: Mapped[dict[str, Any]]
    bundle: Mapped[str | None] = mapped_column(Text)
    public_key: Mapped[str | None] = mapped_column(Text)
    asked_at: Mapped[datetime]
    made_at: Mapped[datetime | None]
    __table_args__ = (
        Index(
            "ix_model_signatures_asked",
            "asked_at",
            postgresql_where=text("made_at IS NULL"),
            sqlite_where=text("made_at IS NULL"),
        ),
    )


class Recall(Base):
    """A notice to those who hold versions that were trained on samples of a request (GDPR Art. 19)."""

    __tablename__ = "recalls"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), index=True)
    versions: Mapped[list[Any]]
    keys: Mapped[list[Any]]
    created_at: Mapped[datetime]


class Cosignature(Base):
    """A witness's line under a signed head of a log (C2SP tlog-witness)."""

    __tablename__ = "cosignatures"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    witness: Mapped[str] = mapped_column(Text, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    note: Mapped[str] = mapped_column(Text)  # the head with the service's signature and the witness's
    at: Mapped[datetime]


class SigningKeyRow(Base):
    """Public halves only: which keys sign, and since when."""

    __tablename__ = "signing_keys"
    id: Mapped[str] = mapped_column(String(71), primary_key=True)
    public_pem: Mapped[str] = mapped_column(Text)
    not_before: Mapped[datetime]
    not_after: Mapped[datetime | None]


class Worker(Base):
    """A live worker's last sign of life: what `/readyz` reports, and which jobs it takes (`app.jobs.routing`)."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    device: Mapped[str] = mapped_column(String(40))
    label: Mapped[str] = mapped_column(String(40), server_default="")
    kinds: Mapped[list[Any]] = mapped_column(Json, server_default=text("'[]'"))  # none: every kind
    offers: Mapped[list[Any]] = mapped_column(Json, server_default=text("'[]'"))  # of what not every worker has
    device_memory: Mapped[int] = mapped_column(BigInteger, server_default="0")  # peak, bytes
    seen_at: Mapped[datetime]


class Sweeper(Base):
    """A sweeper's last sign of life."""

    __tablename__ = "sweepers"
    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    seen_at: Mapped[datetime]


class StageTime(Base):
    """Seconds spent and runs completed by kind and stage, for metrics."""

    __tablename__ = "stage_times"
    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    stage: Mapped[str] = mapped_column(String(40), primary_key=True)
    seconds: Mapped[float]
    runs: Mapped[int] = mapped_column(BigInteger)
