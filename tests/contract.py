"""The API held to its OpenAPI document by schemathesis, as `schemathesis.toml` says: `make contract`.

Runs on SQLite, and on PostgreSQL where LETHE_TEST_DATABASE_URL names a server: an API process alone, on data with a
trained and an unlearned version. Further arguments go to schemathesis; without any, every phase with 60 examples of
each operation, about 8,000 requests on each database.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import httpx

from tests.support import (
    QUICK_MODEL,
    QUICK_POLICY,
    embedded,
    environment,
    eventually,
    free_port,
    scratch_database,
    start,
    stop,
)

ROOT = Path(__file__).parent.parent
LONG = ("--phases", "coverage,fuzzing,stateful", "-n", "60")


@contextmanager
def api(folder: Path, database_url: str) -> Iterator[str]:
    """The HTTP API by itself on a migrated database; its address."""
    port = free_port()
    env = environment(folder, port=str(port), **({"database_url": database_url} if database_url else {}))
    log = folder.parent / "api.log"
    process = start("api", log=log, env=env)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            return httpx.get(f"{url}/healthz", trust_env=False).is_success
        except httpx.TransportError:
            return False

    try:
        eventually(answers, "the API to answer")
        yield url
    finally:
        stop(process)


def hold(folder: Path, database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Schemathesis against the API on these data, with the first key."""
    key = (folder / "api-key").read_text().strip()
    with api(folder, database_url) as url:
        command = [sys.executable, "-m", "schemathesis.cli", "--no-color", "run", f"{url}/v1/openapi.json"]
        command += ["-H", f"Authorization: Bearer {key}", "--continue-on-failure", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _populate(folder: Path, database_url: str) -> None:
    with embedded(folder, **({"database_url": database_url} if database_url else {})) as client:
        dataset = client.datasets.register("digits", "digits")
        client.jobs.wait(dataset["job"] or "")
        model = client.post(
            "/v1/models", {"name": "m", "dataset": dataset["id"], **QUICK_MODEL, "policy": QUICK_POLICY}
        )
        client.jobs.wait(client.models.train(model["id"], seed=1)["id"])
        client.jobs.wait(client.models.references(model["id"], count=4)["id"])
        ids = [sample["id"] for sample in client.datasets.samples(dataset["id"], "train")]
        client.requests.wait(client.requests.create(dataset["id"], ids[:5])["id"])
        client.models.set_alias(model["id"], "production", 2)


def main(arguments: list[str]) -> int:
    server = os.environ.get("LETHE_TEST_DATABASE_URL", "")
    worst = 0
    for kind, database in (("SQLite", nullcontext("")), ("PostgreSQL", scratch_database(server) if server else None)):
        if database is None:
            print("PostgreSQL left out: set LETHE_TEST_DATABASE_URL")
            continue
        with database as url, tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "data"
            _populate(folder, url)
            done = hold(folder, url, *(arguments or LONG))
            print(f"{kind}\n{done.stdout}{done.stderr}", flush=True)
            worst = max(worst, done.returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
