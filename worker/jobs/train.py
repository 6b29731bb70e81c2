"""The job *train*: a version trained from random weights, or an exact retrain to compare with."""

from __future__ import annotations

from app.blobs import usage
from app.core.tables import Dataset, Model
from app.models import versions
from app.releases import publishing
from worker.jobs import audit
from worker.runtime.run import Run
from worker.stages import fingerprints
from worker.stages.loaded import LoadedModel
from worker.stages.unlearning import train_on


def train(run: Run) -> None:
    """Train a version on everything that may be trained on; or an exact retrain to compare with."""
    loaded = LoadedModel.load(run.resources, run.claim)
    if "null_of" in run.claim.params:
        audit.train_null(run, loaded)
        return
    if run.claim.params["compare_only"]:
        audit.compare(run, loaded)
        return
    with run.resources.database.read() as session:
        dataset, model = session.get_one(Dataset, loaded.dataset_id), session.get_one(Model, loaded.model_id)
        positions = versions.trainable(session, dataset, model)
    stored = train_on(run, loaded, positions)
    with run.stage("evaluate", 0.95, 1.0):
        metrics = loaded.accuracies(stored.digest, positions)
        fingerprint = fingerprints.of(run.resources, stored.digest)
        with run.resources.database.write() as session:
            usage.pin(session, run.resources.blobs, stored.digest)
            made = publishing.publish_trained(session, run.claim, stored, positions, metrics)
            made.fingerprint = fingerprint
