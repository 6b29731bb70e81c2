"""refusals as rows of their own; when letters went; how a request came, and its year where the controller acts"""

import sqlalchemy as sa
from alembic import op

from app.rules.deadlines import clock, known

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

ID = sa.String(length=40)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
REQUEST = {
    "channel": sa.String(length=20),
    "local_year": sa.Integer(),
    "extension_sent_at": sa.DateTime(),
    "answered_at": sa.DateTime(),
    "answered_how": sa.Text(),
    "wait_over_at": sa.DateTime(),
}
PARTIAL = (
    ("ix_refusals_unsent", "refusals", ["tenant_id", "request_id"], "letter_sent_at IS NULL"),
    (
        "ix_requests_extension_unsent",
        "deletion_requests",
        ["tenant_id", "id"],
        "extended_at IS NOT NULL AND extension_sent_at IS NULL",
    ),
    ("ix_requests_waiting", "deletion_requests", ["identity_until"], "identity = 'asked' AND wait_over_at IS NULL"),
)


def sqlite() -> bool:
    return bool(op.get_bind().dialect.name == "sqlite")


# -- tallies: as of revision 0017, but that days end with the letter, and years are those of the place -------------

BEFORE = (
    "tenant_id", "jurisdiction", "ground", "decision", "refusal_ground", "refused_count", "extended_at", "fulfilled_at",
    "decided_at", "due_at", "received_at", "sample_count",
)  # fmt: skip
AFTER = (*BEFORE, "local_year", "answered_at")
INTO = "INSERT INTO tally_changes (tenant_id, year, name, value, requests, samples) SELECT"


def flag(condition: str) -> str:
    return f"CASE WHEN {condition} THEN '1' ELSE '0' END"


def seconds(moment: str) -> str:
    """Whole ones, so that a difference does not depend on how a database keeps fractions."""
    if sqlite():
        return f"CAST(strftime('%s', substr({moment}, 1, 19)) AS INTEGER)"
    return f"CAST(floor(extract(epoch FROM {moment})) AS bigint)"


def year_of(moment: str) -> str:
    return f"CAST(substr({moment}, 1, 4) AS INTEGER)" if sqlite() else f"CAST(extract(year FROM {moment}) AS integer)"


def of_request(row: str, sign: str, *, after: bool) -> list[str]:
    """The statements that count a request, or take it off."""
    letter = f"{row}.answered_at, " if after else ""
    end = f"coalesce({letter}{row}.fulfilled_at, {row}.decided_at)"
    answer = f"coalesce({letter}{row}.fulfilled_at)" if after else f"{row}.fulfilled_at"
    year = f"coalesce({row}.local_year, {year_of(f'{row}.received_at')})" if after else year_of(f"{row}.received_at")
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
        f"coalesce(CAST(({seconds(end)} - {received}) / 86400 AS TEXT), '')",
    )
    hundredths = f"CAST(({seconds(answer)} - {received} + 432) / 864 AS TEXT)"
    fulfilled = f" WHERE {row}.fulfilled_at IS NOT NULL AND {row}.decision NOT IN ('refused', 'cancelled', 'held')"
    counted = (("request", " || '|' || ".join(key), ""), ("answered", hundredths, fulfilled))
    return [
        f"{INTO} {row}.tenant_id, {year}, '{name}', {value}, {sign}1, {sign}{row}.sample_count{condition}"
        for name, value, condition in counted
    ]


def of_refusal(row: str, sign: str) -> list[str]:
    """The same of a refusal: its ground, and whether it came late."""
    value = f"coalesce({row}.ground, '') || '|' || {flag(f'{row}.late')}"
    return [f"{INTO} {row}.tenant_id, {row}.year, 'refusal', {value}, {sign}1, {sign}{row}.samples"]


def triggers(table: str, columns: tuple[str, ...], off: list[str], on: list[str]) -> None:
    without, counted = (f"{'; '.join(each)};" for each in (off, on))
    differs = "IS NOT" if sqlite() else "IS DISTINCT FROM"
    if not sqlite():
        op.execute(
            f"CREATE FUNCTION tally_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF TG_OP <> 'INSERT' THEN "
            f"{without} END IF; IF TG_OP <> 'DELETE' THEN {counted} END IF; RETURN NULL; END $$"
        )
    changed = " OR ".join(f"OLD.{name} {differs} NEW.{name}" for name in columns)
    for verb, when, body in (
        ("INSERT", "", counted),
        ("DELETE", "", without),
        (f"UPDATE OF {', '.join(columns)}", f"WHEN ({changed})", f"{without} {counted}"),
    ):
        name = f"tally_{table}_{verb.split()[0].lower()}"
        does = f"BEGIN {body} END" if sqlite() else f"EXECUTE FUNCTION tally_{table}()"
        op.execute(f"CREATE TRIGGER {name} AFTER {verb} ON {table} FOR EACH ROW {when} {does}")


def drop_triggers(table: str) -> None:
    for verb in ("insert", "delete", "update"):
        op.execute(f"DROP TRIGGER tally_{table}_{verb}" + ("" if sqlite() else f" ON {table}"))
    if not sqlite():
        op.execute(f"DROP FUNCTION tally_{table}()")


# -- what is there already -------------------------------------------------------------------------------------------


def set_local_years() -> None:
    """Of receipts on the last and the first day of a year, which may be another year's where the controller acts."""
    day = "substr(received_at, 6, 5)" if sqlite() else "to_char(received_at, 'MM-DD')"
    table = sa.table(
        "deletion_requests", *(sa.column(name) for name in ("id", "jurisdiction", "local_year")),
        sa.column("received_at", sa.DateTime()),
    )  # fmt: skip
    near = sa.select(table.c.id, table.c.jurisdiction, table.c.received_at)
    rows = op.get_bind().execute(near.where(sa.text(f"{day} IN ('12-31', '01-01')"))).all()
    local = [(name, clock(law).day(received).year, received) for name, law, received in rows if known(law)]
    found = [{"request": name, "year": year} for name, year, received in local if year != received.year]
    if found:
        one = sa.update(table).where(table.c.id == sa.bindparam("request")).values(local_year=sa.bindparam("year"))
        op.get_bind().execute(one, found)


def set_letters() -> None:
    """When the answer and the notice of an extension went, of requests with such a letter."""
    sent = "FROM notices n WHERE n.request_id = deletion_requests.id AND n.sent_at IS NOT NULL AND n.kind = "
    these = "id IN (SELECT request_id FROM notices WHERE sent_at IS NOT NULL AND kind = "
    for kind, far in (
        ("completion", "fulfilled_at IS NOT NULL"),
        ("refusal", "decision = 'refused'"),
    ):
        later = " AND n.created_at >= deletion_requests.decided_at" if kind == "refusal" else ""
        op.execute(
            f"UPDATE deletion_requests SET answered_at = (SELECT min(n.sent_at) {sent} '{kind}'{later}), "  # noqa: S608
            f"answered_how = (SELECT n.sent_how {sent} '{kind}'{later} ORDER BY n.sent_at LIMIT 1) "
            f"WHERE {far} AND {these} '{kind}')"
        )
    op.execute(
        f"UPDATE deletion_requests SET extension_sent_at = (SELECT min(n.sent_at) {sent} 'extension') "  # noqa: S608
        f"WHERE extended_at IS NOT NULL AND {these} 'extension')"
    )


def keep_refusals() -> None:
    """A row for each refusal that was recorded. Of a part, nobody knows any more which samples it was."""
    samples = "json_extract(e.data, '$.samples')" if sqlite() else "e.data ->> 'samples'"
    ground = "json_extract(e.data, '$.ground')" if sqlite() else "e.data ->> 'ground'"
    last = "SELECT max(x.number) FROM events x WHERE x.object_id = r.id AND x.kind = 'request.refused'"
    told = "SELECT min(n.sent_at) FROM notices n WHERE n.request_id = r.id AND n.kind = 'refusal'"
    op.execute(
        "INSERT INTO refusals (event, tenant_id, request_id, year, samples, ground, positions, late, letter_sent_at) "  # noqa: S608
        f"SELECT e.number, r.tenant_id, r.id, coalesce(r.local_year, {year_of('r.received_at')}), "
        f"coalesce(CAST({samples} AS INTEGER), r.refused_count), {ground}, "
        f"CASE WHEN r.decision = 'refused' AND e.number = ({last}) THEN r.positions END, false, "
        f"({told} AND n.created_at >= e.at) "
        "FROM deletion_requests r JOIN events e ON e.object_id = r.id AND e.kind = 'request.refused' "
        "WHERE r.refused_count > 0 OR r.decision = 'refused'"
    )


def upgrade() -> None:
    drop_triggers("deletion_requests")
    for name, kind in REQUEST.items():
        op.add_column("deletion_requests", sa.Column(name, kind, nullable=True))
    op.add_column("proposals", sa.Column("suspended", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    op.add_column("api_keys", sa.Column("rotated_from", ID, nullable=True))
    op.create_table(
        "refusals",
        sa.Column("event", SERIAL, primary_key=True, autoincrement=False),
        sa.Column("tenant_id", ID, sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("request_id", ID, sa.ForeignKey("deletion_requests.id"), nullable=False),
        sa.Column("year", sa.Integer(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("ground", sa.String(length=30), nullable=True),
        sa.Column("positions", sa.LargeBinary(), nullable=True),
        sa.Column("late", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("letter_sent_at", sa.DateTime(), nullable=True),
    )
    op.create_index("ix_refusals_request_id", "refusals", ["request_id"])
    for name, table, columns, condition in PARTIAL:
        where = sa.text(condition)
        op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)
    if not sqlite():  # it may name a person: the planner is not to quote it
        op.execute("ALTER TABLE deletion_requests ALTER COLUMN answered_how SET STATISTICS 0")
    off, on = (of_request(row, sign, after=True) for row, sign in (("OLD", "-"), ("NEW", "")))
    triggers("deletion_requests", AFTER, off, on)
    columns = ("tenant_id", "year", "ground", "late", "samples")
    triggers("refusals", columns, of_refusal("OLD", "-"), of_refusal("NEW", ""))
    set_local_years()
    set_letters()
    keep_refusals()


def downgrade() -> None:
    op.execute("UPDATE deletion_requests SET local_year = NULL WHERE local_year IS NOT NULL")
    op.execute("UPDATE deletion_requests SET answered_at = NULL WHERE answered_at IS NOT NULL")
    drop_triggers("refusals")
    drop_triggers("deletion_requests")
    op.execute("DELETE FROM tallies WHERE name = 'refusal'")
    op.execute("DELETE FROM tally_changes WHERE name = 'refusal'")
    for name, table, *_ in PARTIAL:
        op.drop_index(name, table_name=table)
    op.drop_table("refusals")
    op.drop_column("proposals", "suspended")
    op.drop_column("api_keys", "rotated_from")
    for name in reversed(REQUEST):
        op.drop_column("deletion_requests", name)
    off, on = (of_request(row, sign, after=False) for row, sign in (("OLD", "-"), ("NEW", "")))
    triggers("deletion_requests", BEFORE, off, on)
