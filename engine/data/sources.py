"""Sources: where the bytes of a dataset come from.

Functions of a source's parameters, the folder that what it downloads goes to, and the file that a client sent.
Each raises `SourceError` where the data cannot be loaded; its text is for the client.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.catalog import DigitsSource, ExternalSource, TorchvisionSource
from app.formats.manifest import MAX_BYTES, MAX_ROWS, MAX_SIDE, SourceError
from engine.data.samples import RawData
from engine.data.torchvision_ops import import_torchvision

RESERVED = {"root", "train", "download", "transform", "target_transform", "transforms", "loader"}


def digits(params: DigitsSource, cache: Path | None = None, content: Path | None = None) -> RawData:  # noqa: ARG001
    """scikit-learn's 1,797 digits with fixed Gaussian noise, clipped; 898 train and 899 holdout at random."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    random = np.random.default_rng(params.seed)
    pixels = bunch.images / bunch.images.max()
    pixels = np.clip(pixels + random.normal(0, params.noise, pixels.shape), 0, 1)
    n = len(pixels)
    holdout = np.ones(n, dtype=np.bool_)
    holdout[random.permutation(n)[: n // 2]] = False
    people = None if params.per_person is None else _made_up(random, holdout, params.per_person)
    return RawData(
        [f"digit-{row:05d}" for row in range(n)],
        np.rint(pixels * 255).astype(np.uint8)[..., None],
        bunch.target.astype(np.int64),
        holdout,
        people,
    )


def _made_up(random: np.random.Generator, holdout: NDArray[np.bool_], each: int) -> list[str | None]:
    """Names of people with so many samples each, drawn at random: the digits are in the order of those who wrote them.
    Nobody has samples on both sides."""
    place = np.empty(len(holdout), dtype=np.int64)
    for side in (False, True):
        place[holdout == side] = random.permutation(int((holdout == side).sum()))
    return [f"{'holdout' if held else 'train'}-{at // each}" for held, at in zip(holdout, place, strict=True)]


def external(params: ExternalSource, cache: Path | None = None, content: Path | None = None) -> RawData:  # noqa: ARG001
    """Nothing is ever taken in."""
    raise SourceError("the samples of this dataset are not held by this service")


def torchvision_set(
    params: TorchvisionSource,
    cache: Path | None = None,
    content: Path | None = None,  # noqa: ARG001
) -> RawData:
    """The train and the test half of a class of `torchvision.datasets`, the test half as holdout.

    Raises:
        SourceError: no such class, options that it does not take, nothing to download, images that differ
            in size, or labels that are not integers.
    """
    torchvision = import_torchvision()
    found = getattr(torchvision.datasets, params.dataset, None)
    if not (inspect.isclass(found) and issubclass(found, torchvision.datasets.VisionDataset)):
        raise SourceError(f"torchvision has no dataset {params.dataset!r}")
    accepted = inspect.signature(found.__init__).parameters
    if refused := sorted(name for name in params.options if name in RESERVED or name not in accepted):
        raise SourceError(f"{params.dataset} does not take the options {', '.join(refused)}")
    make = _fake_halves if params.dataset == "FakeData" else _downloaded_halves
    try:
        halves = make(found, dict(params.options), cache)
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise SourceError(f"{params.dataset} could not be loaded ({type(error).__name__})") from error
    train, test = (_arrays(half, params.dataset) for half in halves)
    if train[0].shape[1:] != test[0].shape[1:]:
        raise SourceError(f"the train and test images of {params.dataset} differ in size")
    return RawData(
        [f"train-{row:05d}" for row in range(len(train[1]))] + [f"test-{row:05d}" for row in range(len(test[1]))],
        np.concatenate([train[0], test[0]]),
        np.concatenate([train[1], test[1]]),
        np.arange(len(train[1]) + len(test[1])) >= len(train[1]),
    )


def _downloaded_halves(dataset: Callable[..., Any], options: dict[str, Any], cache: Path | None) -> tuple[Any, Any]:
    parameters = inspect.signature(dataset).parameters.values()
    names = {parameter.name for parameter in parameters}
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    if not ("root" in names and ("download" in names or passes_on)):
        raise SourceError(f"torchvision cannot download {dataset.__name__}")
    if cache is None:
        raise SourceError("there is no folder to download to")
    options |= {"root": str(cache), "download": True}
    if "train" in names or (passes_on and "split" in options):  # EMNIST names its variants `split`
        return dataset(train=True, **options), dataset(train=False, **options)
    if "split" in names and "split" not in options:
        return dataset(split="train", **options), dataset(split="test", **options)
    raise SourceError(f"{dataset.__name__} has no train and test half")


def _fake_halves(dataset: Callable[..., Any], options: dict[str, Any], _cache: Path | None) -> tuple[Any, Any]:
    """FakeData takes the shape as a tuple: `image_size` is written 3x32x32, or 32 for that."""
    size = str(options.pop("image_size", "3x32x32"))
    shape = tuple(int(part) for part in (size if "x" in size else f"3x{size}x{size}").split("x"))
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
        raise SourceError("image_size must be like 3x32x32 or 1x8x8")
    if max(shape[1:]) > MAX_SIDE:
        raise SourceError(f"images must have sides of 1 to {MAX_SIDE} pixels")
    count = int(options.pop("size", 1000))
    if not 0 < 2 * count <= MAX_ROWS:
        raise SourceError(f"size must be from 1 to {MAX_ROWS // 2:,}: there are two halves of it")
    if 2 * count * prod(shape) > MAX_BYTES:
        raise SourceError(f"the images are more than {MAX_BYTES // 2**30} GiB")
    offset = int(options.pop("random_offset", 0))
    halves = [
        dataset(size=count, image_size=shape, random_offset=offset + skipped, **options) for skipped in (0, count)
    ]
    return halves[0], halves[1]


def _arrays(half: Any, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read a half whole: images (n, H, W, C) uint8 and labels (n,)."""
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for row in range(len(half)):
        picture, label = half[row]
        try:
            labels.append(int(label))
        except (TypeError, ValueError) as error:
            raise SourceError(f"the labels of {name} are not integers: it is no classification set") from error
        pixels = np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"), dtype=np.uint8)
        if images and pixels.shape != images[0].shape:
            raise SourceError(f"the images of {name} differ in size")
        images.append(pixels)
    stacked = np.stack(images)
    return stacked if stacked.ndim == 4 else stacked[..., None], np.array(labels, dtype=np.int64)
