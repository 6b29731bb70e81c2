"""Who may do what: the scopes of keys, and the roles of the console's users."""

from __future__ import annotations

SCOPES = ("read", "request", "operate", "samples", "audit", "admin")
ROLES: dict[str, tuple[str, ...]] = {
    "officer": ("read", "request", "audit"),
    "engineer": ("read", "operate", "samples"),
    "auditor": ("read", "audit"),
    "owner": SCOPES,
}
