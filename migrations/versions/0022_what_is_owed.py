"""what is owed to people and goes by a date, in the order in which it is due"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

PARTIAL = (
    (
        "ix_requests_to_confirm",
        "deletion_requests",
        ["tenant_id", "confirm_by", "id"],
        "confirm_by IS NOT NULL AND confirmed_at IS NULL AND fulfilled_at IS NULL",
    ),
    (
        "ix_requests_no_answer",
        "deletion_requests",
        ["tenant_id", "received_at", "id"],
        "fulfilled_at IS NOT NULL AND answered_at IS NULL",
    ),
    ("ix_receipts_dated", "receipts", ["due_at", "id"], "done_at IS NULL"),
)


def upgrade() -> None:
    for name, table, columns, condition in PARTIAL:
        where = sa.text(condition)
        op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    for name, table, *_ in PARTIAL:
        op.drop_index(name, table_name=table)
