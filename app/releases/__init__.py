"""How a version becomes current: publishing, imports, escalation, promotion, aliases."""
