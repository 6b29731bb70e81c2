"""Backup, the erasure ledger, and erasing again after a restore."""
