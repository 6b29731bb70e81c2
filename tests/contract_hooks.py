"""What schemathesis has to be told of this API: bodies that are files or lines are sent as the bytes they are."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.serializer(
    "application/x-ndjson",
    "application/vnd.apache.parquet",
    "application/x-npz",
    "application/zip",
    "application/vnd.safetensors",
)
def as_bytes(_: schemathesis.SerializationContext, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    raw = getattr(value, "data", value)
    return raw if isinstance(raw, bytes) else str(raw).encode(errors="replace")
