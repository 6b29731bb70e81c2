"""What a worker keeps loaded between jobs: samples, restored checkpoints, the signals of a pool.

Everything kept is made of blobs, and is kept only while a row still points at each of them. The cache checks that
before each use, and every few seconds. So what is erased leaves this memory when it leaves the storage.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from sqlalchemy.exc import SQLAlchemyError

from app.blobs import usage
from app.core.db import Database

log = logging.getLogger("lethe.worker")

T = TypeVar("T")
SECONDS_BETWEEN_CHECKS = 3.0
MOST = {"samples": 1, "pool": 1, "checkpoint": 4}  # entries of each kind


@dataclass(frozen=True)
class Kept:
    value: object
    digests: tuple[str, ...]
    size: int  # bytes


class Cache:
    """Bounded in bytes, and in entries of each kind; the entry that was used longest ago goes first."""

    def __init__(self, database: Database, most_bytes: int) -> None:
        self._database, self._most_bytes = database, most_bytes
        self._kept: dict[tuple[str, ...], Kept] = {}  # in the order of their last use
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cache", daemon=True)
        self._thread.start()

    def get(
        self,
        kind: str,
        digests: Iterable[str],
        make: Callable[[], T],
        size: Callable[[T], int],
        owner: str = "",
    ) -> T:
        """What `make` made of these blobs, now or for an earlier job.

        size: its bytes. owner: whose it is, where that is part of what was made. The caller must not change it.
        """
        blobs = tuple(digests)
        key = (kind, owner, *blobs)
        if (found := self._kept.get(key)) is not None:
            self._drop_erased({key: found})
        with self._lock:
            if (found := self._kept.pop(key, None)) is not None:
                self._kept[key] = found
                return cast(T, found.value)
            self._shrink(kind, MOST[kind] - 1)  # before the new one is made: two may not fit
        made = make()
        with self._lock:
            self._kept[key] = Kept(made, blobs, size(made))
            while self._kept and sum(kept.size for kept in self._kept.values()) > self._most_bytes:
                del self._kept[next(iter(self._kept))]
        return made

    def _shrink(self, kind: str, left: int) -> None:
        keys = [key for key in self._kept if key[0] == kind]
        for key in keys[: max(0, len(keys) - left)]:
            del self._kept[key]

    def drop_erased(self) -> None:
        """Remove what is made of bytes that no row points at any more."""
        with self._lock:
            checked = dict(self._kept)
        if checked:
            self._drop_erased(checked)

    def _drop_erased(self, checked: dict[tuple[str, ...], Kept]) -> None:
        with self._database.read() as session:
            used = usage.used(session, {digest for kept in checked.values() for digest in kept.digests})
        gone = [key for key, kept in checked.items() if not used.issuperset(kept.digests)]
        if not gone:
            return
        with self._lock:
            for key in gone:
                self._kept.pop(key, None)
        torch.cuda.empty_cache()  # does nothing where CUDA is not in use

    def close(self) -> None:
        """Stop checking, and keep nothing."""
        self._over.set()
        self._thread.join()
        self._kept.clear()

    def _watch(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN_CHECKS):
            try:
                self.drop_erased()
            except SQLAlchemyError as error:  # what cannot be checked must not be kept
                log.warning(
                    "what was kept loaded is dropped, because the database does not answer: %s", type(error).__name__
                )
                with self._lock:
                    self._kept.clear()
