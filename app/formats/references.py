"""What is kept of a picture that stays where it is: its address, its size, its digest, and the marks of its content.

A file of references has the form of a file of pictures (`app.formats.pictures`), with these in their places.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from app.formats.pictures import REFERENCES, PictureFile, beginning


@dataclass(frozen=True)
class Reference:
    """address: `s3://bucket/key`. size: bytes. digest: SHA-256, hexadecimal. marks: of its pixels
    (`app.formats.marks`), hexadecimal, so that what is erased is known again without reading it."""

    address: str
    size: int
    digest: str
    marks: Sequence[str]

    def encoded(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def of(cls, encoded: bytes) -> Reference | None:
        """None: it was erased."""
        return cls(**json.loads(encoded)) if encoded else None


def is_references(path: Path) -> bool:
    return beginning(path) == REFERENCES


def at(path: Path, positions: Sequence[int]) -> dict[int, Reference]:
    """Those at `positions` that were not erased."""
    there = PictureFile(path)
    found = ((position, Reference.of(there[position])) for position in positions)
    return {position: reference for position, reference in found if reference is not None}
