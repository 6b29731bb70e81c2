"""the legal life of a request: dates, identity, complaints; who decides; notices, papers, case files; recalls"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

ID = sa.String(length=40)
JSON = sa.JSON().with_variant(JSONB(), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
REQUEST = {
    "posted_at": sa.DateTime(),
    "received_reason": sa.Text(),
    "ground": sa.String(length=20),
    "refusal_ground": sa.String(length=30),
    "identity_asked_at": sa.DateTime(),
    "identity_until": sa.DateTime(),
    "identity_ended_at": sa.DateTime(),
    "confirmed_at": sa.DateTime(),
    "complaint_about": ID,
    "case_id": ID,
    "remains_until": sa.DateTime(),
    "remains_reason": sa.Text(),
}


def column(name: str, kind, **options) -> sa.Column:
    return sa.Column(name, kind, nullable=options.pop("nullable", False), **options)


def tenant(**options) -> sa.Column:
    return sa.Column("tenant_id", ID, sa.ForeignKey("tenants.id"), nullable=False, **options)


def request(**options) -> sa.Column:
    return sa.Column("request_id", ID, sa.ForeignKey("deletion_requests.id"), nullable=False, **options)


def upgrade() -> None:
    for name, kind in REQUEST.items():
        op.add_column("deletion_requests", sa.Column(name, kind, nullable=True))
    op.add_column(
        "deletion_requests", sa.Column("identity", sa.String(length=20), nullable=False, server_default="not-needed")
    )
    for index, name in (("complaints", "complaint_about"), ("case", "case_id")):
        where = sa.text(f"{name} IS NOT NULL")
        op.create_index(f"ix_requests_{index}", "deletion_requests", [name], postgresql_where=where, sqlite_where=where)
    op.add_column("certificates", sa.Column("revoked_at", sa.DateTime(), nullable=True))
    op.create_table(
        "compliance_rules", tenant(primary_key=True), column("rules", JSON), column("updated_at", sa.DateTime())
    )
    op.create_table(
        "proposals",
        request(primary_key=True),
        column("key_id", ID),
        column("reason", sa.Text()),
        column("ground", sa.String(length=30), nullable=True),
        column("positions", sa.LargeBinary(), nullable=True),
        column("created_at", sa.DateTime()),
    )
    op.create_table(
        "case_details",
        request(primary_key=True),
        tenant(),
        column("reference", sa.Text(), nullable=True),
        column("identity_note", sa.Text(), nullable=True),
    )
    op.create_index("ix_case_reference", "case_details", ["tenant_id", "reference"])
    op.create_table(
        "case_reasons",
        column("event", SERIAL, primary_key=True, autoincrement=False),
        request(),
        column("reason", sa.Text()),
    )
    op.create_table(
        "case_papers",
        column("id", ID, primary_key=True),
        tenant(),
        request(),
        column("kind", sa.String(length=20)),
        column("name", sa.Text()),
        column("size", sa.Integer()),
        column("digest", sa.String(length=71)),
        column("content", sa.LargeBinary()),
        column("created_at", sa.DateTime()),
    )
    op.create_table(
        "notices",
        column("id", ID, primary_key=True),
        tenant(),
        request(),
        column("kind", sa.String(length=20)),
        column("language", sa.String(length=8)),
        column("subject", sa.Text()),
        column("body", sa.Text()),
        column("created_at", sa.DateTime()),
        column("sent_at", sa.DateTime(), nullable=True),
        column("sent_how", sa.String(length=40), nullable=True),
        column("sent_by", ID, nullable=True),
    )
    op.create_table(
        "notice_templates",
        tenant(primary_key=True),
        column("kind", sa.String(length=20), primary_key=True),
        column("language", sa.String(length=8), primary_key=True),
        column("subject", sa.Text()),
        column("body", sa.Text()),
        column("updated_at", sa.DateTime()),
    )
    op.create_table(
        "case_files",
        request(primary_key=True),
        tenant(),
        column("asked_at", sa.DateTime()),
        column("asked_by", ID),
        column("with_papers", sa.Boolean(), server_default=sa.text("false")),
        column("made_at", sa.DateTime(), nullable=True),
        column("problem", sa.Text(), nullable=True),
        column("content", sa.LargeBinary(), nullable=True),
    )
    unmade = sa.text("made_at IS NULL")
    op.create_index("ix_case_files_asked", "case_files", ["asked_at"], postgresql_where=unmade, sqlite_where=unmade)
    op.create_table(
        "downloads",
        column("number", SERIAL, primary_key=True, autoincrement=True),
        tenant(),
        sa.Column("version_id", ID, sa.ForeignKey("versions.id"), nullable=False),
        column("key_id", ID),
        column("form", sa.String(length=20)),
        column("at", sa.DateTime()),
    )
    op.create_index("ix_downloads_version_id", "downloads", ["version_id"])
    op.create_table(
        "model_signatures",
        sa.Column("version_id", ID, sa.ForeignKey("versions.id"), primary_key=True),
        column("form", sa.String(length=20), primary_key=True),
        tenant(),
        column("files", JSON),
        column("bundle", sa.Text(), nullable=True),
        column("public_key", sa.Text(), nullable=True),
        column("asked_at", sa.DateTime()),
        column("made_at", sa.DateTime(), nullable=True),
    )
    op.create_index(
        "ix_model_signatures_asked", "model_signatures", ["asked_at"], postgresql_where=unmade, sqlite_where=unmade
    )
    op.create_table(
        "recalls",
        column("id", ID, primary_key=True),
        tenant(),
        request(),
        column("versions", JSON),
        column("keys", JSON),
        column("created_at", sa.DateTime()),
    )
    op.create_table(
        "cosignatures",
        tenant(primary_key=True),
        column("witness", sa.Text(), primary_key=True),
        column("size", sa.BigInteger()),
        column("note", sa.Text()),
        column("at", sa.DateTime()),
    )
    for table in ("case_reasons", "case_papers", "notices", "recalls"):
        op.create_index(f"ix_{table}_request_id", table, ["request_id"])


def downgrade() -> None:
    for table in (
        "cosignatures", "recalls", "model_signatures", "downloads", "case_files", "notice_templates", "notices", "case_papers",
        "case_reasons", "case_details", "proposals", "compliance_rules",
    ):  # fmt: skip
        op.drop_table(table)
    op.drop_column("certificates", "revoked_at")
    op.drop_index("ix_requests_case", table_name="deletion_requests")
    op.drop_index("ix_requests_complaints", table_name="deletion_requests")
    for name in ("identity", *reversed(REQUEST)):
        op.drop_column("deletion_requests", name)
