"""A backup of a service that runs, an erasure after it, the restore, and the erasure made again: on both databases."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.core.config import Settings
from app.main import create_app
from lethe import Client, LetheError, verify
from tests.conftest import POSTGRES
from tests.support import QUICK_MODEL, QUICK_POLICY, embedded, environment, eventually, scratch_database


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Addresses of the database and of an empty one to restore into; empty text for SQLite."""
    if request.param == "sqlite":
        yield "", ""
        return
    with ExitStack() as stack:
        yield stack.enter_context(scratch_database(POSTGRES)), stack.enter_context(scratch_database(POSTGRES))


def lethe(folder: Path, *arguments: str, **settings: str) -> Any:
    command = [sys.executable, "-m", "app", *arguments, "--json"]
    done = subprocess.run(command, env=environment(folder, **settings), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def forget(client: Client, dataset: str, ids: list[str]) -> Any:
    return client.requests.wait(client.requests.create(dataset, ids)["id"])


def log_head(client: Client) -> tuple[int, str]:
    """Size and root of the log once everything so far is in it."""
    _, size, root, *_ = client.log.checkpoint().split("\n")
    return int(size), base64.b64decode(root).hex()


def shown(client: Client, dataset: str) -> set[str]:
    return {item["id"] for item in client.pages(f"/v1/datasets/{dataset}/samples", page_size=1000)}


def restore(backup: Path, folder: Path, url: str) -> None:
    """With the standard tools, as docs/operations.md says."""
    shutil.copytree(backup, folder)
    if url:
        command = ["pg_restore", "--no-owner", f"--dbname={url}", str(folder / "lethe.dump")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_was_erased_after_the_backup_is_erased_again(tmp_path: Path, servers: tuple[str, str]) -> None:
    first_url, second_url = servers
    kept, backup = tmp_path / "elsewhere" / "erasures.jsonl", tmp_path / "backup"
    with embedded(tmp_path / "first", database_url=first_url, erasures_file=str(kept)) as client:
        dataset = client.post("/v1/datasets", {"name": "digits", "source": {"name": "digits"}})
        client.jobs.wait(dataset["job"])
        dataset = dataset["id"]
        model = client.post("/v1/models", {"name": "m", "dataset": dataset, **QUICK_MODEL, "policy": QUICK_POLICY})
        where = f"/v1/models/{model['id']}"
        client.jobs.wait(client.post(f"{where}:train", {"seed": 1})["id"])
        ids = sorted(shown(client, dataset) & set(train_ids(client, dataset)))
        early, late = ids[:10], ids[10:20]
        known = forget(client, dataset, early)
        eventually(lambda: log_head(client)[0] >= 10, "the log to grow")
        before = log_head(client)
        taken = lethe(tmp_path / "first", "backup", str(backup), database_url=first_url)
        assert taken["blobs"] >= 3
        lost = forget(client, dataset, late)
        assert client.get(where)["current_version"] == 3
        eventually(lambda: kept.exists() and kept.read_text().count('"request":') == 2, "the ledger to have both")
        eventually(lambda: log_head(client)[0] > before[0] + 3, "the log to grow")
        after = log_head(client)
    assert not [sample for sample in ids if f'"{sample}"' in kept.read_text()]
    shutil.rmtree(tmp_path / "first")

    # Restored: the samples are back, until the ledger is replayed.
    folder = tmp_path / "second"
    restore(backup, folder, second_url)
    settings = Settings(data_dir=folder, database_url=second_url)
    with TestClient(create_app(settings), headers=bearer(folder)) as http:
        samples = http.get(f"/v1/datasets/{dataset}/samples", params={"page_size": 1000}).json()["items"]
        assert set(late) & {item["id"] for item in samples}
        assert http.get(f"{where}/versions/2/checkpoint").status_code == 200
        done = lethe(folder, "erasures", "replay", str(kept), database_url=second_url)
        assert (done["asked_again"], done["reopened"], done["fulfilled"]) == (1, 0, 1)
        for number in (1, 2):
            refused = http.get(f"{where}/versions/{number}/checkpoint")
            assert (refused.status_code, refused.json()["type"].rpartition("/")[2]) == (409, "version-withheld")
        again = lethe(folder, "erasures", "replay", str(kept), database_url=second_url)
        assert (again["asked_again"], again["reopened"], again["fulfilled"]) == (0, 1, 1)

    with embedded(folder, database_url=second_url, erasures_file=str(kept)) as client:
        found = client.requests.wait(lost["id"])
        for name in ("received_at", "due_at", "jurisdiction", "samples"):
            assert found[name] == lost[name], name
        assert client.get(f"/v1/deletion-requests/{known['id']}")["status"] == "fulfilled"
        assert shown(client, dataset).isdisjoint(early + late)
        for sample in (early[0], late[0]):
            with pytest.raises(LetheError) as refused_:
                client.requests.create(dataset, [sample])
            assert refused_.value.problem["type"].endswith("/sample-erased")
        current = client.get(where)["current_version"]
        assert current == 3
        assert client.versions.download(model["id"], current, tmp_path / "model.safetensors")
        for number in (1, 2):
            with pytest.raises(LetheError, match=r"with a backup|purged"):
                client.versions.download(model["id"], number, tmp_path / "old.safetensors")
            with pytest.raises(LetheError):
                client.post(f"{where}/versions/{number}:promote")
        eventually(lambda: certified(client, lost["id"]), "the certificate")

        # The log: what was signed before the backup is part of it, what came after is named as lost.
        eventually(lambda: log_head(client)[0] > after[0], "the log to outgrow the lost one")
        size, root = log_head(client)
        proof = [bytes.fromhex(each) for each in client.get("/v1/log/proof", old=before[0], size=size)["hashes"]]
        roots = bytes.fromhex(before[1]), bytes.fromhex(root)
        assert verify.roots_by_consistency(before[0], size, proof, roots[0]) == roots
        proof = [bytes.fromhex(each) for each in client.get("/v1/log/proof", old=after[0], size=size)["hashes"]]
        lost_root = bytes.fromhex(after[1])
        assert verify.roots_by_consistency(after[0], size, proof, lost_root) != (lost_root, roots[1])
        [told] = [e for e in entries(client) if e["kind"] == "log.restored"]
        assert told["data"]["size"] >= before[0]
        assert told["data"]["lost_size"] > told["data"]["size"]


def train_ids(client: Client, dataset: str) -> list[str]:
    items = client.pages(f"/v1/datasets/{dataset}/samples", split="train", page_size=1000)
    return [item["id"] for item in items]


def bearer(folder: Path) -> dict[str, str]:
    return {"Authorization": f"Bearer {(folder / 'api-key').read_text().strip()}"}


def certified(client: Client, request: str) -> bool:
    try:
        return bool(client.get(f"/v1/deletion-requests/{request}/certificate"))
    except LetheError:
        return False


def entries(client: Client) -> list[Any]:
    found: list[Any] = []
    while page := client.get("/v1/log/entries", start=len(found), limit=1000)["entries"]:
        found += page
    return found
