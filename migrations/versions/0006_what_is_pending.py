"""an index of pending receipts, which the sweeper reads every second"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pending = sa.text("done_at IS NULL")
    op.create_index("ix_receipts_pending", "receipts", ["subject"], postgresql_where=pending, sqlite_where=pending)


def downgrade() -> None:
    op.drop_index("ix_receipts_pending", table_name="receipts")
