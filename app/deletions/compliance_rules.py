"""A tenant's compliance rules in the database."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import events
from app.core import db
from app.core.tables import ComplianceRules, Tenant
from app.rules.compliance import Rules


def of(session: Session, tenant_id: str) -> Rules:
    """The rules that hold; the defaults where the tenant has none of its own."""
    row = session.get(ComplianceRules, tenant_id)
    return Rules() if row is None else Rules.model_validate(row.rules)


def locked(session: Session, tenant_id: str) -> Rules:
    """The same, while nobody else changes the tenant's rules or letters."""
    session.execute(select(Tenant.id).where(Tenant.id == tenant_id).with_for_update())
    return of(session, tenant_id)


def replace(session: Session, tenant_id: str, rules: Rules) -> None:
    """Set the rules. Requests keep the dates that they have."""
    was = of(session, tenant_id).model_dump()
    session.merge(ComplianceRules(tenant_id=tenant_id, rules=rules.model_dump(), updated_at=db.now(session)))
    changed = sorted(name for name, value in rules.model_dump().items() if value != was[name])
    events.record(session, tenant_id, "compliance.rules-changed", tenant_id, changed=changed)
