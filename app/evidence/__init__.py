"""Certificates, signatures and the transparency log."""
