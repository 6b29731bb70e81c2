"""the network's names of an imported checkpoint's tensors"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("versions", sa.Column("file_names", JSON, nullable=True))


def downgrade() -> None:
    op.drop_column("versions", "file_names")
