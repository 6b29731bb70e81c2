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
from worker.stages.loaded import Workpiece


def precompute(run: Run) -> None:
    """Adversarial examples of the whole training set on the current version, kept for later requests."""
    piece = Workpiece.load(run)
    with run.desk.database.read() as session:
        base = versions.current(session, session.get_one(Model, piece.model_id))
        if base is None:
            raise JobError("no-version", "the model has no current version")
        trained_on = mask_of(session.get_one(Version, base.id).trained_on, len(piece.labels)).nonzero()[0]
    with run.stage("attack", 0.0, 1.0):
        result = unlearn.attack_positions(run, piece, base, trained_on)
        stored = run.put_tensors(vars(result))
    choice = piece.policy.attack
    with run.desk.database.write() as session:
        job = jobs.fenced(session, run.claim)
        dataset = session.get_one(Dataset, piece.dataset_id, with_for_update=True)
        if dataset.images != piece.images_digest:
            raise SupersededError("samples were erased while they were attacked")
        usage.pin(session, run.desk.blobs, stored.digest)
        session.add(
            AdversarialRow(
                id=new_id("adv"),
                tenant_id=job.tenant_id,
                model_id=piece.model_id,
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
