"""Deletion requests, from acceptance to erasure."""
