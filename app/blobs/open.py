"""Where blobs are kept: what every storage does, and the one that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from app.blobs.folder import Folder, Space, Stored, Writer
from app.core.config import Settings


class Blobs(Protocol):
    """What every storage does. Anything may raise StorageUnavailableError.

    What `writer` and `adopt` have returned is durable and complete; before that, nothing can be seen of it.
    """

    def check(self) -> None:
        """Write, read and remove a little, for readiness. Raises StorageUnavailableError; of what only a person can
        mend, StorageRefusedError."""

    def space(self, owner: str = "") -> Space:
        """Of this machine's disk; writers of every process count."""

    def writer(self, expected: int = 0, owner: str = "") -> AbstractContextManager[Writer]:
        """A writer that is aborted unless the block commits it. It claims room for the expected bytes. `owner`: a
        tenant."""

    def put(self, data: bytes) -> Stored: ...

    def scratch(self, owner: str) -> AbstractContextManager[Path]:
        """A path to write a file at before `adopt` takes it; a crash leaves it to `clear_scratch`."""

    def clear_scratch(self, owner: str) -> None:
        """Remove what interrupted writers of that owner left behind."""

    def scratch_owners(self, older_than_seconds: float) -> set[str]:
        """Whose files of `scratch` this machine has had that long."""

    def adopt(self, path: Path, announce: Callable[[str], object] = lambda _digest: None) -> Stored:
        """Make a file of `scratch` a blob. announce: is told the digest before the blob is there."""

    def size(self, digest: str) -> int:
        """In bytes. Raises BlobMissingError."""

    def confirm(self, digest: str) -> None:
        """Raises BlobMissingError unless it is there. While locks are held: asked once, and shortly."""

    def read(self, digest: str, start: int, stop: int) -> Iterator[bytes]:
        """Bytes `start` to `stop` (0 <= start <= stop <= size) in pieces, unverified: for streaming to a client
        that knows the digest. Raises BlobMissingError."""

    def fetch(self, digest: str) -> Path:
        """A local file with exactly the bytes of `digest`, verified now; to be opened at once, not remembered.
        Raises BlobMissingError, BlobCorruptError."""

    def delete(self, digest: str) -> bool:
        """Remove the bytes; False if they were not there. While locks are held, too: asked once, and shortly."""

    def older_than(self, seconds: float) -> Iterator[str]:
        """Digests of blobs that were stored at least this long ago."""

    def sweep_parts(self, older_than_seconds: float) -> int:
        """Remove what interrupted uploads left behind; how many."""

    def sweep_copies(self) -> int:
        """Remove this machine's copies of blobs that were deleted elsewhere; how many."""


def open_blobs(settings: Settings) -> Blobs:
    """The storage of a service: the bucket of `blob_url`, else a folder of the data folder."""
    if not settings.blob_url:
        return Folder(settings.data_dir / "blobs")
    from app.blobs import bucket  # its library is slow to load, and most services have a folder

    return bucket.open_bucket(settings)
