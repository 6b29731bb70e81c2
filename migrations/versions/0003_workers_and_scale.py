"""workers and scale"""

from datetime import timedelta

import sqlalchemy as sa
from alembic import op
from alembic.operations import BatchOperations
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
PARTIAL = [
    ("ix_job_events_lost", "job_events", ["kind"], "kind = 'lease-lost'"),
    ("ix_events_gate", "events", ["kind"], "kind LIKE 'gate.%'"),
    ("ix_requests_replayed", "deletion_requests", ["dataset_id"], "replayed_at IS NOT NULL"),
    ("ix_requests_fulfilled", "deletion_requests", ["fulfilled_at"], "fulfilled_at IS NOT NULL"),
    ("ix_requests_open", "deletion_requests", ["due_at"], "fulfilled_at IS NULL"),
    ("ix_deliveries_open", "deliveries", ["state", "due_at"], "state <> 'delivered'"),
    ("ix_requests_unfulfilled", "deletion_requests", ["tenant_id", "received_at", "id"], "fulfilled_at IS NULL"),
    ("ix_requests_model", "deletion_requests", ["model_id", "id"], "model_id IS NOT NULL"),
    ("ix_outcomes_pending", "outcomes", ["model_id"], "state = 'pending'"),
    ("ix_jobs_request", "jobs", ["request_id"], "request_id IS NOT NULL"),
]
LISTED = [
    ("ix_requests_listed", "deletion_requests", ["tenant_id", "received_at", "id", "due_at"]),
    ("ix_requests_dataset", "deletion_requests", ["dataset_id", "received_at", "id"]),
    ("ix_requests_decision", "deletion_requests", ["tenant_id", "decision", "received_at", "id"]),
    ("ix_outcomes_model", "outcomes", ["model_id", "request_id"]),
    ("ix_jobs_listed", "jobs", ["tenant_id", "id"]),
    ("ix_jobs_created", "jobs", ["tenant_id", "created_at", "id"]),
    ("ix_jobs_dataset", "jobs", ["dataset_id", "id"]),
    ("ix_jobs_model", "jobs", ["model_id", "id"]),
    ("ix_jobs_of_model", "jobs", ["model_id", "kind", "state", "id"]),
    ("ix_jobs_kind", "jobs", ["tenant_id", "kind", "id"]),
    ("ix_jobs_state", "jobs", ["tenant_id", "state", "id"]),
    ("ix_job_events_job", "job_events", ["job_id", "number"]),
]
COVERED = [  # by those of LISTED that begin with the same column
    ("ix_deletion_requests_tenant_id", "deletion_requests", "tenant_id"),
    ("ix_jobs_tenant_id", "jobs", "tenant_id"),
    ("ix_jobs_model_id", "jobs", "model_id"),
    ("ix_job_events_job_id", "job_events", "job_id"),
]


def upgrade() -> None:
    with op.batch_alter_table("datasets", schema=None) as batch_op:
        batch_op.add_column(sa.Column("class_names", JSON, nullable=True))
        batch_op.add_column(sa.Column("carried_for", sa.String(length=40), nullable=True))

    with op.batch_alter_table("versions", schema=None) as batch_op:
        batch_op.alter_column("trained_count", existing_type=sa.Integer(), nullable=True)

    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.add_column(sa.Column("device", sa.String(length=40), nullable=True))
        batch_op.add_column(sa.Column("withheld_since", sa.DateTime(), nullable=True))

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("parent_id", sa.String(length=40), nullable=True))
        batch_op.add_column(sa.Column("device", sa.String(length=40), nullable=True))
        batch_op.create_index(batch_op.f("ix_jobs_parent_id"), ["parent_id"], unique=False)

    with op.batch_alter_table("reference_models", schema=None) as batch_op:
        batch_op.add_column(sa.Column("erased_before", sa.Integer(), server_default="0", nullable=False))

    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("label", sa.String(length=40), server_default="", nullable=False))
        batch_op.add_column(sa.Column("kinds", JSON, server_default=sa.text("'[]'"), nullable=False))

    with op.batch_alter_table("deletion_requests", schema=None) as batch_op:
        batch_op.add_column(sa.Column("replayed_at", sa.DateTime(), nullable=True))

    with op.batch_alter_table("webhooks", schema=None) as batch_op:
        batch_op.add_column(sa.Column("old_secret", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("old_until", sa.DateTime(), nullable=True))

    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.add_column(sa.Column("lifetime_days", sa.Integer(), nullable=True))
    _remember_lifetimes()

    with op.batch_alter_table("samples", schema=None, table_kwargs={"sqlite_with_rowid": False}) as batch_op:
        batch_op.drop_constraint("uq_samples_id", type_="unique")
        _collate(batch_op, "C")
    op.create_index(
        "uq_samples_id", "samples", ["sample_id", "dataset_id"], unique=True, postgresql_include=["position"]
    )

    # What a scrape of the metrics reads.
    op.create_index("ix_jobs_counted", "jobs", ["kind", "state", "fence"])
    op.create_index("ix_audit_verdict", "audit_reports", ["verdict"])
    for name, table, columns, condition in PARTIAL:
        where = sa.text(condition)
        op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)
    for name, table, columns in LISTED:
        op.create_index(name, table, columns)
    for name, table, _ in COVERED:
        op.drop_index(name, table)


def _remember_lifetimes() -> None:
    """Of the keys that end: in whole days, as they were asked for."""
    names = ("id", "lifetime_days", "created_at", "expires_at")
    types = (sa.String, sa.Integer, sa.DateTime, sa.DateTime)
    keys = sa.table("api_keys", *map(sa.column, names, types))
    ending = sa.select(keys.c.id, keys.c.expires_at, keys.c.created_at).where(keys.c.expires_at.is_not(None))
    for key, end, made in op.get_bind().execute(ending).all():
        days = -((made - end) // timedelta(days=1))  # rounded up
        op.execute(keys.update().where(keys.c.id == key).values(lifetime_days=days))


def _collate(batch_op: BatchOperations, collation: str | None) -> None:
    """PostgreSQL compares ids byte by byte, as SQLite does anyway."""
    if op.get_bind().dialect.name == "postgresql":
        batch_op.alter_column(
            "sample_id", existing_type=sa.Text(), type_=sa.Text(collation=collation), existing_nullable=False
        )


def downgrade() -> None:
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.drop_column("lifetime_days")

    op.drop_index("uq_samples_id", "samples")
    with op.batch_alter_table("samples", schema=None) as batch_op:
        _collate(batch_op, None)
        batch_op.create_unique_constraint("uq_samples_id", ["dataset_id", "sample_id"])

    op.execute("UPDATE versions SET trained_count = 0 WHERE trained_count IS NULL")
    with op.batch_alter_table("versions", schema=None) as batch_op:
        batch_op.alter_column("trained_count", existing_type=sa.Integer(), nullable=False)

    with op.batch_alter_table("datasets", schema=None) as batch_op:
        batch_op.drop_column("carried_for")
        batch_op.drop_column("class_names")

    for name, table, column in COVERED:
        op.create_index(name, table, [column])
    for name, table, _ in LISTED:
        op.drop_index(name, table)
    for name, table, _, _ in PARTIAL:
        op.drop_index(name, table)
    op.drop_index("ix_audit_verdict", "audit_reports")
    op.drop_index("ix_jobs_counted", "jobs")

    with op.batch_alter_table("webhooks", schema=None) as batch_op:
        batch_op.drop_column("old_until")
        batch_op.drop_column("old_secret")

    with op.batch_alter_table("deletion_requests", schema=None) as batch_op:
        batch_op.drop_column("replayed_at")

    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.drop_column("kinds")
        batch_op.drop_column("label")

    with op.batch_alter_table("reference_models", schema=None) as batch_op:
        batch_op.drop_column("erased_before")

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_jobs_parent_id"))
        batch_op.drop_column("device")
        batch_op.drop_column("parent_id")

    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.drop_column("withheld_since")
        batch_op.drop_column("device")
