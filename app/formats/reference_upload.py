"""The signals of a client's own reference models: an npz of ids, who saw what, and what each model says.

    ids (N,)          of samples of the model's dataset, in any order; of those left out nothing is known
    membership (K, N) bool: whether reference k was trained on the sample
    log_odds (K, N)   log p - log(1 - p) of the true class; or
    logits (K, N, C)  in the order of the dataset's labels

It runs in a child process (`app.formats.sandbox`). Faults name references and entries from 0, never ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.formats import archives
from app.formats.manifest import MAX_CLASSES, MAX_ROWS, SourceError

MOST_REFERENCES = 256
FORM = "an npz has the arrays ids, membership, and either log_odds or logits"
Arrays = dict[str, NDArray[Any]]


def describe(path: str) -> dict[str, Any]:
    """What the file says, without its numbers: `ids`, `references`, and `classes`, 0 of log-odds.

    Raises:
        SourceError: what is wrong with it.
    """
    found = _read(Path(path))
    logits = found.get("logits")
    return {
        "ids": [str(name) for name in found["ids"].tolist()],
        "references": len(found["membership"]),
        "classes": 0 if logits is None else logits.shape[2],
    }


def write(path: str, positions: Sequence[int], labels: Sequence[int], size: int, targets: Sequence[str]) -> None:
    """Write the signals of each reference to its target, as `engine.references` reads them.

    positions, labels: of the ids, in the file's order. size: of the dataset; what the file leaves out is NaN.
    """
    found = _read(Path(path))
    where, true = np.asarray(positions), np.asarray(labels)
    for number, target in enumerate(targets):
        logits = found["logits"][number] if "logits" in found else np.empty((len(where), 0))
        odds = found["log_odds"][number] if "log_odds" in found else _log_odds(logits, true)
        whole: Arrays = {
            "logits": np.full((size, logits.shape[1]), np.nan, dtype=np.float16),
            "log_odds": np.full(size, np.nan, dtype=np.float32),
            "membership": np.zeros(size, dtype=bool),
        }
        for name, values in (("logits", logits), ("log_odds", odds), ("membership", found["membership"][number])):
            whole[name][where] = values
        _write_safetensors(Path(target), whole)


def _read(path: Path) -> Arrays:
    with archives.opened(path) as file:
        found, _ = archives.members(file, path.stat().st_size)
        members = {member.name.removesuffix(".npy"): member.info for member in found}
        if members.keys() not in ({"ids", "membership", "log_odds"}, {"ids", "membership", "logits"}):
            raise SourceError(FORM)
        heads = {name: archives.header(file, info, name) for name, info in members.items()}
        _check_shapes(heads)
        read = {name: archives.values(file, head, name) for name, head in heads.items()}
    _check_values(read)
    return read


def _check_shapes(heads: dict[str, archives.Array]) -> None:
    ids, membership, says = heads["ids"], heads["membership"], heads.get("log_odds") or heads["logits"]
    if ids.dtype.kind not in archives.KINDS["ids"] or len(ids.shape) != 1 or not 0 < ids.shape[0] <= MAX_ROWS:
        raise SourceError(f"ids must hold {archives.COLUMNS['ids']}, one for each sample")
    if membership.dtype != np.bool_ or len(membership.shape) != 2 or membership.shape[1] != ids.shape[0]:
        raise SourceError("membership must hold booleans of the shape (references, ids)")
    if not 0 < membership.shape[0] <= MOST_REFERENCES:
        raise SourceError(f"there are {membership.shape[0]} references; there must be 2 to {MOST_REFERENCES}")
    if says.dtype.kind != "f" or says.shape[:2] != membership.shape:
        raise SourceError("log_odds must hold floating-point numbers of the shape of membership")
    if "logits" in heads and not (len(says.shape) == 3 and 2 <= says.shape[2] <= MAX_CLASSES):
        raise SourceError("logits must have the shape (references, ids, classes)")
    if "log_odds" in heads and len(says.shape) != 2:
        raise SourceError("log_odds must have the shape of membership")


def _check_values(found: Arrays) -> None:
    name = "log_odds" if "log_odds" in found else "logits"
    kept = np.float32 if name == "log_odds" else np.float16
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(found[name].astype(kept))
    if bad.any():
        rows = [f"reference {row}: {count}" for row in range(len(bad)) if (count := int(bad[row].sum()))]
        raise SourceError(f"{name} has {int(bad.sum()):,} values that are no finite numbers", rows)
    seen = found["membership"]
    faults = [f"reference {row} saw every sample of the file, so it left none out" for row in _rows(seen.all(axis=1))]
    faults += [f"reference {row} saw no sample of the file" for row in _rows(~seen.any(axis=1))]
    if faults:
        raise SourceError("a reference must have been trained on some of the samples and not on others", faults)
    everywhere = np.flatnonzero(seen.all(axis=0))
    if len(everywhere):
        lines = [f"entry {place} was seen by every reference" for place in everywhere[:20].tolist()]
        raise SourceError(f"{len(everywhere):,} samples have no reference that left them out", lines)


def _rows(which: Any) -> list[int]:
    rows: list[int] = np.flatnonzero(which).tolist()
    return rows


def _log_odds(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    others = logits.astype(np.float64)
    rows = np.arange(len(labels))
    own = others[rows, labels]
    others[rows, labels] = -np.inf
    top = others.max(axis=1)
    found: NDArray[np.float64] = own - top - np.log(np.exp(others - top[:, None]).sum(axis=1))
    return found


CODES = {"float16": "F16", "float32": "F32", "bool": "BOOL"}


def _write_safetensors(path: Path, arrays: Arrays) -> None:
    """The format is a length, a JSON header and the bytes: its library is no part of the API."""
    header, at = {}, 0
    for name, values in arrays.items():
        spans = [at, at + values.nbytes]
        header[name] = {"dtype": CODES[values.dtype.name], "shape": list(values.shape), "data_offsets": spans}
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in arrays.values():
            file.write(values.tobytes())
