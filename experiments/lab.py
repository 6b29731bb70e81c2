"""Where cells are computed: the loaded data, the device, and the way from a cell to its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine import evaluation, places, references, seeding
from engine.attacks import AttackResult
from engine.audits.groups import Groups
from engine.data.samples import RawData, Samples, Split
from engine.recipes import Recipe
from experiments.cells import Adversarial, Forget, Reference, Taught, Trained, Unlearned, World
from experiments.data import Data, load
from experiments.measuring import PoolReadings
from experiments.store import Cell, CellProgress, NotMeasured, Result, Store

Compute = Callable[[Any, "Lab", CellProgress], Result]
"""(a cell, where it is computed, its progress) to its result."""
MOST_HALF = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class LoadedWorld:
    """A world, loaded."""

    raw: RawData
    samples: Samples
    recipe: Recipe
    build: Callable[[], nn.Module]


class Lab:
    """Computes cells and what they rest on, and keeps both in a store.

    compute: by kind of cell, the function that computes it.
    """

    def __init__(
        self,
        store: Store,
        device: torch.device,
        compute: Mapping[type[Cell], Compute],
        folder: Path | None = None,
        download: bool = False,
    ) -> None:
        self.store = store
        self.device = device
        self.computed = 0
        self._compute = compute
        self.folder = folder
        self._download = download
        self._data = cache(self._load_data)
        self.loaded = cache(self._load)
        self.pool = cache(self._pool)

    def get(self, cell: Cell, *, tensors: bool = False, wait: bool = True) -> Result:
        """The result of `cell`, computed now if it is not there.

        Raises:
            NotMeasured: it cannot be had here. OutOfTime, Busy: see `Store.compute`.
        """
        mine = self.store.compute(cell, lambda progress: self._work(cell, progress), wait)
        self.computed += mine  # not in one line: what it rests on counts meanwhile
        found = self.store.read(cell, tensors)
        if found is None:
            raise RuntimeError("a cell has gone from the store while it was in use")
        return found

    def peek(self, cell: Cell) -> Result | None:
        """The result of `cell` if it is there."""
        return self.store.read(cell)

    def model(self, cell: Trained | Unlearned | Taught) -> nn.Module:
        """A copy of the model that `cell` ended with, in eval mode, on the device.

        Raises:
            NotMeasured: it failed, so that there is none.
        """
        held = self.get(cell, tensors=True)
        if "failed" in held.figures:
            raise NotMeasured(f"it rests on a run that failed: {held.figures['failed']}")
        model = seeding.seeded_model(self.loaded(cell.world).build, 0)
        prefix = "weights."
        model.load_state_dict({n.removeprefix(prefix): t for n, t in held.tensors.items() if n.startswith(prefix)})
        return model.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]

    def adversarial(self, cell: Adversarial) -> AttackResult:
        held = self.get(cell, tensors=True).tensors
        return AttackResult(**{name: tensor.to(self.device) for name, tensor in held.items()})

    def groups(self, loaded: LoadedWorld, forget: tuple[Forget, ...], gone: tuple[Forget, ...]) -> Groups:
        """Positions of the forget sets, of what has been retained all along, and of the holdout."""
        holdout = loaded.raw.holdout
        chosen = np.unique(np.concatenate([each.positions(loaded.raw) for each in forget]))
        left = np.concatenate([chosen, *(each.positions(loaded.raw) for each in gone)])
        return Groups(chosen, np.setdiff1d(np.flatnonzero(~holdout), left), np.flatnonzero(holdout))

    def split(self, loaded: LoadedWorld, forget: Forget, gone: tuple[Forget, ...], remain: bool) -> Split:
        groups = self.groups(loaded, (forget,), gone)
        sets = groups.forget, groups.retain if remain else groups.retain[:0], groups.test
        return Split(loaded.samples, *(torch.from_numpy(each).to(self.device) for each in sets))

    def logits(self, model: nn.Module, samples: Samples) -> Tensor:
        """(N, classes) float16, on the CPU; a ruined model's may be larger than that holds, and end at its bounds."""
        return evaluation.logits(model, samples.images).clamp(-MOST_HALF, MOST_HALF).half().cpu()

    def finished(self, begun: float, progress: CellProgress | None = None) -> float:
        """Seconds since `begun`, and those before an interruption, once the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic() - begun + (progress.spent if progress else 0.0)

    def _work(self, cell: Cell, progress: CellProgress) -> Result:
        try:
            return self._compute[type(cell)](cell, self, progress)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise NotMeasured("out of device memory") from error

    def _load_data(self, data: Data) -> tuple[RawData, Samples]:
        raw = load(data, self.folder, self._download)
        return raw, Samples.from_arrays(raw.images, raw.labels, self.device)

    def _load(self, world: World) -> LoadedWorld:
        recipe = Recipe(places.recipe(world.recipe.name), world.recipe.parsed())
        architecture = world.architecture.parsed()
        raw, samples = self._data(world.data)
        make, classes = places.architecture(world.architecture.name), samples.num_classes
        channels, height, width = samples.shape
        build = partial(make, architecture, channels, classes, (height, width))
        return LoadedWorld(raw, samples, recipe, build)

    def _pool(self, world: World, models: int) -> PoolReadings:
        rows = [self.get(Reference(world, models, index), tensors=True).tensors for index in range(models)]
        signals = [references.ReferenceSignal(**{name: t.numpy() for name, t in row.items()}) for row in rows]
        return PoolReadings(references.stack(signals), self.loaded(world).raw.labels)
