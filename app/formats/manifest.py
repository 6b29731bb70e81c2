"""What uploaded content says of its samples, and the rules that its values obey in whatever form they come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

MAX_ROWS = 5_000_000
MAX_CLASSES = 10_000
MAX_ID_LENGTH = 200
MAX_SIDE = 1024  # pixels
MAX_BYTES = 16 * 2**30  # of all decoded pixels, and of all that an archive unpacks to
MAX_ERRORS = 20
ERASED_PREFIX = "erased:"  # of what stands in the place of an erased id; no sample may be called so
HOLDOUT = {"train": False, "holdout": True, "test": True}


class SourceError(Exception):
    """A dataset that cannot be taken. `errors` names rows, counted from 0, never ids; at most 20."""

    def __init__(self, detail: str, errors: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors[:MAX_ERRORS])


@dataclass(frozen=True)
class Manifest:
    """What a file says of its samples, in its order; None where it says nothing of splits or subjects.

    class_names: by label, where the file or the client says. form: as in `app.formats.uploads.FORMS`.
    """

    ids: list[str]
    labels: list[int]
    holdout: list[bool] | None
    subjects: list[str | None] | None = None
    class_names: list[str] | None = None
    form: str = "parquet"


def check_columns(
    ids: Sequence[Any], labels: Sequence[Any], splits: Sequence[Any] | None, subjects: Sequence[Any] | None
) -> Manifest:
    """Check the values that any form brings.

    Raises:
        SourceError: which rows are wrong, and how.
    """
    errors: list[str] = []
    names: list[str] = []
    seen: dict[str, int] = {}
    for row, sample in enumerate(ids):
        name = "" if sample is None else str(sample)
        names.append(name)
        if not 0 < len(name) <= MAX_ID_LENGTH or "\x00" in name:
            errors.append(f"row {row}: the id must have 1 to {MAX_ID_LENGTH} characters, none of them NUL")
        elif name.startswith(ERASED_PREFIX):
            errors.append(f"row {row}: the id must not begin with {ERASED_PREFIX}")
        elif name in seen:
            errors.append(f"row {row}: the same id as row {seen[name]}")
        else:
            seen[name] = row
    errors += _rows(
        labels,
        lambda label: label is not None and 0 <= label < MAX_CLASSES,
        f"the label must be an integer from 0 to {MAX_CLASSES - 1}",
    )
    errors += _rows(splits or [], HOLDOUT.__contains__, "the split must be train, holdout or test")
    errors += _rows(
        subjects or [],
        lambda name: name is None or (0 < len(name) <= MAX_ID_LENGTH and "\x00" not in name),
        f"the subject must have 1 to {MAX_ID_LENGTH} characters, none of them NUL",
    )
    if errors:
        raise SourceError(
            f"{len(errors)} problem{'s' * (len(errors) > 1)} with ids, labels, splits or subjects", errors
        )
    holdout = None if splits is None else [HOLDOUT[split] for split in splits]
    if holdout is not None and all(holdout):
        raise SourceError("the file has no training sample")
    return Manifest(names, list(labels), holdout, None if subjects is None else list(subjects))


def _rows(values: Iterable[Any], good: Any, text: str) -> list[str]:
    return [f"row {row}: {text}" for row, value in enumerate(values) if not good(value)]


def require_form(form: str, forms: Sequence[str]) -> None:
    if form not in forms:
        raise SourceError(f"the file is of the form {form}; its Content-Type says {' or '.join(forms)}")
