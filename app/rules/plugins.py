"""What not every worker has, and who needs it: plug-ins and libraries beside Lethe's own dependencies."""

from __future__ import annotations

from collections.abc import Iterable

from app import catalog
from app.rules.policy import Choice, Policy


def offered() -> frozenset[str]:
    """What of them this process has."""
    return catalog.offers()


def needed(choices: Iterable[tuple[str, str]]) -> set[str]:
    """What of them these (kind, name) need."""
    return {name for name in (catalog.special(kind, name) for kind, name in choices) if name is not None}


def of_policy(policy: Policy) -> list[tuple[str, str]]:
    """Every choice of a policy, as (kind, name)."""
    choices = [("methods", method.name) for method in policy.named_methods]
    choices += [("attacks", policy.attack.name), ("audits", policy.audit.name)]
    return choices + [("probes", probe.name) for probe in policy.probes]


def of_audit(audit: Choice | None, probes: Iterable[Choice] | None) -> list[tuple[str, str]]:
    """What an audit job names itself."""
    return ([("audits", audit.name)] if audit else []) + [("probes", probe.name) for probe in probes or ()]
