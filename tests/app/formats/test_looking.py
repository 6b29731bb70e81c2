"""Folders of what is being looked at: private, gone with their process, and refused in words where there is no room."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.formats import previews, sandbox
from app.formats.pictures import PictureWriter, encode
from app.operations.probes import storage_fault
from tests.app.datasets.test_suppression import IDS, IMAGES, NPZ, packed, taken_in
from tests.helpers import is_problem
from tests.support import Account

pytestmark = pytest.mark.validation
FULL = OSError(28, "No space left on device", "/a/path")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Where this process makes its folders."""
    before = sandbox._root
    sandbox.keep_in(tmp_path / "data" / "tmp")
    yield tmp_path / "data" / "tmp"
    sandbox._root = before


def settled(folder: Path) -> None:
    """As if nobody had touched it for a while."""
    os.utime(folder, (0, 0))


def shows(path: Path) -> None:
    with PictureWriter(path) as writer:
        writer.put(encode(IMAGES[0]))
    data = path.read_bytes()
    previews.pngs(lambda start, stop: data[start:stop], len(data), [0], lambda _: b"")


def test_what_a_killed_process_looked_at_is_swept(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (pid := os.fork()):  # the API, killed while it shows a picture
        monkeypatch.setattr(sandbox, "call", lambda *_, **__: os.kill(os.getpid(), 9))
        shows(tmp_path / "stored")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 9
    [left] = root.iterdir()
    assert stat.S_IMODE(left.stat().st_mode) == stat.S_IMODE(root.stat().st_mode) == 0o700
    assert IMAGES[0].tobytes() in (left / "pictures").read_bytes()
    assert sandbox.sweep(root) == 0  # it may be of a process that begins at this moment
    settled(left)
    assert sandbox.sweep(root) == 1
    assert list(root.iterdir()) == []


def test_folders_of_living_processes_stay(root: Path) -> None:
    with sandbox.folder() as mine:
        settled(mine)
        assert sandbox.sweep(root) == 0
        assert mine.exists()
    assert list(root.iterdir()) == []
    assert sandbox.sweep(root / "not there") == 0


def test_the_service_looks_at_files_in_its_data_folder(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    made = tempfile.mkdtemp

    def told(*given: Any, **named: Any) -> str:
        path = made(*given, **named)
        if "pymp-" not in path:  # where the system's own sockets are
            seen.append(path)
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", told)
    taken_in(account, packed(IMAGES, IDS))
    assert seen
    assert {Path(each).parent for each in seen} == {account.settings.looking_dir}


@pytest.mark.parametrize("place", ["tempfile.mkdtemp", "app.formats.sandbox._start_server"])
def test_no_room_to_look_is_said_as_such(account: Account, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """As seen: a full disk answered 500, while readiness called the storage fine."""
    source = {"name": "upload", "params": {"holdout_fraction": 0.0}}
    made = account.post("/v1/datasets", {"name": "d", "source": source})["id"]

    def full(*_: Any, **__: Any) -> None:
        raise FULL

    with monkeypatch.context() as patched:
        patched.setattr(place, full)
        answer = account.http.put(
            f"/v1/datasets/{made}/content", content=packed(IMAGES, IDS), headers={"Content-Type": NPZ}
        )
        is_problem(answer, 503, "unavailable")
        assert "No space left on device" in answer.json()["detail"]
        assert "/a/path" not in answer.text
        assert answer.headers["Retry-After"] == "60"
        if place == "tempfile.mkdtemp":
            ready = account.get("/readyz")
            assert ready["storage"] == "refuses"
            assert any("No space left on device" in each for each in ready["degraded"])
    assert storage_fault(account.http.app.state.parts.blobs) is None  # type: ignore[attr-defined]
