"""datasets: what was taken in, and the files that they come in"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("datasets", sa.Column("report", JSON, nullable=True))
    op.add_column("datasets", sa.Column("duplicates", sa.LargeBinary(), nullable=True))
    op.create_table(
        "dataset_shards",
        sa.Column("dataset_id", sa.String(length=40), sa.ForeignKey("datasets.id"), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tenant_id", sa.String(length=40), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("content_type", sa.String(length=60), nullable=False),
        sa.Column("split", sa.String(length=20), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("blob", sa.String(length=71), nullable=True),
        sa.Column("digest", sa.String(length=71), nullable=True),
        sa.Column("samples", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("dataset_id", "number", "offset"),
    )
    op.create_index("ix_dataset_shards_digest", "dataset_shards", ["digest"])


def downgrade() -> None:
    op.drop_table("dataset_shards")
    op.drop_column("datasets", "duplicates")
    op.drop_column("datasets", "report")
