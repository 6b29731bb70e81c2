"""signed negative reports"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "negative_reports",
        sa.Column("number", SERIAL, autoincrement=True, nullable=False),
        sa.Column("tenant_id", sa.String(length=40), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("request_id", sa.String(length=40), sa.ForeignKey("deletion_requests.id"), nullable=True),
        sa.Column("audit_id", sa.String(length=40), sa.ForeignKey("audit_reports.id"), nullable=True),
        sa.Column("asked_at", sa.DateTime(), nullable=False),
        sa.Column("issued_at", sa.DateTime(), nullable=True),
        sa.Column("digest", sa.String(length=71), nullable=True),
        sa.Column("envelope", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("ix_negative_reports_request_id", "negative_reports", ["request_id"])
    op.create_index("ix_negative_reports_audit_id", "negative_reports", ["audit_id"])
    unsigned = sa.text("issued_at IS NULL")
    op.create_index(
        "ix_negative_reports_waiting",
        "negative_reports",
        ["number"],
        postgresql_where=unsigned,
        sqlite_where=unsigned,
    )


def downgrade() -> None:
    op.drop_table("negative_reports")
