"""The bench's data: the digits, or a Parquet pair, or what torchvision has downloaded; whole or in part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.catalog import DigitsSource, TorchvisionSource
from app.formats.manifest import SourceError
from engine.data.samples import RawData
from experiments.store import NotMeasured

TORCHVISION = {"cifar10": ("CIFAR10", "cifar-10-batches-py"), "cifar100": ("CIFAR100", "cifar-100-python")}


@dataclass(frozen=True)
class Data:
    """A dataset by name, and which part of it.

    classes: of which labels, renumbered in this order; empty: all. train, test: how many samples of each half,
    drawn from `seed`; 0: all. noise: of the digits.
    """

    name: str
    classes: tuple[int, ...] = ()
    train: int = 0
    test: int = 0
    seed: int = 0
    noise: float = 0.3


def load(data: Data, folder: Path | None, download: bool = False) -> RawData:
    """Load `data`: `train.parquet` and `test.parquet` in `folder` or in its folder of that name, else torchvision.

    Raises:
        NotMeasured: it is not there.
    """
    if data.name == "digits":
        from engine.data.sources import digits

        return _part(digits(DigitsSource(noise=data.noise, seed=data.seed)), data)
    places = [folder / data.name, *([folder] if data.name == "cifar10" else [])] if folder else []
    for place in places:
        if (place / "train.parquet").exists():
            return _part(_pair(place), data)
    return _part(_torchvision(data.name, folder, download), data)


def _pair(place: Path) -> RawData:
    from engine.data.upload import load_content

    halves = [load_content(place / f"{name}.parquet", 0.0, 0) for name in ("train", "test")]
    return RawData(
        [*halves[0].ids, *halves[1].ids],
        np.concatenate([half.images for half in halves]),
        np.concatenate([half.labels for half in halves]),
        np.repeat([False, True], [len(half.ids) for half in halves]),
    )


def _torchvision(name: str, folder: Path | None, download: bool) -> RawData:
    if name not in TORCHVISION:
        raise NotMeasured(f"no data: {name}")
    class_name, unpacked = TORCHVISION[name]
    if folder is None or not (download or (folder / unpacked).exists()):
        raise NotMeasured(f"no data: {name}")
    from engine.data.sources import torchvision_set

    try:
        return torchvision_set(TorchvisionSource(dataset=class_name), folder)
    except SourceError as error:
        raise NotMeasured(f"no data: {error}") from error


def _part(raw: RawData, data: Data) -> RawData:
    """Keep the classes and the numbers that `data` asks for."""
    chosen = np.isin(raw.labels, data.classes) if data.classes else np.ones(len(raw.labels), dtype=np.bool_)
    random = np.random.default_rng(data.seed)
    rows = []
    for half, count in ((~raw.holdout, data.train), (raw.holdout, data.test)):
        there = random.permutation(np.flatnonzero(half & chosen))
        rows.append(np.sort(there[: count or len(there)]))
    kept = np.concatenate(rows)
    labels = raw.labels[kept]
    if data.classes:
        numbers = np.full(int(raw.labels.max()) + 1, -1)
        numbers[list(data.classes)] = np.arange(len(data.classes))
        labels = numbers[labels]
    return RawData([raw.ids[row] for row in kept], raw.images[kept], labels.astype(np.int64), raw.holdout[kept])
