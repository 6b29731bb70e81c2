"""The copy of a dataset that an input contract makes: found, or made once and recorded for every worker."""

from __future__ import annotations

import numpy as np

from app.blobs import usage
from app.core import db
from app.core.errors import SupersededError
from app.core.tables import Dataset, DatasetCopy
from app.formats.input_contract import InputContract
from app.jobs import Claim
from engine.data import geometry
from worker.runtime.run import Resources


def digest_of(resources: Resources, claim: Claim, dataset: Dataset, images: str, contract: InputContract) -> str:
    """The digest of the pixels that the network of `contract` sees of `dataset`; its own, `images`, where they are.

    Raises:
        SupersededError: samples were erased while the copy was made.
        ContractError: the contract does not fit such images.
    """
    shape = dataset.shape or []
    name = contract.copy_of(shape)
    if name is None:
        return images
    with resources.database.read() as session:
        there = session.get(DatasetCopy, (dataset.id, name))
    if there is not None:
        return there.digest
    source = resources.blobs.fetch(images)
    with resources.blobs.scratch(claim.id) as path:
        geometry.write_copy(source, path, contract, resources.settings.torch_threads)
        made = list(np.load(path, mmap_mode="r", allow_pickle=False).shape[1:])
        stored = resources.blobs.adopt(path)
    with resources.database.write() as session:
        now = session.get_one(Dataset, dataset.id, with_for_update=True)
        if now.images != images:
            raise SupersededError("samples were erased while a copy of the dataset was made")
        usage.pin(session, resources.blobs, stored.digest)
        if session.get(DatasetCopy, (dataset.id, name)) is None:
            session.add(
                DatasetCopy(
                    dataset_id=dataset.id,
                    name=name,
                    tenant_id=dataset.tenant_id,
                    digest=stored.digest,
                    shape=made,
                    created_at=db.now(session),
                )
            )
    return stored.digest
