"""users of the console and their sessions"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("role", sa.String(length=20), nullable=True))
    op.add_column("api_keys", sa.Column("identity", sa.Text(), nullable=True))
    op.create_index(
        "uq_api_keys_identity",
        "api_keys",
        ["identity"],
        unique=True,
        postgresql_where=sa.text("identity IS NOT NULL"),
        sqlite_where=sa.text("identity IS NOT NULL"),
    )
    op.create_table(
        "console_sessions",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), sa.ForeignKey("api_keys.id"), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("is_link", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_console_sessions_key_id", "console_sessions", ["key_id"])
    op.create_index("ix_console_sessions_expires_at", "console_sessions", ["expires_at"])
    op.create_index(
        "ix_requests_unanswered",
        "deletion_requests",
        ["tenant_id", "due_at", "id", "decision"],
        postgresql_where=sa.text("fulfilled_at IS NULL"),
        sqlite_where=sa.text("fulfilled_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_requests_unanswered", table_name="deletion_requests")
    op.drop_table("console_sessions")
    op.drop_index("uq_api_keys_identity", table_name="api_keys")
    op.drop_column("api_keys", "identity")
    op.drop_column("api_keys", "role")
