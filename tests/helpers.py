"""Looking behind the API: rows of every table, blobs, checkpoints made by hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import func, select

from app.core import db, keys
from app.core.config import Settings
from app.core.db import Database
from app.core.tables import Base, Tenant
from tests.support import Account, Document

SAFETENSORS = "application/vnd.safetensors"
PARQUET = "application/vnd.apache.parquet"


def counts(database: Database) -> dict[str, int]:
    """Rows of every table."""
    with database.read() as session:
        return {
            name: session.scalars(select(func.count()).select_from(table)).one()
            for name, table in Base.metadata.tables.items()
        }


def blobs(settings: Settings) -> set[str]:
    """Digests of every stored blob."""
    return {f"sha256:{path.name}" for path in (settings.data_dir / "blobs").glob("??/*")}


def incoming(settings: Settings) -> list[Path]:
    return list((settings.data_dir / "blobs" / "incoming").iterdir())


def other_tenant(account: Account, name: str = "ten_other") -> str:
    """A key of a second tenant."""
    with account.database.write() as session:
        session.add(Tenant(id=name, name=name, created_at=db.now(session)))
        session.flush()
        return keys.create(session, name, "its key")[1]


def as_other(account: Account) -> dict[str, str]:
    return {"Authorization": f"Bearer {other_tenant(account)}"}


def is_problem(response: Any, status: int, kind: str) -> Document:
    """The problem document of a refusal, held against RFC 9457 and our own `type`s."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert {"type", "title", "status", "detail"} <= document.keys()
    assert document["status"] == status
    assert document["type"] == f"urn:lethe:problems/{kind}", document
    return document


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def make_safetensors(tensors: dict[str, np.ndarray[Any, Any]], names: dict[str, str] | None = None) -> bytes:
    """A file by the format's own definition, so that a broken one can be made as well."""
    kinds = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64"} | (names or {})
    header: dict[str, Any] = {}
    data = b""
    for name, array in tensors.items():
        header[name] = {
            "dtype": kinds[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def read_safetensors(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    kinds = {"F32": np.float32, "I64": np.int64}
    found = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        raw = data[8 + length + start : 8 + length + end]
        found[name] = np.frombuffer(raw, kinds[entry["dtype"]]).reshape(entry["shape"])
    return found
