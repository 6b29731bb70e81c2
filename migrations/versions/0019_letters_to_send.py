"""an index of notices that are not sent yet"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

NAME = "ix_notices_unsent"


def upgrade() -> None:
    unsent = sa.text("sent_at IS NULL")
    columns = ["tenant_id", "request_id"]
    op.create_index(NAME, "notices", columns, postgresql_where=unsent, sqlite_where=unsent)


def downgrade() -> None:
    op.drop_index(NAME, "notices")
