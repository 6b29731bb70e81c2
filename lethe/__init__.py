"""Lethe's Python client: `from lethe import Client`."""

from lethe.client import Client, LetheError

__all__ = ["Client", "LetheError"]
