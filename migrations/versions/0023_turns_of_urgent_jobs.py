"""whose urgent job a worker took last, apart from its other jobs"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("served_urgent_at", sa.DateTime()))


def downgrade() -> None:
    op.drop_column("tenants", "served_urgent_at")
