"""What jobs on a model work with, loaded onto the device: its samples, its architecture, its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.blobs.folder import Stored
from app.catalog import Params
from app.core.positions import Positions, mask_of
from app.core.tables import Dataset, Model
from app.datasets import canaries
from app.datasets import records as datasets
from app.models import pools
from app.models import records as models
from app.rules.policy import Policy
from engine import checkpoints, places, references, seeding
from engine.data.samples import Samples
from engine.recipes import Recipe
from engine.references import ReferenceSignals
from worker.runtime.run import Run


@dataclass(frozen=True)
class Loaded:
    """A dataset's samples with what never changes of its manifest, kept between the jobs of a worker.

    labels: (N,). held: (N,) bool, kept out of training from the start; erased samples among them.
    """

    samples: Samples
    labels: NDArray[np.int64]
    held: NDArray[np.bool_]

    @classmethod
    def of(cls, run: Run, dataset_id: str, images: str) -> Loaded:
        def read() -> Loaded:
            with run.desk.database.read() as session:
                rows = datasets.manifest(session, dataset_id)
            labels = np.array([label for label, _ in rows], dtype=np.int64)
            samples = Samples.open(run.desk.blobs.fetch(images), labels, run.desk.device)
            return cls(samples, labels, np.array([held for _, held in rows], dtype=bool))

        return run.desk.warm.get("samples", [images], read, cls.size, owner=dataset_id)

    @classmethod
    def nothing(cls, shape: Sequence[int], device: torch.device) -> Loaded:
        """Of a dataset whose samples are not held here. shape: (H, W, C)."""
        labels = np.empty(0, dtype=np.int64)
        samples = Samples.from_arrays(np.empty((0, *shape), dtype=np.uint8), labels, device)
        return cls(samples, labels, np.empty(0, dtype=bool))

    def size(self) -> int:
        """Bytes of memory; mapped images take none that could not be had back."""
        return 0 if self.samples.mapped else self.samples.images.nbytes


def _bytes(tensors: Mapping[str, Any]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


@dataclass(frozen=True)
class Workpiece:
    """One model with its dataset on the device."""

    model_id: str
    dataset_id: str
    images_digest: str
    samples: Samples
    labels: NDArray[np.int64]
    holdout: Positions  # never trained on, not erased, no canaries unless all are: test set and controls
    canaries: Positions  # of both splits
    erased: Positions
    classes: int
    architecture: tuple[str, Params]
    recipe: Recipe
    policy: Policy
    family: str  # of the reference pools that its audits may use

    @classmethod
    def load(cls, run: Run) -> Workpiece:
        with run.desk.database.read() as session:
            model = session.get_one(Model, run.claim.model_id)
            dataset = session.get_one(Dataset, run.claim.dataset_id)
            erased = mask_of(dataset.erased, dataset.sample_count)
            planted = canaries.planted(session, dataset)
        if dataset.images is None:
            loaded = Loaded.nothing(dataset.shape or (1, 1, 1), run.desk.device)
        else:
            loaded = Loaded.of(run, dataset.id, dataset.images)
        held_out = np.flatnonzero(loaded.held & ~erased).astype(np.int64)
        people = np.setdiff1d(held_out, planted)
        architecture = places.parse("architectures", model.architecture, model.architecture_params)
        return cls(
            model_id=model.id,
            dataset_id=dataset.id,
            images_digest=dataset.images or "",
            samples=loaded.samples,
            labels=loaded.labels,
            holdout=people if len(people) else held_out,
            canaries=planted,
            erased=np.flatnonzero(erased).astype(np.int64),
            classes=dataset.class_count,
            architecture=(model.architecture, architecture),
            recipe=Recipe(places.recipe(model.recipe), places.parse("recipes", model.recipe, model.recipe_params)),
            policy=Policy.model_validate(model.policy),
            family=models.family(model),
        )

    def build(self) -> nn.Module:
        """An untrained model of the architecture, on the CPU."""
        name, params = self.architecture
        channels, height, width = self.samples.shape
        return places.architecture(name)(params, channels, self.classes, (height, width))

    def fresh(self, seed: int) -> nn.Module:
        """An untrained model on the device, its weights drawn from `seed`."""
        return seeding.seeded_model(self.build, seed, self.samples.device)

    def restore(self, run: Run, digest: str) -> nn.Module:
        """The checkpoint of that digest, verified byte for byte when it was read, as a new model on the device."""
        model: nn.Module = self.build().to(device=run.desk.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

        def read() -> dict[str, Tensor]:
            checkpoints.load(run.desk.blobs.fetch(digest), model)
            return {name: tensor.clone() for name, tensor in model.state_dict().items()}

        model.load_state_dict(run.desk.warm.get("checkpoint", [digest], read, _bytes, owner=str(self.architecture)))
        return model

    def store(self, run: Run, model: nn.Module) -> Stored:
        name, params = self.architecture
        metadata = {
            "format": "lethe.checkpoint/1",
            "architecture": name,
            "architecture_params": params.model_dump_json(),
            "input": json.dumps({"shape": list(self.samples.shape), "range": [0, 1], "dtype": "float32"}),
            "classes": str(self.classes),
            "computed": json.dumps(seeding.arithmetic(run.desk.device, self.recipe.precision)),
        }
        return run.put(lambda path: checkpoints.save(model, path, metadata))

    def on_device(self, positions: Positions) -> Tensor:
        return torch.from_numpy(positions).to(self.samples.device)

    # -- references --------------------------------------------------------------------------------

    def pool_signals(self, run: Run) -> ReferenceSignals | None:
        """The signals of the pool that audits use; None where there is none. They must not be changed."""
        with run.desk.database.read() as session:
            pool = pools.in_use(session, [self.family]).get(self.family)
        if pool is None:
            return None

        def read() -> ReferenceSignals:
            return references.stack([references.from_file(run.desk.blobs.fetch(digest)) for digest in pool.digests])

        return run.desk.warm.get("pool", pool.digests, read, lambda signals: _bytes(vars(signals)))


def seed_for(run: Run, *names: str | int) -> int:
    """A seed for one purpose within this job: the same whenever the job is run again."""
    return seeding.derive(run.claim.seed, *names)
