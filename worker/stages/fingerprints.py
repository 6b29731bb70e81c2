"""Fingerprints of versions' weights, made while their bytes are there."""

from __future__ import annotations

from collections.abc import Sequence

from app.blobs.folder import BlobMissingError
from app.core.tables import Version
from app.formats import fingerprints
from app.formats.checkpoint_header import CheckpointError
from worker.runtime.run import Resources


def of(resources: Resources, digest: str, file_names: dict[str, str | None] | None = None) -> bytes:
    """file_names: of an import, see `engine.checkpoints.file_names`.

    Raises:
        BlobMissingError, CheckpointError: the bytes are gone, or are no checkpoint.
    """
    without = {name for name, own in (file_names or {}).items() if own is None}
    return fingerprints.of_file(resources.blobs.fetch(digest), without)


def remember(resources: Resources, ids: Sequence[str]) -> None:
    """Make those that these versions lack: versions of before had none."""
    for version_id in ids:
        with resources.database.read() as session:
            version = session.get_one(Version, version_id)
            digest, names, known = version.digest, version.file_names, version.fingerprint
        if known is not None:
            continue
        try:
            found = of(resources, digest, names)
        except (BlobMissingError, CheckpointError):
            continue  # it was purged meanwhile, or never was a checkpoint
        with resources.database.write() as session:
            session.get_one(Version, version_id).fingerprint = found
