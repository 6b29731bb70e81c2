"""What jobs on a model work with, loaded onto the device: its samples, its architecture, its checkpoints."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import func, select
from torch import Tensor, nn

from app import catalog, datasets
from app.catalog import Params
from app.policy import Policy
from app.positions import Positions, mask_of
from app.storage import Stored
from app.tables import Dataset, Model, ReferenceRow
from worker import checkpoints, references, registry, seeding
from worker.data.samples import Samples
from worker.references import ReferenceSignals
from worker.run import Run


@dataclass(frozen=True)
class Workpiece:
    """One model with its dataset on the device."""

    model_id: str
    dataset_id: str
    images_digest: str
    samples: Samples
    labels: NDArray[np.int64]
    holdout: Positions  # never trained on and not erased: test set and controls
    erased: Positions
    classes: int
    architecture: tuple[str, Params]
    recipe: tuple[str, Params]
    policy: Policy

    @classmethod
    def load(cls, run: Run) -> Workpiece:
        with run.desk.database.read() as session:
            model = session.get_one(Model, run.claim.model_id)
            dataset = session.get_one(Dataset, model.dataset_id)
            rows = datasets.manifest(session, dataset.id)
            erased = mask_of(dataset.erased, dataset.sample_count)
        assert dataset.images is not None  # noqa: S101  (a job starts on a ready dataset only)
        labels = np.array([label for label, _ in rows], dtype=np.int64)
        holdout = np.array([held for _, held in rows], dtype=bool) & ~erased
        images = np.load(run.desk.blobs.fetch(dataset.images), mmap_mode="r", allow_pickle=False)
        architecture = catalog.parse("architectures", model.architecture, model.architecture_params)
        return cls(
            model_id=model.id,
            dataset_id=dataset.id,
            images_digest=dataset.images,
            samples=Samples.from_arrays(np.array(images), labels, run.desk.device),
            labels=labels,
            holdout=np.flatnonzero(holdout).astype(np.int64),
            erased=np.flatnonzero(erased).astype(np.int64),
            classes=dataset.class_count,
            architecture=(model.architecture, architecture),
            recipe=(model.recipe, catalog.parse("recipes", model.recipe, model.recipe_params)),
            policy=Policy.model_validate(model.policy),
        )

    def build(self) -> nn.Module:
        """An untrained model of the architecture, on the CPU."""
        name, params = self.architecture
        return registry.ARCHITECTURES[name](params, self.samples.shape[0], self.classes)

    def fresh(self, seed: int) -> nn.Module:
        """An untrained model on the device, its weights drawn from `seed`."""
        return seeding.seeded_model(self.build, seed, self.samples.images.device)

    def restore(self, run: Run, digest: str) -> nn.Module:
        """The checkpoint of that digest, verified byte for byte, on the device."""
        return checkpoints.load(run.desk.blobs.fetch(digest), self.build()).to(  # type: ignore[call-overload, no-any-return]
            device=run.desk.device, memory_format=torch.channels_last
        )

    def store(self, run: Run, model: nn.Module) -> Stored:
        name, params = self.architecture
        metadata = {
            "format": "lethe.checkpoint/1",
            "architecture": name,
            "architecture_params": params.model_dump_json(),
            "input": json.dumps({"shape": list(self.samples.shape), "range": [0, 1], "dtype": "float32"}),
            "classes": str(self.classes),
        }
        return run.put(lambda path: checkpoints.save(model, path, metadata))

    def on_device(self, positions: Positions) -> Tensor:
        return torch.from_numpy(positions).to(self.samples.images.device)

    # -- references --------------------------------------------------------------------------------

    def family(self) -> str:
        """Names every pool that audits of this dataset, architecture and recipe may use."""
        parts = [
            self.dataset_id,
            *(f"{name}:{params.model_dump_json()}" for name, params in (self.architecture, self.recipe)),
        ]
        return hashlib.sha256("\x00".join(parts).encode()).hexdigest()

    def pool_signals(self, run: Run) -> ReferenceSignals | None:
        """The signals of the largest complete pool; None where there is none."""
        with run.desk.database.read() as session:
            complete = (
                select(ReferenceRow.pool)
                .where(ReferenceRow.family == self.family())
                .group_by(ReferenceRow.pool, ReferenceRow.pool_size)
                .having(func.count() == ReferenceRow.pool_size)
                .order_by(ReferenceRow.pool_size.desc(), ReferenceRow.pool)
                .limit(1)
            )
            pool = session.scalars(complete).first()
            query = select(ReferenceRow.digest).where(ReferenceRow.pool == pool).order_by(ReferenceRow.number)
            digests = list(session.scalars(query))
        if pool is None:
            return None
        return references.stack([references.from_file(run.desk.blobs.fetch(digest)) for digest in digests])


def seed_for(run: Run, *names: str | int) -> int:
    """A seed for one purpose within this job: the same whenever the job is run again."""
    return seeding.derive(run.claim.seed, *names)
