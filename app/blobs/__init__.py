"""Bytes by their digest, in a folder or in a bucket, and which rows hold them."""
