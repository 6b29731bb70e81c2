"""The engine: torch, and neither database nor storage."""
