"""Only the sweeper signs: what other parts hold, and what the log says of a key that they could read."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.core.config import Settings
from app.core.db import Database
from app.evidence import sealing, signing
from app.operations import supervisor
from app.operations.supervisor import Child, Tree
from tests.trained import Trained


@pytest.mark.validation
def test_the_api_and_a_worker_run_a_whole_deletion_without_a_signing_key(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trained.account.settings.data_dir / signing.KEY_FILE).unlink(missing_ok=True)

    def fails(*_: Any) -> None:
        raise AssertionError("only the sweeper opens the signing key")

    monkeypatch.setattr(signing, "load", fails)
    request = trained.forget(trained.ids[:5])
    assert trained.account.http.get(f"/v1/deletion-requests/{request['id']}").json()["status"] == "fulfilled"
    assert not (trained.account.settings.data_dir / signing.KEY_FILE).exists()


@pytest.mark.parametrize(("part", "holds"), [("sweep", True), ("api", False), ("worker", False)])
def test_a_supervisor_gives_its_signing_key_to_the_sweeper_alone(
    part: str, holds: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[dict[str, str]] = []
    monkeypatch.setenv("LETHE_SIGNING_KEY", "a key")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: given.append(env))
    supervisor._start(Tree(Database(Settings(data_dir=tmp_path)), {}, 0), Child(part, "name", "cpu"))
    assert ("LETHE_SIGNING_KEY" in given[0]) == holds
    assert os.environ["LETHE_SIGNING_KEY"] == "a key"


@pytest.mark.validation
def test_a_key_left_in_the_data_folder_beside_a_configured_one_is_told(
    trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    settings, database = trained.account.settings, trained.account.database
    own = sealing.open_key(database, settings)  # made in the folder
    assert not caplog.records
    pem = (settings.data_dir / signing.KEY_FILE).read_text()
    assert sealing.open_key(database, settings.model_copy(update={"signing_key": SecretStr(pem)})).id == own.id
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "signing-key.pem lies in the data folder, which API and workers read: remove it"
    ]
