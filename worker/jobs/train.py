"""The job *train*: a version trained from random weights, or an exact retrain to compare with."""

from __future__ import annotations

from app.blobs import usage
from app.core.positions import Positions
from app.core.tables import Dataset, Model
from app.models import versions
from app.releases import publishing
from engine import evaluation
from worker.jobs import audit
from worker.runtime.run import Run
from worker.stages.loaded import Workpiece
from worker.stages.unlearning import train_on


def train(run: Run) -> None:
    """Train a version on everything that may be trained on; or an exact retrain to compare with."""
    piece = Workpiece.load(run)
    if run.claim.params["compare_only"]:
        audit.compare(run, piece)
        return
    with run.desk.database.read() as session:
        dataset, model = session.get_one(Dataset, piece.dataset_id), session.get_one(Model, piece.model_id)
        positions = versions.trainable(session, dataset, model)
    stored = train_on(run, piece, positions)
    with run.stage("evaluate", 0.95, 1.0):
        metrics = _accuracies(run, piece, stored.digest, positions)
        with run.desk.database.write() as session:
            usage.pin(session, run.desk.blobs, stored.digest)
            publishing.publish_trained(session, run.claim, stored, positions, metrics)


def _accuracies(run: Run, piece: Workpiece, digest: str, trained_on: Positions) -> dict[str, float | None]:
    if not piece.samples.n:  # nothing of the data is held here; the checkpoint must fit all the same
        piece.restore(run, digest)
        return {"accuracy_train": None, "accuracy_test": None}
    logits = evaluation.logits(piece.restore(run, digest), piece.samples.images).cpu().numpy()
    right = logits.argmax(axis=1) == piece.labels
    return {
        "accuracy_train": float(right[trained_on].mean()) if len(trained_on) else None,
        "accuracy_test": float(right[piece.holdout].mean()) if len(piece.holdout) else None,
    }
