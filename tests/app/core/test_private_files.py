"""What lies on the disk is for its owner alone: folders, databases, keys, uploads, backups, under every umask."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from app.blobs.folder import Folder
from app.core.config import Settings, private_folder
from app.core.db import Database
from app.jobs import devices
from app.recovery import erasure_ledger

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _careless_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_to_others(folder: Path) -> list[str]:
    return [str(path) for path in [folder, *folder.rglob("*")] if mode(path) & 0o077]


def test_what_the_commands_make_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder, backup = tmp_path / "data", tmp_path / "kept" / "backup"
    environment = {**os.environ, "LETHE_DATA_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    for command in (["migrate"], ["backup", str(backup)]):
        done = subprocess.run([sys.executable, "-m", "app", *command], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} >= {"lethe.db", "secret", "api-key", "blobs"}
    assert {path.name for path in backup.iterdir()} >= {"lethe.db", "backup.json", "secret", "api-key"}
    assert open_to_others(folder) + open_to_others(backup) == []


def test_a_database_and_its_journal_are_for_their_owner_alone(tmp_path: Path) -> None:
    database = Database(Settings(data_dir=tmp_path / "data"))
    for journal in ("delete", "wal"):
        with database.engine.connect() as connection:
            connection.connection.driver_connection.execute(f"PRAGMA journal_mode={journal}")
        with database.write() as session:
            session.execute(text(f"CREATE TABLE of_{journal} (x)"))
            assert len(list((tmp_path / "data").iterdir())) >= 2
            assert open_to_others(tmp_path / "data") == []
    database.close()


def test_blobs_and_uploads_are_in_folders_for_their_owner_alone(tmp_path: Path) -> None:
    blobs = Folder(tmp_path / "data" / "blobs")
    stored = blobs.place(blobs.put(b"pixels").digest)
    assert {mode(path) for path in (stored.parent, *stored.parent.parent.iterdir())} == {0o700}


def test_an_open_folder_of_an_earlier_version_is_closed_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    (folder / "blobs").mkdir(parents=True, mode=0o755)
    (folder / "lethe.db").touch(0o644)
    folder.chmod(0o755)
    Database(Settings(data_dir=folder)).close()
    Folder(folder / "blobs")
    assert open_to_others(folder) == []
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == [
        f"the folder {folder} was open to other users (mode 755); it is closed to them now",
        f"the folder {folder / 'blobs'} was open to other users (mode 755); it is closed to them now",
    ]


def test_a_folder_that_is_not_ours_alone_keeps_its_mode_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing `/tmp` or a home would harm others."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o755)
    (folder / "letters.txt").touch()
    for _ in range(2):
        Database(Settings(data_dir=folder)).close()
    assert mode(folder) == 0o755
    assert mode(folder / "lethe.db") == 0o600
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        f"the folder {folder} is open to other users (mode 755) and not Lethe's alone, so its mode stays"
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_keeps_its_mode(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o770)
    os.chown(folder, 12345, -1)
    private_folder(folder)
    assert mode(folder) == 0o770


def test_an_erasure_ledger_that_is_open_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "erasures.jsonl"
    path.touch(0o644)
    erasure_ledger._append(path, b"")
    assert mode(path) == 0o600


def test_the_lock_of_a_device_can_be_read_by_other_users(tmp_path: Path) -> None:
    """It holds nothing, and another user's worker must see that the device is in use."""
    os.umask(0o077)
    os.close(devices._open(tmp_path / "lethe-cuda-0.lock"))
    assert mode(tmp_path / "lethe-cuda-0.lock") == 0o644
