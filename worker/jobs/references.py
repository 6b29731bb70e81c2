"""Building a pool of references: a job that divides itself into one part for each missing model.

Free workers take parts like any other job; the job's own worker takes them too, and waits for the last ones. A
model depends on the pool's seed and its number only, and on the one in whose place it comes, so that it makes no
difference who trains it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from sqlalchemy import func, select

from app import jobs
from app.blobs import usage
from app.blobs.folder import BlobMissingError
from app.core import crash_points
from app.core.errors import SupersededError
from app.core.positions import mask_of
from app.core.tables import Dataset, Model, ReferenceRow
from app.models import pools, versions
from app.models import records as models
from app.rules.states import JobKind, JobState
from engine import references
from engine.references import ReferenceSignal
from worker.runtime.run import Run
from worker.stages.loaded import LoadedModel
from worker.stages.parts import together


def build(run: Run) -> None:
    """Have every missing model of the pool trained, by whichever workers are free."""
    if run.claim.params.get("versions"):
        _of_versions(run)
        return
    count, design = int(run.claim.params["count"]), run.claim.params.get("design", pools.HALVES)
    with run.resources.database.read() as session:
        model = session.get_one(Model, run.claim.model_id)
        pool = pools.named(models.family(model), count, run.claim.seed, design)
        there = set(session.scalars(select(ReferenceRow.number).where(ReferenceRow.pool == pool)))
    lanes = {number: f"reference:{pool[:40]}:{number}" for number in range(count) if number not in there}
    with run.stage("references", 0.0, 1.0) as progress:
        before = {name: run.claim.params.get(name) for name in ("replaces", "drawn")}
        each = {"pool": pool, "count": count, "design": design, **before}
        together(run, progress, JobKind.REFERENCE, lanes, train_one, "reference model", **each)
    with run.resources.database.write() as session:
        job = jobs.fenced(session, run.claim)
        if session.scalars(select(func.count()).where(ReferenceRow.pool == pool)).one() < count:
            raise SupersededError("models of the pool were retired while it was built")
        jobs.finish(session, job, JobState.SUCCEEDED, result={"pool": pool, "references": count})
        crash_points.point("references.uncommitted")


# -- one model -------------------------------------------------------------------------------------


def train_one(run: Run) -> None:
    """Train one reference model of a pool and keep its signals, unless they are there already."""
    params = run.claim.params
    pool, count, number = params["pool"], params["count"], params["number"]
    with run.resources.database.write() as session:
        job = jobs.fenced(session, run.claim)
        if there := session.get(ReferenceRow, (pool, number)) is not None:
            jobs.finish(session, job, JobState.SUCCEEDED)
    if there:
        return
    loaded = LoadedModel.load(run.resources, run.claim)
    before = _before(run, loaded.samples.n)
    if before is not None and not before.membership[loaded.erased].any():
        _keep(run, loaded, before)  # it never saw what is erased: nothing of it has to go
        return
    with run.stage("reference", 0.0, 1.0) as progress:
        draw = references.folds if params.get("design") == pools.FOLDS else references.membership
        drawn = params.get("drawn")  # as the models that are kept, whether those that they replace are there or not
        design = draw(count, loaded.samples.n, run.claim.seed if drawn is None else drawn)
        if before is not None:  # as the others that are kept
            design[number] = before.membership
        design[:, loaded.erased] = False
        resumable = progress.part(0.0, 1.0, f"reference:{pool}:{number}:{loaded.images_digest}")
        signal = references.train_reference(
            number, design, loaded.samples, loaded.recipe, loaded.start, run.claim.seed, resumable
        )
        _keep(run, loaded, references.erase(signal, loaded.erased))


def _before(run: Run, samples: int) -> ReferenceSignal | None:
    """The signals in whose place the new ones come, of a pool that is built again while it is there."""
    params = run.claim.params
    with run.resources.database.read() as session:
        row = session.get(ReferenceRow, (params.get("replaces") or "", params["number"]))
        same = row is not None and (row.pool_size, row.design) == (params["count"], params.get("design", pools.HALVES))
        digest = row.digest if row is not None and same else None
    if digest is None:
        return None
    try:
        signal = references.from_file(run.resources.blobs.fetch(digest))
    except BlobMissingError:  # it went meanwhile
        return None
    return signal if len(signal.membership) == samples else None


def _keep(run: Run, loaded: LoadedModel, signal: ReferenceSignal) -> None:
    """Record the signals and end the part, in one transaction."""
    stored = run.put(partial(references.to_file, signal))
    crash_points.point("reference.signal.stored")
    params = run.claim.params
    with run.resources.database.write() as session:
        job = jobs.fenced(session, run.claim)
        dataset = session.get_one(Dataset, loaded.dataset_id, with_for_update=True)
        if dataset.images != loaded.images_digest:
            raise SupersededError("samples were erased while a reference was trained on them")
        usage.pin(session, run.resources.blobs, stored.digest)
        session.add(
            ReferenceRow(
                pool=params["pool"],
                number=params["number"],
                family=loaded.family,
                pool_size=params["count"],
                tenant_id=job.tenant_id,
                dataset_id=loaded.dataset_id,
                digest=stored.digest,
                erased_before=len(loaded.erased),
                design=params.get("design", pools.HALVES),
                created_at=job.created_at,
            )
        )
        jobs.finish(session, job, JobState.SUCCEEDED)
        crash_points.point("reference.uncommitted")


# -- the client's own ------------------------------------------------------------------------------


def _of_versions(run: Run) -> None:
    """A pool of checkpoints that the client trained, imported as versions of models on the same dataset."""
    with run.resources.database.read() as session:
        model = session.get_one(Model, run.claim.model_id)
        taken = [versions.by_id(session, model.tenant_id, version) for version in run.claim.params["versions"]]
        for version in taken:
            versions.require_present(version)
        size = session.get_one(Dataset, run.claim.dataset_id).sample_count
        seen = [mask_of(version.trained_on, size) for version in taken]
        kin = {models.family(session.get_one(Model, version.model_id)) for version in taken}
        design = pools.GIVEN if kin == {models.family(model)} else pools.GIVEN_OTHER
    stored = []
    images = LoadedModel.load(run.resources, run.claim).images_digest
    with run.stage("references", 0.0, 1.0) as progress:
        for number, (version, row) in enumerate(zip(taken, seen, strict=True)):
            progress.update(number / len(taken))
            own = LoadedModel.load(run.resources, replace(run.claim, model_id=version.model_id))
            logits = own.logits(version.digest)
            row[own.erased] = False
            signal = references.erase(references.signal_of(logits, own.labels, row), own.erased)
            stored.append(run.put(partial(references.to_file, signal)))
    with run.resources.database.write() as session:
        job = jobs.fenced(session, run.claim)
        dataset = session.get_one(Dataset, run.claim.dataset_id, with_for_update=True)
        if dataset.images != images:
            raise SupersededError("samples were erased while the references were measured")
        for each in stored:
            usage.pin(session, run.resources.blobs, each.digest)
        model = session.get_one(Model, run.claim.model_id)
        pool = pools.given(session, model, [each.digest for each in stored], design)
        jobs.finish(session, job, JobState.SUCCEEDED, result={"pool": pool, "references": len(stored)})
