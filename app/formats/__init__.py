"""Formats of bytes and documents, without a database."""
