"""What jobs on a model work with, loaded onto the device: its samples, its architecture, its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from app.blobs.folder import BlobMissingError
from app.catalog import Params
from app.core.positions import Positions, mask_of
from app.core.tables import Dataset, Model
from app.datasets import canaries
from app.datasets import records as datasets
from app.formats.checkpoint_header import CheckpointError
from app.formats.input_contract import ContractError, InputContract
from app.jobs import Claim
from app.models import pools, versions
from app.models import records as models
from app.models.pools import Pool
from app.rules.policy import Policy
from engine import checkpoints, evaluation, layout, places, references, seeding
from engine.architectures import heads, inputs
from engine.data.samples import Samples
from engine.errors import UnknownNameError
from engine.recipes import Recipe
from engine.references import ReferenceSignals
from worker.runtime.run import JobError, Resources
from worker.stages import copies

RESERVED = 0.2  # of the holdout
RESERVE_SEED = 0x1E7E


@dataclass(frozen=True)
class LoadedDataset:
    """A dataset's samples with what never changes of its manifest, kept between the jobs of a worker.

    labels: (N,). held: (N,) bool, kept out of training from the start; erased samples among them.
    """

    samples: Samples
    labels: NDArray[np.int64]
    held: NDArray[np.bool_]

    @classmethod
    def load(cls, resources: Resources, dataset_id: str, images: str) -> LoadedDataset:
        """images: the digest of their file."""

        def read() -> LoadedDataset:
            with resources.database.read() as session:
                found, train = datasets.labels_of(session, session.get_one(Dataset, dataset_id))
            labels = found.astype(np.int64)
            samples = Samples.open(resources.blobs.fetch(images), labels, resources.device)
            return cls(samples, labels, ~train)

        return resources.cache.get("samples", [images], read, cls.size, owner=dataset_id)

    @classmethod
    def empty(cls, shape: Sequence[int], device: torch.device) -> LoadedDataset:
        """A dataset whose samples are not held here. shape: (H, W, C)."""
        labels = np.empty(0, dtype=np.int64)
        samples = Samples.from_arrays(np.empty((0, *shape), dtype=np.uint8), labels, device)
        return cls(samples, labels, np.empty(0, dtype=bool))

    def size(self) -> int:
        """Bytes of memory; mapped images take none that the system cannot take back."""
        return 0 if self.samples.mapped else self.samples.images.nbytes


def _bytes(tensors: Mapping[str, Any]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


@dataclass(frozen=True)
class LoadedModel:
    """A model's row, with its dataset on the device."""

    resources: Resources
    model_id: str
    dataset_id: str
    images_digest: str
    samples: Samples
    labels: NDArray[np.int64]
    holdout: Positions  # never trained on, not erased, no canaries unless all are: test set and controls
    canaries: Positions  # of both splits
    erased: Positions
    classes: int
    contract: InputContract
    order: list[int] | None  # by label the network's output; None: as they are
    architecture: tuple[str, Params]
    base: str | None  # digest of what training starts from
    base_word: str | None  # why it is said that it never saw the dataset
    recipe: Recipe
    policy: Policy
    family: str  # of the reference pools that its audits may use

    @property
    def reserved(self) -> Positions:
        """The part of the holdout that methods may learn from: no control of an audit of theirs.

        It follows from the positions alone, so that it is the same in every job, whatever was erased.
        """
        chosen = np.random.default_rng(RESERVE_SEED).random(len(self.labels)) < RESERVED
        return self.holdout[chosen[self.holdout]]

    @property
    def blessed_accuracy(self) -> float | None:
        """On the holdout, of the version that the owner last trained, imported or promoted, when it was made."""
        with self.resources.database.read() as session:
            model = session.get_one(Model, self.model_id)
            if model.blessed_version is None:
                return None
            accuracy: float | None = versions.get(session, model, model.blessed_version).metrics.get("accuracy_test")
            return accuracy

    @classmethod
    def load(cls, resources: Resources, claim: Claim) -> LoadedModel:
        """The model that a job is about.

        Raises:
            UnknownNameError: this worker lacks a name of the model or of its policy.
            JobError: the model's input contract does not fit the dataset.
            SupersededError: samples were erased while its copy of the dataset was made.
        """
        with resources.database.read() as session:
            model = session.get_one(Model, claim.model_id)
            dataset = session.get_one(Dataset, claim.dataset_id)
            erased = mask_of(dataset.erased, dataset.sample_count)
            planted = canaries.planted(session, dataset)
        contract = models.input_of(model)
        shape = dataset.shape or [1, 1, 1]
        try:
            order = contract.order(dataset.class_names, dataset.class_count)
            if dataset.images is None:
                data = LoadedDataset.empty(contract.pixels_of(shape), resources.device)
            else:
                seen = copies.digest_of(resources, claim, dataset, dataset.images, contract)
                data = LoadedDataset.load(resources, dataset.id, seen)
        except ContractError as error:
            raise JobError("input-contract", str(error)) from None
        held_out = np.flatnonzero(data.held & ~erased).astype(np.int64)
        people = np.setdiff1d(held_out, planted)
        architecture = places.parse("architectures", model.architecture, model.architecture_params)
        return cls(
            resources=resources,
            model_id=model.id,
            dataset_id=dataset.id,
            images_digest=dataset.images or "",
            samples=data.samples,
            labels=data.labels,
            holdout=people if len(people) else held_out,
            canaries=planted,
            erased=np.flatnonzero(erased).astype(np.int64),
            classes=dataset.class_count,
            contract=contract,
            order=order,
            architecture=(model.architecture, architecture),
            base=model.base["digest"] if model.base else None,
            base_word=model.base["never_saw"] if model.base else None,
            recipe=Recipe(places.recipe(model.recipe), places.parse("recipes", model.recipe, model.recipe_params)),
            policy=_policy(model.policy),
            family=models.family(model),
        )

    def build(self) -> nn.Module:
        """An untrained model of the architecture, on the CPU."""
        network = self._network(self.classes)
        if self.base is not None or self.recipe.has_head:
            key = (self.architecture, self.classes, self.samples.shape)
            heads.mark(network, heads.names(self._network, self.classes, key))
        inputs.attach(network, self.contract, self.samples.shape[0], self.order)
        return heads.freeze(network) if self.recipe.head_alone else network

    def _network(self, classes: int) -> nn.Module:
        name, params = self.architecture
        channels, height, width = self.samples.shape
        return places.architecture(name)(params, self.contract.channels_of(channels), classes, (height, width))

    def start(self) -> nn.Module:
        """A model that has not seen the dataset, on the CPU: untrained, or its base with an untrained head.

        Raises:
            JobError: the base's bytes are gone, or do not fit.
        """
        model = self.build()
        if self.base is None:
            return model
        try:
            return checkpoints.load_body(self.resources.blobs.fetch(self.base), model, heads.of(model))
        except BlobMissingError:
            raise JobError("base-gone", "the checkpoint that training starts from was purged") from None
        except CheckpointError as error:
            raise JobError("base-refused", f"the base does not fit: {error}") from None

    def fresh(self, seed: int) -> nn.Module:
        """`start` on the device, what is untrained drawn from `seed`."""
        return seeding.seeded_model(self.start, seed, self.samples.device)

    def restore(self, digest: str) -> nn.Module:
        """The checkpoint of that digest, verified byte for byte when it was read, as a new model on the device."""
        device, owner = self.resources.device, str(self.architecture)
        model = layout.placed(self.build(), device)

        def read() -> dict[str, Tensor]:
            checkpoints.load(self.resources.blobs.fetch(digest), model)
            return {name: tensor.clone() for name, tensor in model.state_dict().items()}

        return checkpoints.fill(model, self.resources.cache.get("checkpoint", [digest], read, _bytes, owner))

    def logits(self, digest: str) -> NDArray[np.float32]:
        """(N, classes) of every sample of the dataset, by the checkpoint of that digest."""
        values: NDArray[np.float32] = evaluation.logits(self.restore(digest), self.samples.images).cpu().numpy()
        return values

    def accuracies(self, digest: str, trained_on: Positions) -> dict[str, float | None]:
        """Of the checkpoint of that digest, which must fit the architecture even where no sample is held here."""
        if not self.samples.n:
            self.restore(digest)
            return {"accuracy_train": None, "accuracy_test": None}
        return self.accuracies_of(self.logits(digest), trained_on)

    def accuracies_of(self, logits: NDArray[np.float32], trained_on: Positions) -> dict[str, float | None]:
        """The same from `logits` (N, classes)."""
        right = logits.argmax(axis=1) == self.labels
        return {
            "accuracy_train": float(right[trained_on].mean()) if len(trained_on) else None,
            "accuracy_test": float(right[self.holdout].mean()) if len(self.holdout) else None,
        }

    def save(self, model: nn.Module, path: Path) -> None:
        """Write a checkpoint of `model`, which says what it is."""
        name, params = self.architecture
        metadata = {
            "format": "lethe.checkpoint/1",
            "architecture": name,
            "architecture_params": params.model_dump_json(),
            "input": json.dumps({"shape": list(self.samples.shape), "range": [0, 1], "dtype": "float32"}),
            "classes": str(self.classes),
            **({} if self.contract.plain else {"input_contract": self.contract.model_dump_json(exclude_none=True)}),
            "computed": json.dumps(seeding.arithmetic(self.resources.device, self.recipe.precision)),
        }
        checkpoints.save(model, path, metadata)

    def on_device(self, positions: Positions) -> Tensor:
        return torch.from_numpy(positions).to(self.samples.device)

    # -- references --------------------------------------------------------------------------------

    def pool(self) -> Pool | None:
        """The pool that audits use; None where there is none."""
        with self.resources.database.read() as session:
            return pools.in_use(session, [self.family]).get(self.family)

    def pool_signals(self, pool: Pool) -> ReferenceSignals:
        """The signals of the pool. They must not be changed."""
        resources = self.resources

        def read() -> ReferenceSignals:
            return references.stack([references.from_file(resources.blobs.fetch(digest)) for digest in pool.digests])

        return resources.cache.get("pool", pool.digests, read, lambda signals: _bytes(vars(signals)))


def _policy(stored: Mapping[str, Any]) -> Policy:
    try:
        return Policy.model_validate(stored)
    except ValidationError as error:  # the service accepted it
        first = error.errors()[0]
        where, reason = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise UnknownNameError(f"the policy's {where}", reason) from error
