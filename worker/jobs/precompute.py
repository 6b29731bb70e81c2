"""The job *precompute*: adversarial examples of the whole training set, kept for later requests."""

from __future__ import annotations

from app import jobs
from app.blobs import usage
from app.core.errors import SupersededError
from app.core.ids import new_id
from app.core.positions import mask_of, pack
from app.core.tables import AdversarialRow, Dataset, Model, Version
from app.models import versions
from app.rules.states import JobState
from worker.jobs import unlearn
from worker.runtime.run import JobError, Run
from worker.stages.loaded import LoadedModel


def precompute(run: Run) -> None:
    """Adversarial examples of the whole training set on the current version, kept for later requests."""
    loaded = LoadedModel.load(run.resources, run.claim)
    with run.resources.database.read() as session:
        base = versions.current(session, session.get_one(Model, loaded.model_id))
        if base is None:
            raise JobError("no-version", "the model has no current version")
        trained_on = mask_of(session.get_one(Version, base.id).trained_on, len(loaded.labels)).nonzero()[0]
    with run.stage("attack", 0.0, 1.0) as progress:
        result = unlearn.attack_positions(loaded, base, trained_on, progress)
        stored = run.put_tensors(vars(result))
    choice = loaded.policy.attack
    with run.resources.database.write() as session:
        job = jobs.fenced(session, run.claim)
        dataset = session.get_one(Dataset, loaded.dataset_id, with_for_update=True)
        if dataset.images != loaded.images_digest:
            raise SupersededError("samples were erased while they were attacked")
        usage.pin(session, run.resources.blobs, stored.digest)
        session.add(
            AdversarialRow(
                id=new_id("adv"),
                tenant_id=job.tenant_id,
                model_id=loaded.model_id,
                version=base.number,
                attack=choice.name,
                attack_params=choice.params,
                digest=stored.digest,
                positions=pack(trained_on),
                created_at=job.created_at,
            )
        )
        found = int(result.found.sum())
        jobs.finish(session, job, JobState.SUCCEEDED, result={"found": found, "total": len(trained_on)})
