"""The job *purge*: erases what the samples of a request left behind."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import torch

from app.blobs import usage
from app.core import crash_points
from app.core.positions import Positions, pack, unpack
from app.deletions import erasure, objects
from app.formats.pictures import is_pictures, write_without
from app.formats.references import at, is_references
from engine import references
from worker.runtime.run import Run
from worker.stages.contents import marks_of


def purge(run: Run) -> None:
    """Erase what a request's samples left behind; see `app.deletions.erasure` for why it takes two transactions."""
    with run.resources.database.read() as session:
        work = erasure.plan(session, run.claim)
    with run.stage("rewrite", 0.0, 0.7):
        images = None if work.carried else _without_pixels(run, work.images, work.positions)
        copies = {key: _zeroed(run, digest, work.positions) for key, digest in work.copies.items()}
        signals = {key: _without_columns(run, digest, work.positions) for key, digest in work.references.items()}
        sets = {key: _without_rows(run, key, digest, work) for key, digest in work.adversarial.items()}
        contents = marks_of(run, work.images, work.positions)
        fresh = [images, *copies.values(), *signals.values(), *(digest for digest, _ in sets.values())]
        with run.resources.database.write() as session:
            for digest in sorted({digest for digest in fresh if digest}):
                usage.pin(session, run.resources.blobs, digest)
            rewritten = erasure.Rewritten(images, copies, signals, sets, contents, _objects(run, work))
            erasure.swap(session, run.resources.settings, run.claim, work, rewritten)
            crash_points.point("purge.swap.uncommitted")
    with run.stage("remove", 0.7, 1.0):
        erasure.remove_owed(run.resources.database, run.resources.blobs, work.request_id)
        crash_points.point("purge.removed")
        objects.erase_owed(run.resources.database, run.resources.settings, work.request_id)
        with run.resources.database.write() as session:
            erasure.complete(session, run.claim, work.request_id)
            crash_points.point("purge.complete.uncommitted")


def _objects(run: Run, work: erasure.Plan) -> dict[int, str]:
    """Where the pictures lie, if that is not here."""
    if work.images is None or work.carried or not len(work.positions):
        return {}
    path = run.resources.blobs.fetch(work.images)
    if not is_references(path):
        return {}
    return {position: reference.address for position, reference in at(path, work.positions.tolist()).items()}


def _without_pixels(run: Run, digest: str | None, positions: Positions) -> str | None:
    """The dataset's images without those, as a new blob: their pictures left out, or their rows of an array zeroed."""
    if digest is None or not len(positions):
        return digest
    source = run.resources.blobs.fetch(digest)
    if is_pictures(source) or is_references(source):
        return run.put(partial(write_without, source, positions=positions)).digest
    return _zeroed(run, digest, positions)


def _zeroed(run: Run, digest: str, positions: Positions) -> str:
    def write(path: Path) -> None:  # in the file: the array need not fit into memory
        shutil.copyfile(run.resources.blobs.fetch(digest), path)
        images = np.load(path, mmap_mode="r+", allow_pickle=False)
        images[positions] = 0
        images.flush()

    return run.put(write).digest


def _without_columns(run: Run, digest: str, positions: Positions) -> str:
    signal = references.erase(references.from_file(run.resources.blobs.fetch(digest)), positions)
    return run.put(partial(references.to_file, signal)).digest


def _without_rows(run: Run, key: str, digest: str, work: erasure.Plan) -> tuple[str, bytes]:
    """A precomputed adversarial set without the request's samples: digest and packed positions."""
    covered = unpack(work.covered[key])
    left = ~np.isin(covered, work.requested)
    rows = torch.from_numpy(left.nonzero()[0]).to(run.resources.device)
    tensors = {name: tensor[rows] for name, tensor in run.resources.tensors(digest).items()}
    return run.put_tensors(tensors).digest, pack(covered[left])
