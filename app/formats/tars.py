"""WebDataset archives: a tar whose members of one name but for their endings are one sample."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.formats.archives import BUT_CLUTTER, MAX_IMAGE_BYTES, SUFFIXES, fault_of_name, is_clutter, lines_of
from app.formats.manifest import HOLDOUT, MAX_ROWS, MULTI_LABEL, Columns, SourceError, check_columns
from app.formats.names import normal

MAX_LABEL_BYTES = 2**16
BLOCK = 512
WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})", re.ASCII)  # `007` is a name, as it is in a folder
LAYOUT = f"a sample is a picture (.{', .'.join(end[1:] for end in SUFFIXES)}) with a .cls or a .json of its name"


@dataclass(slots=True)  # there are millions
class _Sample:
    """start, size: where the bytes of its picture lie. cls: what its `.cls` says. The others: what `.json` says."""

    key: str
    number: int
    start: int | None = None
    size: int = 0
    cls: int | str | None = None
    id: Any = None
    label: Any = None
    split: Any = None
    subject: Any = None

    def say(self, name: str, value: Any) -> None:
        if getattr(self, name) is None:
            setattr(self, name, value)


def read(path: Path) -> Columns:
    """The samples of an archive, in its order: ids are their keys, labels what `.cls` or `.json` say.

    Raises:
        SourceError: members that no such archive has, samples without picture or label.
    """
    samples, passed_over = _samples(path)
    errors = [f"entry {each.number}: {_lack(each)}" for each in samples if _lack(each)]
    if errors:
        raise SourceError(f"{len(errors)} samples of the archive are not whole", errors)
    for each in samples:
        each.say("label", each.cls)
    kinds = {isinstance(each.label, str) for each in samples}
    labels = [str(each.label) if len(kinds) > 1 else each.label for each in samples]
    splits = [each.split for each in samples]
    if any(splits) and not all(splits):
        raise SourceError("some samples of the archive name a split and others do not")
    subjects = [each.subject for each in samples]
    return check_columns(
        [each.key if each.id is None else each.id for each in samples],
        labels,
        splits if any(splits) else None,
        subjects if any(subject is not None for subject in subjects) else None,
        form="webdataset",
        notes={"passed-over": passed_over} if passed_over else {},
        entries=[each.number for each in samples],
    )


def pictures(path: Path) -> Iterator[tuple[str, bytes]]:
    samples, _ = _samples(path)
    with path.open("rb") as file:
        for each in samples:
            file.seek(each.start or 0)
            yield f"entry {each.number}", file.read(each.size)


def _lack(sample: _Sample) -> str:
    if sample.start is None or (sample.label is None and sample.cls is None):
        return LAYOUT
    if sample.cls is not None and sample.label not in (None, sample.cls) and str(sample.label) != str(sample.cls):
        return "its .cls and its .json say different labels"
    if isinstance(sample.label, list):
        return MULTI_LABEL
    if not isinstance(sample.label, str | int | None):
        return "the label must be an integer or a name"
    values = {"id": sample.id, "subject": sample.subject}
    wrong = [name for name, value in values.items() if isinstance(value, bool | float | list | dict)]
    return f"{wrong[0]} must be a string, or an integer" if wrong else ""


def _samples(path: Path) -> tuple[list[_Sample], int]:
    found: dict[str, _Sample] = {}
    errors: list[str] = []
    passed_over = 0
    with _opened(path) as archive:
        for number, member in enumerate(_members(archive, path)):
            if number > 4 * MAX_ROWS:
                raise SourceError(f"the archive has more than {4 * MAX_ROWS:,} members")
            place = member.name.removeprefix("./")  # as `tar -c .` writes it
            if member.isdir():
                continue
            if is_clutter(place):
                passed_over += 1
                continue
            if fault := _fault(member, place):
                errors.append(f"entry {number}: {fault}")
                continue
            folder, _, name = place.rpartition("/")
            stem, _, ending = name.partition(".")
            key = normal(f"{folder}/{stem}" if folder else stem)
            sample = found.setdefault(key, _Sample(key, number))
            last = "cls" if ending.lower().endswith("cls.txt") else ending.lower().rpartition(".")[2]
            if f".{last}" in SUFFIXES:
                if sample.start is not None:
                    errors.append(f"entry {number}: a second picture of the sample of entry {sample.number}")
                elif member.size > MAX_IMAGE_BYTES:
                    errors.append(f"entry {number}: the file is over {MAX_IMAGE_BYTES // 2**20} MiB")
                sample.start, sample.size = member.offset_data, member.size
            elif last in ("cls", "json") and member.size <= MAX_LABEL_BYTES:
                file = archive.extractfile(member)
                fault = _say(sample, last, file.read() if file else b"")
                if fault:
                    errors.append(f"entry {number}: {fault}")
            else:
                passed_over += 1
    if errors:
        raise SourceError(lines_of(errors, "with the archive's members"), errors)
    if not found:
        raise SourceError(f"the archive is empty{BUT_CLUTTER if passed_over else ''}")
    if len(found) > MAX_ROWS:
        raise SourceError(f"the archive has {len(found):,} samples; at most {MAX_ROWS:,} are taken")
    return list(found.values()), passed_over


def _fault(member: tarfile.TarInfo, name: str) -> str:
    if not member.isreg() or member.issparse():
        return "it is a link or a special file"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "the name is not UTF-8"
    return fault_of_name(name)


def _say(sample: _Sample, ending: str, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig").strip()
        if ending == "cls":
            if sample.cls is not None:
                return "a second label of its sample"
            sample.cls = int(text) if WHOLE.fullmatch(text) else text
            return ""
        said = json.loads(text)
    except (ValueError, RecursionError):
        return f"the {ending} is not readable"
    if not isinstance(said, dict):
        return "the json is not an object"
    for name, value in (*said.items(), ("label", said.get("cls"))):
        if name in ("id", "label", "split", "subject"):
            is_truth = name == "label" and isinstance(value, bool)
            sample.say(name, ("false", "true")[value] if is_truth else value)
    if sample.split not in (None, *HOLDOUT):
        return f"the split must be one of {', '.join(HOLDOUT)}"
    return ""


def _members(archive: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """One after the other: an archive has millions, and the library keeps all that it has seen."""
    end = 0
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]
        yield member
        end = member.offset_data + -(-member.size // BLOCK) * BLOCK
    # tarfile takes a header that is cut off, or broken behind the first, for the end.
    if not _ends(path, end):
        raise SourceError("the archive is damaged or cut off")


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:") as archive:
            yield archive
    except (SourceError, MemoryError):
        raise
    except Exception as error:
        raise SourceError("the archive is damaged or cut off") from error


def _ends(path: Path, offset: int) -> bool:
    """Whether a block of zeros, or more, and nothing else follows."""
    with path.open("rb") as file:
        file.seek(offset)
        left = path.stat().st_size - offset
        return left >= BLOCK and not any(piece.strip(b"\0") for piece in iter(lambda: file.read(2**20), b""))
