"""Reference models: who sees which sample, and what is kept of each model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import nn

from engine import evaluation, seeding
from engine.audits.rmia import log_odds
from engine.data.samples import Samples
from engine.recipes import Recipe
from engine.training import Progress

COLUMNS_AT_ONCE = 16_384


@dataclass(frozen=True)
class ReferenceSignal:
    """All that is kept of one reference model, over the N samples of its dataset (train and holdout).

    logits: (N, classes) float16. log_odds: (N,) float32, of the true class. membership: (N,) bool, which
    samples it was trained on. Erased samples have NaN logits and log-odds.
    """

    logits: NDArray[np.float16]
    log_odds: NDArray[np.float32]
    membership: NDArray[np.bool_]


@dataclass(frozen=True)
class ReferenceSignals:
    """A pool of K references: logits (K, N, classes), log_odds (K, N), membership (K, N)."""

    logits: NDArray[np.float16]
    log_odds: NDArray[np.float32]
    membership: NDArray[np.bool_]


def membership(models: int, samples: int, seed: int) -> NDArray[np.bool_]:
    """Draw which model (rows) sees which sample (columns): each sample is in exactly half of the models.

    Raises:
        ValueError: `models` is odd or under 2.
    """
    if models < 2 or models % 2:
        raise ValueError("the number of reference models must be even and at least 2")
    design = np.empty((models, samples), dtype=np.bool_)
    for start in range(0, samples, COLUMNS_AT_ONCE):
        # The columns of `default_rng(seed).random((models, samples))`, whose draws and ranks would take 4 GB at once
        # for 256 models of a million samples.
        width = min(COLUMNS_AT_ONCE, samples - start)
        rows = (np.random.PCG64(seed).advance(row * samples + start) for row in range(models))
        draws = np.stack([np.random.Generator(row).random(width) for row in rows])
        design[:, start : start + width] = draws.argsort(axis=0) < models // 2
    return design


def folds(models: int, samples: int, seed: int) -> NDArray[np.bool_]:
    """Draw a design in which each sample (columns) is left out by exactly one model (rows), and seen by the others.

    Two are complementary halves, which together cost about one training; k models see (k - 1) / k of the data each, as
    nearly as the audited model does.

    Raises:
        ValueError: under two models.
    """
    if models < 2:
        raise ValueError("folds take at least 2 reference models")
    fold = np.random.default_rng(seed).permutation(samples) % models
    design: NDArray[np.bool_] = fold != np.arange(models)[:, None]
    return design


def train_reference(
    index: int,
    design: NDArray[np.bool_],
    samples: Samples,
    recipe: Recipe,
    build: Callable[[], nn.Module],
    seed: int,
    progress: Progress,
) -> ReferenceSignal:
    """Train reference `index` on its row of `design` (K, N) and return its signals on all N samples.

    Args:
        build: makes an untrained model; its weights are drawn from `seed` and `index`.
        seed: of the pool.
    """
    device = samples.device
    own = seeding.derive(seed, "reference", index)
    row = design[index]
    model = seeding.seeded_model(build, own, device)
    positions = torch.from_numpy(np.flatnonzero(row)).to(device)
    recipe.train(model, samples, positions, seeding.generator(own, device), progress)
    logits = evaluation.logits(model, samples.images).cpu().numpy()
    return signal_of(logits, samples.labels.cpu().numpy(), row)


def signal_of(logits: NDArray[np.float32], labels: NDArray[np.int64], row: NDArray[np.bool_]) -> ReferenceSignal:
    """What is kept of a model with `logits` (N, classes) that was trained on `row` (N,)."""
    return ReferenceSignal(logits.astype(np.float16), log_odds(logits, labels).astype(np.float32), row)


def stack(signals: Sequence[ReferenceSignal]) -> ReferenceSignals:
    return ReferenceSignals(
        np.stack([signal.logits for signal in signals]),
        np.stack([signal.log_odds for signal in signals]),
        np.stack([signal.membership for signal in signals]),
    )


def erase(signal: ReferenceSignal, positions: NDArray[np.int64]) -> ReferenceSignal:
    """Return a copy in which nothing is left of what the model says of samples `positions`."""
    logits, odds = signal.logits.copy(), signal.log_odds.copy()
    logits[positions] = np.nan
    odds[positions] = np.nan
    return replace(signal, logits=logits, log_odds=odds)


def to_file(signal: ReferenceSignal, path: Path) -> None:
    """Write `signal` as safetensors."""
    save_file({name: np.ascontiguousarray(array) for name, array in vars(signal).items()}, path)


def from_file(path: Path) -> ReferenceSignal:
    return ReferenceSignal(**load_file(path))
