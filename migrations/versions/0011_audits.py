"""audits with few references: how a pool was designed, and the coin that assigns canaries"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "reference_models", sa.Column("design", sa.String(length=20), server_default="halves", nullable=False)
    )
    op.add_column("datasets", sa.Column("coin", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("datasets", "coin")
    op.drop_column("reference_models", "design")
