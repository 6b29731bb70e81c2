"""one word for each thing: cancelled, escalated, deleted"""

from collections.abc import Mapping

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
KINDS = {"request.withdrawn": "request.cancelled", "gate.climbed": "gate.escalated"}


def upgrade() -> None:
    _decide("withdrawn", "cancelled")
    _subscribe(KINDS)
    with op.batch_alter_table("commitments", schema=None) as batch_op:
        batch_op.alter_column("destroyed_at", existing_type=sa.DateTime(), new_column_name="deleted_at")


def downgrade() -> None:
    with op.batch_alter_table("commitments", schema=None) as batch_op:
        batch_op.alter_column("deleted_at", existing_type=sa.DateTime(), new_column_name="destroyed_at")
    _subscribe({new: old for old, new in KINDS.items()})
    _decide("cancelled", "withdrawn")


def _decide(before: str, after: str) -> None:
    requests = sa.table("deletion_requests", sa.column("decision", sa.String))
    op.execute(requests.update().where(requests.c.decision == before).values(decision=after))


def _subscribe(names: Mapping[str, str]) -> None:
    """Webhooks go on receiving the events that they chose. Events themselves keep their names: they are log entries."""
    webhooks = sa.table("webhooks", sa.column("id", sa.String), sa.column("events", JSON))
    for key, events in op.get_bind().execute(sa.select(webhooks.c.id, webhooks.c.events)).all():
        renamed = list(dict.fromkeys(names.get(kind, kind) for kind in events))
        if renamed != events:
            op.execute(webhooks.update().where(webhooks.c.id == key).values(events=renamed))
