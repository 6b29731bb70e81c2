"""How a client's files are to be read, beyond what they say themselves: members of the source `upload`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Options:
    """columns: what a table calls `id`, `image`, `label`, `split` and `subject`. names_encoding: the code page of names
    in a zip archive that are not UTF-8. split: of all samples of a file that names none. allowed: of a manifest of
    addresses, the storage that they may lie in."""

    columns: Mapping[str, str]
    names_encoding: str | None = None
    split: str | None = None
    allowed: tuple[str, ...] | None = None

    @classmethod
    def of(cls, params: Mapping[str, Any], split: str | None = None) -> Options:
        """params: of the source `upload` or `objects`, as they are stored; of the latter with `allowed`."""
        allowed = tuple(params["allowed"]) if "allowed" in params else None
        return cls(dict(params.get("columns") or {}), params.get("names_encoding"), split, allowed)

    def column(self, name: str) -> str:
        return self.columns.get(name, name)


AS_THEY_ARE = Options({})
