"""The job *import*: an uploaded checkpoint is checked against its architecture and published."""

from __future__ import annotations

from app.core.positions import mask_of, pack, unpack
from app.core.tables import Model
from app.formats.checkpoint_header import CheckpointError
from app.models import versions
from app.releases import imports
from worker.runtime.run import JobError, Run
from worker.stages.loaded import LoadedModel


def import_checkpoint(run: Run) -> None:
    """Check an uploaded checkpoint against its architecture and publish it as the model's first version."""
    loaded = LoadedModel.load(run.resources, run.claim)
    with run.resources.database.read() as session:
        model = session.get_one(Model, loaded.model_id)
        version = versions.get(session, model, run.claim.params["version"])
        trained_on = unpack(pack(mask_of(version.trained_on, len(loaded.labels)).nonzero()[0]))
    with run.stage("check", 0.0, 1.0):
        try:
            metrics = loaded.accuracies(version.digest, trained_on)
        except CheckpointError as error:
            raise JobError("checkpoint-refused", str(error)) from None
        with run.resources.database.write() as session:
            imports.publish_imported(session, run.claim, metrics)
