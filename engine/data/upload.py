"""Source `upload`: bytes that a client has sent, in any of the forms of `app.formats.uploads`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.catalog import UploadSource
from app.formats import sandbox
from app.formats.manifest import MAX_BYTES, Manifest, SourceError
from app.formats.sandbox import Limits
from engine import host
from engine.data.decoding import decode
from engine.data.samples import RawData

HOURS = 6  # of the clock and of a processor, for the largest datasets


def upload(params: UploadSource, cache: Path | None, content: Path | None) -> RawData:
    """The file at `content`, decoded in a child behind walls: a file that crashes its decoder is refused.

    Raises:
        SourceError: what is wrong with it, naming rows or entries (counted from 0, at most 20), never ids.
        SandboxError: the machine kept the child from decoding it.
    """
    if content is None:
        raise SourceError("nothing has been uploaded")
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        target = Path(folder) / "images.npy"
        arguments = (str(target), str(content), params.class_names, params.shape)
        seconds = HOURS * 3600
        limits = Limits(memory=host.free_bytes(), cpu_seconds=seconds, file_bytes=MAX_BYTES + 2**20)
        said = sandbox.call("engine.data.decoding:decode_to", *arguments, limits=limits, seconds=seconds)
        images = np.load(target, mmap_mode="r", allow_pickle=False)  # it stays readable without its name
    return _raw(Manifest(**said), images, params.holdout_fraction, params.seed)


def load_content(
    content: Path,
    holdout_fraction: float,
    seed: int,
    class_names: Sequence[str] | None = None,
    shape: tuple[int, int, int] | None = None,
) -> RawData:
    """The same of a file that is trusted, in this process. Where it says nothing of splits, a share of the samples,
    drawn from `seed`, is kept as holdout. class_names, shape: as in `decode`.

    Raises:
        SourceError: see `decode`.
    """
    manifest, images = decode(content, class_names, shape)
    return _raw(manifest, images, holdout_fraction, seed)


def _raw(manifest: Manifest, images: NDArray[np.uint8], holdout_fraction: float, seed: int) -> RawData:
    n = len(manifest.ids)
    if manifest.holdout is None:
        holdout = np.zeros(n, dtype=np.bool_)
        holdout[np.random.default_rng(seed).permutation(n)[: int(n * holdout_fraction)]] = True
    else:
        holdout = np.array(manifest.holdout, dtype=np.bool_)
    labels = np.array(manifest.labels, dtype=np.int64)
    return RawData(manifest.ids, images, labels, holdout, manifest.subjects, manifest.class_names)
