"""The one form of ids, subjects and class names: composed (NFC), for taking in and for asking.

A Mac writes `é` as two characters in the names of files, other systems as one. Both are one name here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import TypeVar

Name = TypeVar("Name", str, str | None)


def normal(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def normal_all(names: Sequence[str]) -> Sequence[str]:
    """The same of many; they themselves where nothing changes, which costs one look at each."""
    if all(map(str.isascii, names)):
        return names
    return [normal(name) for name in names]


def forms(names: Sequence[Name]) -> Iterator[Sequence[Name]]:
    """Names as they are stored now and, where that is another form, as a Mac's were stored before there was one."""
    yield names
    if not all(name is None or name.isascii() for name in names):
        yield [name and unicodedata.normalize("NFD", name) for name in names]


def other_forms(name: str) -> list[str]:
    """How a name may have been stored before there was one form: as it was sent, or decomposed."""
    return [form for form in (name, unicodedata.normalize("NFD", name)) if form != normal(name)]
