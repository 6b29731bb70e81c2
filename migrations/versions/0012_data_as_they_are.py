"""datasets: what was taken in"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0012"
down_revision = "0008"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("datasets", sa.Column("report", JSON, nullable=True))


def downgrade() -> None:
    op.drop_column("datasets", "report")
