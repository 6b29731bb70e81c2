"""Where `lethe bench` keeps what it has computed: one cell, one file. A process that dies loses one cell."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 1
SECONDS_BETWEEN_STATES = 30.0
SECONDS_BETWEEN_CHECKS = 0.5


class OutOfTime(Exception):
    """The time limit is over; what is not written will be computed next time."""


class Busy(Exception):
    """Another process is computing this cell."""


class NotMeasured(Exception):
    """This cell cannot be had here (no such recipe, no such data); the text is for the table."""


@dataclass(frozen=True)
class Result:
    """What a cell gave. figures: JSON values. tensors: what later cells need, on the CPU."""

    figures: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Cell:
    """Base of the values that say what a result is computed from; other cells among their fields are inputs."""


def spec(value: Any) -> Any:
    """What `value` is, as JSON: a cell among the fields of another stands there by its key."""
    if isinstance(value, Cell):
        return key(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: spec(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple | list):
        return [spec(each) for each in value]
    return value


def described(cell: Cell) -> dict[str, Any]:
    """Kind and fields of `cell`."""
    values = {each.name: spec(getattr(cell, each.name)) for each in fields(cell)}
    return {"kind": type(cell).__name__, **values}


def key(cell: Cell) -> str:
    """The digest of all that `cell` is computed from.

    Kept on the object: the cells of a chain of requests name their predecessor twice (as the start and as what
    was attacked), so that computing it again each time would double with every request.
    """
    known: str | None = vars(cell).get("_key")
    if known is None:
        text = json.dumps([FORMAT, described(cell)], sort_keys=True)
        known = hashlib.sha256(text.encode()).hexdigest()[:20]
        object.__setattr__(cell, "_key", known)
    return known


class CellProgress:
    """Keeps the state of a long cell now and then, and stops it at the time limit."""

    def __init__(self, path: Path, deadline: Callable[[], float]) -> None:
        self.path = path
        self.deadline = deadline
        self.after_epoch: Callable[[], None] | None = None
        self.spent = 0.0
        self.begun = self.kept = time.monotonic()

    def update(self, fraction: float) -> None:  # noqa: ARG002
        if time.monotonic() > self.deadline():
            raise OutOfTime

    def load(self) -> dict[str, Tensor] | None:
        if not self.path.exists() or self.after_epoch is not None:
            return None
        state = load_file(self.path)
        self.spent = state.pop("bench:spent").item()
        return state

    def save(self, state: Callable[[], dict[str, Tensor]]) -> None:
        if self.after_epoch is not None:  # its figures are not in the state: such a cell starts over
            self.after_epoch()
        elif time.monotonic() - self.kept > SECONDS_BETWEEN_STATES:
            self.kept = time.monotonic()
            spent = torch.tensor(self.spent + self.kept - self.begun, dtype=torch.float64)
            _write_tensors(self.path, {**state(), "bench:spent": spent})


class Store:
    """A folder of results by key, which any number of processes may fill together.

    A claim is an advisory lock on a file (flock): the kernel releases it when its process ends, however it
    ends, so that no claim is ever stale.
    """

    def __init__(self, root: Path, budget_seconds: float | None = None) -> None:
        self.root = root
        self.ends = time.monotonic() + budget_seconds if budget_seconds is not None else float("inf")
        for name in ("cells", "tensors", "states", "locks"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self._known: dict[str, dict[str, Any]] = {}
        self._accounted = [0.0, 0.0]  # seconds and CPU seconds of the cells computed so far, inputs of others too

    def stop(self) -> None:
        """Stop at the next opportunity, as if the time were over."""
        self.ends = 0.0

    def read(self, cell: Cell, tensors: bool = False) -> Result | None:
        """The result of `cell` if it is there."""
        name = key(cell)
        if name not in self._known:
            try:
                self._known[name] = json.loads((self.root / "cells" / f"{name}.json").read_text())
            except FileNotFoundError:
                return None
        document = self._known[name]
        path = self.root / "tensors" / f"{name}.safetensors"
        held = load_file(path) if tensors and path.exists() else {}
        return Result(document["figures"], held, document["seconds"], document["cpu_seconds"])

    def compute(self, cell: Cell, work: Callable[[CellProgress], Result], wait: bool) -> bool:
        """Compute and keep `cell` unless it is there; return whether this process computed it.

        Raises:
            Busy: another process computes it, and `wait` is False.
            OutOfTime: the time limit came first.
        """
        name = key(cell)
        while self.read(cell) is None:
            self.check_time()
            with self._claimed(name) as mine:
                if mine and self.read(cell) is None:
                    self._compute(cell, name, work)
                    return True
            if not mine and not wait:
                raise Busy
            if not mine:
                time.sleep(SECONDS_BETWEEN_CHECKS)
        return False

    def check_time(self) -> None:
        if time.monotonic() > self.ends:
            raise OutOfTime

    def documents(self) -> Iterator[dict[str, Any]]:
        """Every cell that is there, in the order of their keys."""
        for path in sorted((self.root / "cells").glob("*.json")):
            yield {"key": path.stem, **json.loads(path.read_text())}

    def _compute(self, cell: Cell, name: str, work: Callable[[CellProgress], Result]) -> None:
        state = self.root / "states" / f"{name}.safetensors"
        progress = CellProgress(state, lambda: self.ends)
        begun, before = (time.monotonic(), time.process_time()), list(self._accounted)
        result = work(progress)
        ends = time.monotonic(), time.process_time()
        # What its inputs took, where they were computed on the way, is theirs.
        own = [
            end - start - (now - then)
            for end, start, now, then in zip(ends, begun, self._accounted, before, strict=True)
        ]
        self._accounted = [then + end - start for then, end, start in zip(before, ends, begun, strict=True)]
        document = {
            "cell": described(cell),
            "figures": result.figures,
            "seconds": round(result.seconds or own[0] + progress.spent, 4),
            "cpu_seconds": round(result.cpu_seconds or own[1], 4),
            "total_cpu_seconds": round(own[1], 4),
        }
        _write_tensors(self.root / "tensors" / f"{name}.safetensors", result.tensors)
        write_text(self.root / "cells" / f"{name}.json", json.dumps(document, indent=1) + "\n")
        state.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _claimed(self, name: str) -> Iterator[bool]:
        with (self.root / "locks" / name).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    if not tensors:
        return
    temporary = path.with_suffix(f".{os.getpid()}")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
