"""The copy of a dataset that an input contract makes: found, or made once and recorded for every worker."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from app.blobs import usage
from app.core import db
from app.core.errors import SupersededError
from app.core.tables import Dataset, DatasetCopy
from app.formats.input_contract import InputContract
from app.formats.pictures import MAGIC, REFERENCES
from app.jobs import Claim
from engine.data import geometry, upload
from worker.runtime.run import Resources
from worker.stages import objects

_AS_THEY_ARE = "as-they-are"
"""The copy with the pixels of pictures that a contract changes nothing of."""


def digest_of(
    resources: Resources,
    claim: Claim,
    dataset: Dataset,
    images: str,
    contract: InputContract,
    moved: Callable[[float], None] = lambda _: None,
) -> str:
    """The digest of the pixels that the network of `contract` sees of `dataset`; its own, `images`, where they are.

    moved: called as the work goes on.

    Raises:
        SupersededError: samples were erased while the copy was made.
        ContractError: the contract does not fit such images.
        JobError: pictures that stay in object storage are gone, or are not what was taken in; or nothing can be made of
            some. Says which.
    """
    shape = dataset.shape or []
    made = list(contract.pixels_of(shape))
    name = contract.copy_of(shape) or _AS_THEY_ARE
    with resources.database.read() as session:
        there = session.get(DatasetCopy, (dataset.id, name))
    if there is not None:
        return there.digest
    beginning = b"".join(resources.blobs.read(images, 0, len(MAGIC)))
    if name == _AS_THEY_ARE and beginning not in (MAGIC, REFERENCES):
        return images
    source = resources.blobs.fetch(images)
    with resources.blobs.scratch(claim.id) as path, ExitStack() as stack:
        if beginning == REFERENCES:
            brought = stack.enter_context(resources.blobs.scratch(claim.id))
            objects.bring(resources, dataset, source, brought, moved)
            source = brought
        if beginning in (MAGIC, REFERENCES):
            wrong = upload.write_copy(source, path, contract, (made[0], made[1], made[2]), shape[2], moved)
            if wrong:
                raise objects.refusal("picture-unfit", "cannot be made into what the model sees", wrong)
        else:
            geometry.write_copy(source, path, contract, resources.settings.torch_threads)
        stored = resources.adopt(claim, path)
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
