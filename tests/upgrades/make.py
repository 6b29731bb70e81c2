"""Make the fixture of one version: a data folder with a history, and what clients kept of it.

    PYTHONPATH=CHECKOUT python tests/upgrades/make.py tests/upgrades/0.2 --postgres URL

CHECKOUT holds the version whose fixture this is; URL names a PostgreSQL database to make a scratch database beside.
Everything goes through that version's own programs, HTTP API and client. One archive a database:

    data/            the data folder as the stopped service left it, on SQLite with its database
    dump.sql         on PostgreSQL: its database, as INSERTs
    backup/          on SQLite: `lethe backup`, taken when only the first request had been fulfilled
    erasures.jsonl   `lethe erasures export`, at the end
    evidence.json    what clients and an auditor read and kept: documents, proofs, keys
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from lethe import Client, LetheError

TRAIN, HOLDOUT, CLASSES = 80, 32, 4
ARCHITECTURE = {"name": "small_cnn", "params": {"width": 2}}
RECIPE = {"name": "sgd", "params": {"epochs": 4, "batch_size": 8}}
METHOD = {"name": "amun", "params": {"epochs": 1, "batch_size": 16}}
WILD = {"name": "amun", "params": {"epochs": 1, "batch_size": 16, "learning_rate": 5.0}}  # ruins the model
POLICY = {"method": METHOD, "attack": {"name": "pgd_l2", "params": {"steps": 5}}, "utility_floor": 1.0, "canaries": 1}
EVENTS = ["request.fulfilled", "request.withdrawn", "gate.climbed", "version.*"]  # as this version calls them
PATIENCE = 120.0


def make(folder: Path, database_url: str) -> None:
    """Run the service on `folder`/data and leave everything of the archive in `folder`."""
    data = folder / "data"
    data.mkdir(parents=True)
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("LETHE_")}
    env |= {"LETHE_DATA_DIR": str(data), "LETHE_DATABASE_URL": database_url, "LETHE_PORT": str(port)}
    env |= {"LETHE_WORKER_NAME": "worker", "LETHE_WEBHOOKS_TO_PRIVATE": "true", "OMP_NUM_THREADS": "1"}
    lethe(env, "migrate")
    key = (data / "api-key").read_text().strip()
    with part("api", env), part("sweep", env), Client(f"http://127.0.0.1:{port}", key) as client:
        evidence = live(client, env, folder)
    lethe(env, "erasures", "export", str(folder / "erasures.jsonl"))
    (folder / "evidence.json").write_text(json.dumps(evidence, indent=1, sort_keys=True) + "\n")
    for name in ("serve.lock", "url"):
        (data / name).unlink(missing_ok=True)
    if database_url:
        command = ["pg_dump", "--inserts", "--no-owner", "--no-privileges", f"--dbname={database_url}"]
        dump = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        lines = [line for line in dump.splitlines() if not line.startswith("\\")]  # psql's own commands
        (folder / "dump.sql").write_text("\n".join(lines) + "\n")


def live(client: Client, env: dict[str, str], folder: Path) -> dict[str, Any]:
    """Let everything happen to the service; return what is kept of it."""
    eventually(lambda: client.ready()["database"] == "ok", "the API to answer")
    requests, kept = dict[str, str](), dict[str, Any]()
    webhook = client.webhooks.create("http://127.0.0.1:9/never-answers", EVENTS)["id"]
    reader = client.keys.create("reader", ["read", "audit"])["token"]
    dataset = client.datasets.register("people")["id"]
    with tempfile.TemporaryDirectory() as scratch:
        ingest = client.datasets.upload(dataset, people(Path(scratch) / "people.npz"))["job"]

    def model(name: str, policy: dict[str, Any], *seeds: int) -> str:
        found = client.models.register(name, dataset, ARCHITECTURE, recipe=RECIPE, policy=policy)["id"]
        for seed in seeds:
            client.jobs.wait(client.models.train(found, seed=seed)["id"])
        return found

    def ask(role: str, *numbers: int, of: str | None = None) -> str:
        requests[role] = client.requests.create(dataset, [name(number) for number in numbers], model=of)["id"]
        return requests[role]

    def fulfilled(role: str) -> None:
        found = client.requests.wait(requests[role], timeout=PATIENCE)
        assert found["status"] == "fulfilled", found

    with part("worker", env):
        client.jobs.wait(ingest)
        main, gone = model("main", POLICY, 1), model("destroyed", POLICY, 3)
        client.jobs.wait(client.models.references(main, count=4, seed=1)["id"])
        # Sealed twice: once it is fulfilled, and again when one of its models is destroyed.
        requests["fulfilled"] = client.requests.create(dataset, subjects=["person-1"])["id"]
        client.models.train(main, seed=2, exclude_request=requests["fulfilled"], compare_only=True)
        fulfilled("fulfilled")
        first = eventually(lambda: client.requests.certificate(requests["fulfilled"]), "the certificate")
        client.models.purge(gone)
        second = eventually(
            lambda: (found := client.requests.certificate(requests["fulfilled"])) != first and found, "its successor"
        )
        kept["certificates"] = [second, first]
        kept["opening"] = client.requests.opening(requests["fulfilled"])
        if not env["LETHE_DATABASE_URL"]:
            lethe(env, "backup", str(folder / "backup"))
        kept["heads"] = [client.log.checkpoint()]

    # No worker runs: what is decided now is decided before its job.
    ask("partly-refused", 10, 11)
    client.requests.refuse(requests["partly-refused"], "of public interest", [name(11)])
    client.requests.refuse(ask("refused", 12), "of public interest")

    with part("worker", env):
        fulfilled("partly-refused")
        client.models.set_policy(main, POLICY | {"method": WILD, "utility_floor": 0.0})
        ask("escalated", 13, 14)
        fulfilled("escalated")
        assert jobs_of(client, main, "rejected") == 1
        client.models.set_policy(main, POLICY)
        batched = model("batched", POLICY | {"when": {"mode": "batch", "max_requests": 3}}, 1, 2)
        client.models.set_alias(batched, "production", 2)
        client.models.roll_back(batched)
        outside = client.datasets.register("elsewhere", "external", classes=CLASSES, shape=[8, 8, 1])["id"]
        awaiting = client.models.register("awaited", outside, ARCHITECTURE, policy={"remain": "none"})["id"]
        digest = client.versions.get(main, 1)["digest"]
        client.post(f"/v1/models/{awaiting}/versions", {"digest": digest, "trained_on": "not-held"})

        client.models.set_policy(main, POLICY | {"method": WILD, "utility_floor": 0.0})
        ask("escalating", 30, 31, of=main)
        eventually(lambda: jobs_of(client, main, "rejected") == 2, "the first candidate", pause=0.02)
    # The worker was stopped: the next method waits, with the policy that its request began with.
    assert jobs_of(client, main, "queued") == 1
    client.models.set_policy(main, POLICY)
    client.requests.cancel(ask("cancelled", 20, of=main), "they changed their mind")
    client.requests.hold(ask("held", 21), "a court asked")
    ask("pending", 22, of=batched)
    ask("queued", 23)  # in a job of one model, and in the open batch of the other
    kept["heads"].append(quiet(client))

    old, size = (int(note.splitlines()[1]) for note in kept["heads"])
    models = {"main": main, "destroyed": gone, "batched": batched, "awaiting": awaiting}
    return kept | {
        "dataset": dataset,
        "ids": {"fulfilled": [name(number) for number in range(3)], "never-requested": [name(40)]},
        "keys": client.get("/v1/log/keys"),
        "entries": client.log.entries(0, size),
        "inclusion": {str(leaf): client.log.inclusion(leaf, size) for leaf in (0, old, size - 1)},
        "consistency": client.log.consistency(old, size),
        "reader": reader,
        "webhook": client.webhooks.get(webhook),
        "deliveries": sorted(found["kind"] for found in client.webhooks.deliveries(webhook)),
        "models": {role: client.models.get(found) for role, found in models.items()},
        "versions": {role: list(client.versions.list(found)) for role, found in models.items()},
        "reports": {number: client.versions.audit(main, number)["report"] for number in range(2, 6)},
        "aliases": list(client.models.aliases(batched)),
        "requests": {role: client.requests.get(found) for role, found in requests.items()},
        "jobs": list(client.jobs.list()),
    }


def name(number: int) -> str:
    return f"photo-{number:03d}"


def people(path: Path) -> Path:
    """An npz of small grey images: a bright quarter says the class. Five people have three each; some are canaries."""
    n = TRAIN + HOLDOUT
    random, labels = np.random.default_rng(7), np.arange(n) % CLASSES
    images = random.integers(0, 4, (n, 8, 8)) * 32
    for image, label in zip(images, labels, strict=True):
        image[4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 128
    subjects = [f"person-{row // 3 + 1}" if row < 15 else "" for row in range(n)]
    subjects[60:70], subjects[TRAIN : TRAIN + 6] = ["lethe:canary"] * 10, ["lethe:canary"] * 6
    np.savez_compressed(
        path,
        images=images.astype(np.uint8),
        labels=labels,
        ids=np.array([name(row) for row in range(n)]),
        holdout=np.arange(n) >= TRAIN,
        subject=np.array(subjects),
    )
    return path


# -- the service -----------------------------------------------------------------------------------


def lethe(env: dict[str, str], *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "app", *arguments], env=env, check=True, stdout=sys.stderr)


@contextmanager
def part(name: str, env: dict[str, str]) -> Iterator[None]:
    """`lethe NAME`, stopped at the end."""
    process = subprocess.Popen([sys.executable, "-m", "app", name], env=env, stdout=sys.stderr)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(ready: Callable[[], Any], what: str, pause: float = 0.2) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if found := ready():
                return found
        except LetheError:
            pass
        time.sleep(pause)
    raise SystemExit(f"waited {PATIENCE:.0f} s for {what}")


def jobs_of(client: Client, model: str, state: str) -> int:
    return len(list(client.jobs.list(model=model, kind="unlearn", state=state)))


def quiet(client: Client) -> str:
    """The log's head, once nothing has been added for a while."""
    before, since = client.log.checkpoint(), time.monotonic()
    while time.monotonic() - since < 5.0:
        time.sleep(0.5)
        if (now := client.log.checkpoint()) != before:
            before, since = now, time.monotonic()
    return before


# -- the archives ----------------------------------------------------------------------------------


@contextmanager
def scratch_database(url: str) -> Iterator[str]:
    """A new database beside the one that `url` names, dropped at the end."""
    own = f"lethe_upgrade_{secrets.token_hex(4)}"
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {own} ENCODING 'UTF8' TEMPLATE template0")
        try:
            yield f"{url.rpartition('/')[0]}/{own}"
        finally:
            admin.execute(f"DROP DATABASE {own} WITH (FORCE)")


def pack(folder: Path, archive: Path) -> None:
    """All of `folder`, without names of who made it."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(archive, "w:xz", preset=9) as file:
        file.add(folder, ".", filter=plain)
    print(f"{archive}: {archive.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the fixture of the version that PYTHONPATH names.")
    parser.add_argument("target", type=Path, help="the folder for the archives")
    parser.add_argument("--postgres", required=True, help="postgresql://…: a database to make a scratch one beside")
    options = parser.parse_args()
    options.target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, scratch_database(options.postgres) as url:
        for kind, database_url in (("sqlite", ""), ("postgres", url)):
            make(Path(scratch) / kind, database_url)
            pack(Path(scratch) / kind, options.target / f"{kind}.tar.xz")


if __name__ == "__main__":
    main()
