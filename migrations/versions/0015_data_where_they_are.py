"""datasets: pictures that stay in object storage, and shards that the service already holds"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "objects_to_delete",
        sa.Column("request_id", sa.String(length=40), sa.ForeignKey("deletion_requests.id"), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant_id", sa.String(length=40), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("owner", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "position"),
    )
    op.add_column("dataset_shards", sa.Column("held_in", sa.String(length=40), nullable=True))
    op.create_index("ix_dataset_shards_held_in", "dataset_shards", ["held_in"])


def downgrade() -> None:
    op.drop_index("ix_dataset_shards_held_in", table_name="dataset_shards")
    op.drop_column("dataset_shards", "held_in")
    op.drop_table("objects_to_delete")
