"""tallies of the requests, kept by the database itself, and what pages of a million requests are read from"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

ID = sa.String(length=40)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

COLUMNS = (
    "tenant_id", "jurisdiction", "ground", "decision", "refusal_ground", "refused_count", "extended_at", "fulfilled_at",
    "decided_at", "due_at", "received_at", "sample_count",
)  # fmt: skip
INTO = "INSERT INTO tally_changes (tenant_id, year, name, value, requests, samples) SELECT"


def facts(dialect: str, row: str) -> list[tuple[str, str, str]]:
    """Of each tally that a row is in: its name, the value as `app.deletions.tallies` reads it, and the condition."""
    text = "TEXT" if dialect == "sqlite" else "text"
    end = f"coalesce({row}.fulfilled_at, {row}.decided_at)"

    def seconds(moment: str) -> str:
        """Whole ones, so that a difference does not depend on how a database keeps fractions."""
        if dialect == "sqlite":
            return f"CAST(strftime('%s', substr({moment}, 1, 19)) AS INTEGER)"
        return f"CAST(floor(extract(epoch FROM {moment})) AS bigint)"

    def flag(condition: str) -> str:
        return f"CASE WHEN {condition} THEN '1' ELSE '0' END"

    received = seconds(f"{row}.received_at")
    key = (
        f"{row}.jurisdiction",
        f"coalesce({row}.ground, '')",
        f"{row}.decision",
        f"coalesce({row}.refusal_ground, '')",
        flag(f"{row}.refused_count > 0"),
        flag(f"{row}.extended_at IS NOT NULL"),
        f"CASE WHEN {row}.fulfilled_at IS NOT NULL THEN 'fulfilled' "
        f"WHEN {row}.decided_at IS NOT NULL THEN 'decided' ELSE '' END",
        flag(f"{end} > {row}.due_at"),
        f"coalesce(CAST(({seconds(end)} - {received}) / 86400 AS {text}), '')",
    )
    hundredths = f"({seconds(f'{row}.fulfilled_at')} - {received} + 432) / 864"
    answered = f"{row}.fulfilled_at IS NOT NULL AND {row}.decision NOT IN ('refused', 'cancelled', 'held')"
    return [("request", " || '|' || ".join(key), ""), ("answered", f"CAST({hundredths} AS {text})", answered)]


def year_of(dialect: str, moment: str) -> str:
    if dialect == "sqlite":
        return f"CAST(substr({moment}, 1, 4) AS INTEGER)"
    return f"CAST(extract(year FROM {moment}) AS integer)"


def of_request(dialect: str, row: str, sign: str) -> list[str]:
    """The statements that count a request, or take it off."""
    year = year_of(dialect, f"{row}.received_at")
    return [
        f"{INTO} {row}.tenant_id, {year}, '{name}', {value}, {sign}1, {sign}{row}.sample_count"
        + (f" WHERE {condition}" if condition else "")
        for name, value, condition in facts(dialect, row)
    ]


def published(row: str) -> str:
    return f"{row}.version IS NOT NULL AND {row}.compares_request IS NULL"


def of_audit(dialect: str, row: str, sign: str) -> list[str]:
    """The same of the outcomes that an audit is about."""
    year = year_of(dialect, f"{row}.created_at")
    return [
        f"{INTO} {row}.tenant_id, {year}, 'verdict', {row}.verdict, {sign}count(*), 0 FROM outcomes o "
        f"WHERE o.job_id = {row}.job_id AND {published(row)} GROUP BY o.job_id"
    ]


def of_outcome(dialect: str, row: str, sign: str) -> list[str]:
    """The same of an outcome whose audit is there before it."""
    year = year_of(dialect, "a.created_at")
    return [
        f"{INTO} a.tenant_id, {year}, 'verdict', a.verdict, {sign}1, 0 FROM audit_reports a "
        f"WHERE a.job_id = {row}.job_id AND {published('a')}"
    ]


COUNTED = {
    "deletion_requests": (COLUMNS, of_request),
    "audit_reports": (("tenant_id", "job_id", "version", "compares_request", "verdict", "created_at"), of_audit),
    "outcomes": (("job_id",), of_outcome),
}


def triggers() -> None:
    dialect = op.get_bind().dialect.name
    differs = "IS NOT" if dialect == "sqlite" else "IS DISTINCT FROM"
    for table, (columns, change) in COUNTED.items():
        off, on = (f"{'; '.join(change(dialect, row, sign))};" for row, sign in (("OLD", "-"), ("NEW", "")))
        if dialect != "sqlite":
            op.execute(
                f"CREATE FUNCTION tally_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"IF TG_OP <> 'INSERT' THEN {off} END IF; IF TG_OP <> 'DELETE' THEN {on} END IF; RETURN NULL; END $$"
            )
        changed = " OR ".join(f"OLD.{name} {differs} NEW.{name}" for name in columns)
        for verb, when, body in (
            ("INSERT", "", on),
            ("DELETE", "", off),
            (f"UPDATE OF {', '.join(columns)}", f"WHEN ({changed})", f"{off} {on}"),
        ):
            name = f"tally_{table}_{verb.split()[0].lower()}"
            does = f"BEGIN {body} END" if dialect == "sqlite" else f"EXECUTE FUNCTION tally_{table}()"
            op.execute(f"CREATE TRIGGER {name} AFTER {verb} ON {table} FOR EACH ROW {when} {does}")


REQUESTS = (
    "INSERT INTO tallies (tenant_id, year, name, value, requests, samples) "
    "SELECT r.tenant_id, {year}, '{name}', {value}, count(*), sum(r.sample_count) "
    "FROM deletion_requests r WHERE {condition} GROUP BY 1, 2, 4"
)
VERDICTS = (
    "INSERT INTO tallies (tenant_id, year, name, value, requests, samples) "
    "SELECT a.tenant_id, {year}, 'verdict', a.verdict, count(*), 0 "
    "FROM audit_reports a JOIN outcomes o ON o.job_id = a.job_id WHERE {condition} GROUP BY 1, 2, 4"
)


def count_what_is_there() -> None:
    dialect = op.get_bind().dialect.name
    year = year_of(dialect, "r.received_at")
    for name, value, condition in facts(dialect, "r"):
        op.execute(REQUESTS.format(year=year, name=name, value=value, condition=condition or "true"))
    op.execute(VERDICTS.format(year=year_of(dialect, "a.created_at"), condition=published("a")))


LISTED = (  # of rows in the order of a list: name, table, columns, condition
    ("ix_jobs_request", "jobs", ["request_id", "kind", "state", "id"], "request_id IS NOT NULL"),
    ("ix_jobs_parts", "jobs", ["parent_id", "id"], "parent_id IS NOT NULL"),
    ("ix_audit_compared", "audit_reports", ["compares_request"], "compares_request IS NOT NULL"),
    ("ix_versions_listed", "versions", ["model_id", "id"], None),
    ("ix_versions_state", "versions", ["model_id", "state", "id"], None),
    ("ix_versions_origin", "versions", ["model_id", "origin", "id"], None),
    ("ix_receipts_undone", "receipts", ["id"], "done_at IS NULL"),
    ("ix_receipts_model", "receipts", ["model_id", "id"], None),
    ("ix_deliveries_listed", "deliveries", ["webhook_id", "id"], None),
    ("ix_deliveries_unmade", "deliveries", ["webhook_id", "state", "id"], "state <> 'delivered'"),
    ("ix_certificates_listed", "certificates", ["tenant_id", "issued_at", "digest"], None),
    ("ix_requests_unfulfilled", "deletion_requests", ["tenant_id", "received_at", "id", "decision"],
     "fulfilled_at IS NULL"),
)  # fmt: skip
REPLACED = (
    ("ix_jobs_request", "jobs", ["request_id"], "request_id IS NOT NULL"),
    ("ix_jobs_parent_id", "jobs", ["parent_id"], None),
    ("ix_audit_reports_compares_request", "audit_reports", ["compares_request"], None),
    ("ix_deliveries_webhook_id", "deliveries", ["webhook_id"], None),
    ("ix_events_tenant_id", "events", ["tenant_id"], None),
    ("ix_requests_unfulfilled", "deletion_requests", ["tenant_id", "received_at", "id"], "fulfilled_at IS NULL"),
)


def index(name: str, table: str, columns: list[str], condition: str | None) -> None:
    where = None if condition is None else sa.text(condition)
    op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)


# What may name people: PostgreSQL's planner would quote it, and keeps quoting it once the table is empty.
UNQUOTED = {
    "case_details": {"reference": "text", "identity_note": "text"},
    "case_reasons": {"reason": "text"},
    "case_papers": {"name": "text", "content": "bytea"},
    "case_files": {"content": "bytea"},
    "notices": {"subject": "text", "body": "text"},
    "proposals": {"reason": "text"},
    "deletion_requests": dict.fromkeys(("reason", "received_reason", "extension_reason", "remains_reason"), "text"),
    "idempotency": {"body": "text"},
}


def quoted(statistics: int) -> None:
    """How much of these columns the planner's statistics have: 0 nothing. The type, which stays, is named so that
    those that are there go."""
    if op.get_bind().dialect.name == "sqlite":
        return
    for table, columns in UNQUOTED.items():
        for name, kind in columns.items():
            op.execute(
                f"ALTER TABLE {table} ALTER COLUMN {name} TYPE {kind}, ALTER COLUMN {name} SET STATISTICS {statistics}"
            )


def upgrade() -> None:
    quoted(0)
    for name, table, *_ in REPLACED:
        op.drop_index(name, table_name=table)
    for each in LISTED:
        index(*each)
    columns = (
        sa.Column("tenant_id", ID, sa.ForeignKey("tenants.id"), nullable=False, primary_key=True),
        sa.Column("year", sa.Integer(), nullable=False, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(length=20), nullable=False, primary_key=True),
        sa.Column("value", sa.String(length=200), nullable=False, primary_key=True),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
    )
    op.create_table("tallies", *columns)
    op.create_table(
        "tally_changes",
        sa.Column("number", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("year", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=20), nullable=False),
        sa.Column("value", sa.String(length=200), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_tally_changes", "tally_changes", ["tenant_id", "name"])
    count_what_is_there()
    triggers()


def downgrade() -> None:
    quoted(-1)
    for name, table, *_ in LISTED:
        op.drop_index(name, table_name=table)
    for each in REPLACED:
        index(*each)
    sqlite = op.get_bind().dialect.name == "sqlite"
    for table in COUNTED:
        for verb in ("insert", "delete", "update"):
            op.execute(f"DROP TRIGGER tally_{table}_{verb}" + ("" if sqlite else f" ON {table}"))
        if not sqlite:
            op.execute(f"DROP FUNCTION tally_{table}()")
    op.drop_table("tally_changes")
    op.drop_table("tallies")
