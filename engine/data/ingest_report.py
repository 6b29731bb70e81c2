"""What was taken in: counted, and without ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.formats import marks
from app.formats.manifest import NOTES
from engine.data.upload import Taken

Progress = Callable[[float], None]
MOST_SIZES = 20
MOST_LISTED = 1000  # classes


class Counts:
    """Labels and splits of the samples, as they are stored."""

    def __init__(self) -> None:
        self._labels: list[NDArray[np.int32]] = []
        self._holdout: list[NDArray[np.bool_]] = []
        self.samples = 0

    def add(self, rows: Sequence[tuple[str, str | None, int, bool]]) -> None:
        self._labels.append(np.array([row[2] for row in rows], dtype=np.int32))
        self._holdout.append(np.array([row[3] for row in rows], dtype=np.bool_))
        self.samples += len(rows)

    @property
    def labels(self) -> NDArray[np.int32]:
        return np.concatenate(self._labels)

    @property
    def holdout(self) -> NDArray[np.bool_]:
        return np.concatenate(self._holdout)


def of(taken: Taken, counts: Counts, erased: NDArray[np.int64]) -> dict[str, Any]:
    """The report of what was taken in; `erased` samples, which were erased before, count as left out only."""
    there = np.ones(counts.samples, dtype=np.bool_)
    there[erased] = False
    labels, holdout, looked = counts.labels[there], counts.holdout[there], taken.looked[there]
    groups = duplicates(taken.looked, erased)
    positions = groups[:, 1]
    across = _across(groups, counts.holdout)
    notes = taken.notes | ({"left-out": len(erased)} if len(erased) else {})
    sizes = Counter(zip(looked["height"].tolist(), looked["width"].tolist(), strict=True))
    return {
        "samples": len(labels),
        "form": taken.form,
        "splits": {"train": int((~holdout).sum()), "holdout": int(holdout.sum())},
        "classes": _classes(labels, holdout, taken.class_names),
        "modes": dict(sorted(taken.modes.items())),
        "sizes": [{"height": h, "width": w, "samples": n} for (h, w), n in sizes.most_common(MOST_SIZES)],
        "different_sizes": len(sizes),
        "constant": int(looked["constant"].sum()),
        "duplicates": {
            "samples": len(positions),
            "contents": len(np.unique(groups[:, 0])),
            "across_splits": across,
        },
        "conversions": [{"code": code, "samples": n, "detail": NOTES[code]} for code, n in sorted(notes.items())],
    }


def _classes(labels: NDArray[np.int32], holdout: NDArray[np.bool_], names: list[str] | None) -> list[dict[str, Any]]:
    size = len(names) if names else int(labels.max(initial=-1)) + 1
    train, held = (np.bincount(labels[which], minlength=size) for which in (~holdout, holdout))
    return [{"label": k, "train": int(train[k]), "holdout": int(held[k])} for k in range(min(size, MOST_LISTED))]


def duplicates(looked: NDArray[np.void], erased: NDArray[np.int64]) -> NDArray[np.int64]:
    """(first position of the same content, position) of all samples whose content is there more than once."""
    known = np.setdiff1d(np.flatnonzero(looked["mark"][:, 0].any(axis=1)), erased)
    if not len(known):
        return np.empty((0, 2), dtype=np.int64)
    colour, mark = looked["colour"][known, 0], looked["mark"][known, 0]  # with the first of the keys
    # A grey picture is the same as it is in three channels.
    seen = np.where(colour.any(axis=1, keepdims=True), colour, mark)
    contents = np.ascontiguousarray(seen).view(f"V{marks.SIZE}").reshape(-1)
    _, first, which, counts = np.unique(contents, return_index=True, return_inverse=True, return_counts=True)
    many = counts[which] > 1
    return np.stack([known[first[which[many]]], known[many]], axis=1)


def _across(groups: NDArray[np.int64], holdout: NDArray[np.bool_]) -> int:
    """Samples of the holdout whose content is a training sample's, too."""
    trained = set(groups[~holdout[groups[:, 1]], 0].tolist())
    return sum(first in trained for first in groups[holdout[groups[:, 1]], 0].tolist())
