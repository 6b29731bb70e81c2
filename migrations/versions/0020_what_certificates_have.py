"""which receipts the newest certificate has; reasons of downloads; free words go at the end of their retention"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

INDEX, REASONS = "ix_receipts_unsealed", "ix_downloads_reasons"
# Only what no certificate has is written: nearly all receipts are in one. Of requests whose remains were given a later
# date before, the certificates are looked at again.
UNSEALED = """
WITH done AS (SELECT request_id, count(done_at) AS done FROM receipts GROUP BY request_id),
has AS (SELECT request_id, max(receipts_done) AS done FROM certificates GROUP BY request_id),
open AS (
    SELECT done.request_id FROM done
    JOIN deletion_requests r ON r.id = done.request_id
    LEFT JOIN has ON has.request_id = done.request_id
    WHERE has.done IS NULL OR has.done < done.done OR r.remains_until IS NOT NULL
)
UPDATE receipts SET sealed = false WHERE request_id IN (SELECT request_id FROM open)
"""
ERASED = "[erased at the end of its retention]"


def upgrade() -> None:
    # A default writes no row. SQLite keeps it, as it can change none; the code always says a value.
    op.add_column("receipts", sa.Column("sealed", sa.Boolean(), nullable=False, server_default=sa.text("true")))
    op.execute(UNSEALED)
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("receipts", "sealed", server_default=None)
    op.execute(
        f"UPDATE deletion_requests SET basis = '{ERASED}' "  # noqa: S608
        f"WHERE received_reason = '{ERASED}' AND basis NOT IN ('erasure-request', '{ERASED}')"
    )
    op.create_index(
        INDEX,
        "receipts",
        ["request_id"],
        postgresql_where=sa.text("NOT sealed"),
        sqlite_where=sa.text("sealed = 0"),
    )

    given = sa.text("reason IS NOT NULL")
    op.add_column("downloads", sa.Column("reason", sa.Text(), nullable=True))
    op.create_index(REASONS, "downloads", ["tenant_id", "at"], postgresql_where=given, sqlite_where=given)


def downgrade() -> None:
    op.drop_index(REASONS, "downloads")
    op.drop_column("downloads", "reason")
    op.drop_index(INDEX, "receipts")
    op.drop_column("receipts", "sealed")
