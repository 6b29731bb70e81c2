"""what was erased stays out: digests of erased samples, namespaces of ids; tenants in turn; what is overdue"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "suppressions",
        sa.Column("tenant_id", sa.String(length=40), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "digest"),
    )
    op.add_column("datasets", sa.Column("id_namespace", sa.String(length=60), nullable=True))
    op.add_column("tenants", sa.Column("served_at", sa.DateTime(), nullable=True))
    op.add_column("deletion_requests", sa.Column("overdue_at", sa.DateTime(), nullable=True))
    queued = sa.text("state = 'queued'")
    columns = ["lane", "id", "available_at"]
    op.create_index("ix_jobs_waiting", "jobs", columns, postgresql_where=queued, sqlite_where=queued)


def downgrade() -> None:
    op.drop_index("ix_jobs_waiting", table_name="jobs")
    op.drop_column("deletion_requests", "overdue_at")
    op.drop_column("tenants", "served_at")
    op.drop_column("datasets", "id_namespace")
    op.drop_table("suppressions")
