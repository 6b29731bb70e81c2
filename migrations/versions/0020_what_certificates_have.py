"""which receipts the newest certificate has; reasons of downloads; free words go at the end of their retention"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

INDEX, REASONS = "ix_receipts_unsealed", "ix_downloads_reasons"
# Of certificates that were sealed before, those of requests whose remains were given a later date are looked at again.
SEALED = """
UPDATE receipts SET sealed = true WHERE request_id IN (
    SELECT c.request_id FROM certificates c JOIN deletion_requests r ON r.id = c.request_id
    WHERE r.remains_until IS NULL
    GROUP BY c.request_id
    HAVING max(c.receipts_done) >= (
        SELECT count(*) FROM receipts p WHERE p.request_id = c.request_id AND p.done_at IS NOT NULL
    )
)
"""
ERASED = "[erased at the end of its retention]"


def upgrade() -> None:
    op.add_column("receipts", sa.Column("sealed", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    op.execute(SEALED)
    op.execute(
        f"UPDATE deletion_requests SET basis = '{ERASED}' "  # noqa: S608
        f"WHERE received_reason = '{ERASED}' AND basis <> 'erasure-request'"
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
