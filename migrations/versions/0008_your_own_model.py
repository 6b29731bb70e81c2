"""a model's own input: its contract, and the copies that contracts make of datasets"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("models", sa.Column("input", JSON, nullable=True))
    op.add_column("models", sa.Column("base", JSON, nullable=True))
    op.add_column("models", sa.Column("blessed_version", sa.Integer(), nullable=True))
    op.execute(
        "UPDATE models SET blessed_version = (SELECT max(number) FROM versions WHERE versions.model_id = models.id "
        "AND versions.origin IN ('trained', 'imported') AND versions.state <> 'candidate' "
        "AND versions.number <= models.current_version)"
    )
    op.add_column("versions", sa.Column("stated", JSON, nullable=True))
    op.add_column("workers", sa.Column("offers", JSON, server_default=sa.text("'[]'"), nullable=False))
    op.create_table(
        "needs",
        sa.Column("owner", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name"),
    )
    op.create_table(
        "dataset_copies",
        sa.Column("dataset_id", sa.String(length=40), sa.ForeignKey("datasets.id"), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("shape", JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("dataset_id", "name"),
    )


def downgrade() -> None:
    op.drop_table("dataset_copies")
    op.drop_table("needs")
    op.drop_column("workers", "offers")
    op.drop_column("versions", "stated")
    op.drop_column("models", "blessed_version")
    op.drop_column("models", "base")
    op.drop_column("models", "input")
