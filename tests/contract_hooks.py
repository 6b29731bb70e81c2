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


@schemathesis.check
def schema_refusal(_: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case) -> None:
    """What fits the document's schemas is refused for what it says, never as not fitting them.

    Excepted: `7.0` is an integer by JSON Schema, and is not taken for one here.
    """
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 422:
        return
    told = response.json()
    if told["type"].endswith("/schema"):
        unfit = [fault for fault in told["errors"] if fault["code"] not in ("value_error", "int_type")]
        assert not unfit, f"the document allows it: {unfit}"
