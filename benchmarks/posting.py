"""Accepting deletions and answering status polls, beside the same calls as a tutorial would write them (`plain`)."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from sqlalchemy import insert, text

from app.api.deletions import _reply, order_of
from app.api.http.intake import Intake, Posted
from app.api.http.replies import Reply
from app.api.schemas import DeletionCreate
from app.core import db, keys
from app.core.config import Settings
from app.core.db import Database
from app.core.ids import new_id
from app.core.positions import bitmap
from app.core.tables import Dataset, Model, Sample, Version
from app.operations import migrate
from app.rules.policy import Policy
from app.rules.states import VersionState
from benchmarks.load import Run, drive, request
from tests.support import environment, free_port, scratch_database, start, stop

SAMPLES = 50_000
CLIENTS = 64
POLLED = 100  # requests, and as many jobs
ROUNDS = 3


@contextmanager
def database_url(kind: str) -> Iterator[str]:
    """An empty database: SQLite's is the data folder's own (the empty address)."""
    if kind == "sqlite":
        yield ""
        return
    with scratch_database(os.environ["LETHE_TEST_DATABASE_URL"]) as url:
        yield url


def kinds() -> list[str]:
    """SQLite, and PostgreSQL where a server is named."""
    return ["sqlite", *(["postgres"] if os.environ.get("LETHE_TEST_DATABASE_URL") else [])]


@dataclass(frozen=True)
class Service:
    """The API as a process, on a database with one dataset and one model that was trained on all of it."""

    settings: Settings
    port: int
    token: str
    dataset: str
    model: str
    pid: int

    @contextmanager
    def database(self) -> Iterator[Database]:
        found = Database(self.settings)
        yield found
        found.close()


def fill(database: Database, samples: int, policy: Policy) -> tuple[str, str]:
    """Ids of a ready dataset with samples `sample-0000000` …, and of a model whose version 1 was trained on them."""
    dataset, model = new_id("dst"), new_id("mdl")
    with database.write() as session:
        now, tenant = db.now(session), keys.FIRST_TENANT
        everything = bitmap(list(range(samples)), samples)  # type: ignore[arg-type]
        session.add(
            Dataset(
                id=dataset,
                tenant_id=tenant,
                name="d",
                source="upload",
                source_params={},
                state="ready",
                sample_count=samples,
                train_count=samples,
                class_count=10,
                created_at=now,
            )
        )
        session.flush()
        rows = [
            {"dataset_id": dataset, "position": p, "sample_id": sample(p), "label": p % 10, "holdout": False}
            for p in range(samples)
        ]
        session.execute(insert(Sample), rows)
        session.add(
            Model(
                id=model,
                tenant_id=tenant,
                dataset_id=dataset,
                name="m",
                architecture="small_cnn",
                architecture_params={},
                recipe="sgd",
                recipe_params={},
                policy=policy.model_dump(),
                current_version=1,
                created_at=now,
            )
        )
        session.flush()
        session.add(
            Version(
                id=new_id("ver"),
                tenant_id=tenant,
                model_id=model,
                number=1,
                origin="trained",
                state=VersionState.CURRENT,
                digest="sha256:" + "0" * 64,
                size=1,
                trained_on=everything,
                trained_count=samples,
                class_counts=[samples // 10] * 10,
                metrics={},
                created_at=now,
            )
        )
    if not database.is_sqlite:  # the samples alone: the rest is empty yet, and to say so would mislead the planner
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE samples"))
    return dataset, model


def sample(position: int) -> str:
    return f"sample-{position:07d}"


@contextmanager
def service(folder: Path, url: str, samples: int = SAMPLES, policy: Policy | None = None) -> Iterator[Service]:
    settings = Settings(data_dir=folder, database_url=url, port=free_port())
    database = Database(settings)
    migrate.migrate(database)
    keys.bootstrap(database, settings)
    dataset, model = fill(database, samples, policy or Policy())
    database.close()
    env = environment(folder, port=str(settings.port), **({"database_url": url} if url else {}))
    process = start("api", log=folder / "log", env=env)
    try:
        wait_for(settings.port)
        token = settings.key_file.read_text().strip()
        yield Service(settings, settings.port, token, dataset, model, process.pid)
    finally:
        stop(process)


@contextmanager
def plain(folder: Path, url: str) -> Iterator[tuple[int, int]]:
    """Port and process of the plain service on a database of its own."""
    port = free_port()
    where = url.replace("postgresql://", "postgresql+psycopg://") or f"sqlite:///{folder / 'plain.db'}"
    command = [sys.executable, "-m", "uvicorn", "benchmarks.plain:app", "--port", str(port), "--no-access-log"]
    env = os.environ | {"PLAIN_DATABASE_URL": where}
    process = subprocess.Popen([*command, "--log-level", "warning"], env=env)
    try:
        wait_for(port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def wait_for(port: int) -> None:
    for _ in range(2000):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.01)
    raise TimeoutError("the service did not start")


@contextmanager
def both(kind: str, policy: Policy | None = None) -> Iterator[tuple[Service, tuple[int, int]]]:
    """Ours and the plain one, each on a database of that kind."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(service(folder, stack.enter_context(database_url(kind)), policy=policy))
        yield ours, stack.enter_context(plain(folder, stack.enter_context(database_url(kind))))


def in_turn(ours: Callable[[], Run], theirs: Callable[[], Run]) -> tuple[list[Run], list[Run]]:
    """Rounds of one and the other, so that what else the machine does falls on both."""
    found: tuple[list[Run], list[Run]] = ([], [])
    for _ in range(ROUNDS):
        found[0].append(ours())
        found[1].append(theirs())
    return found


def _compared(ours: list[Run], theirs: list[Run], status: int) -> dict[str, object]:
    ratios = sorted(a.per_second / b.per_second for a, b in zip(ours, theirs, strict=True))
    middle = len(ratios) // 2
    return {
        "ours_per_s": sorted(run.per_second for run in ours)[middle],
        "plain_per_s": sorted(run.per_second for run in theirs)[middle],
        "ratio": ratios[middle],
        "ratio_worst_round": ratios[0],
        "ours_cpu_us": sum(1e6 * run.cpu_seconds / len(run.waits) for run in ours) / len(ours),
        "plain_cpu_us": sum(1e6 * run.cpu_seconds / len(run.waits) for run in theirs) / len(theirs),
        "ours_p50_ms": ours[middle].quantile_ms(0.5),
        "ours_p99_ms": ours[middle].quantile_ms(0.99),
        "plain_p50_ms": theirs[middle].quantile_ms(0.5),
        "plain_p99_ms": theirs[middle].quantile_ms(0.99),
        "all_answered": all(set(run.statuses) == {status} for run in ours),
    }


def _body(dataset: str, ids: list[str]) -> bytes:
    return json.dumps({"dataset": dataset, "sample_ids": ids}).encode()


def _flat(found: dict[str, dict[str, object]]) -> dict[str, object]:
    return {f"{kind}_{name}": value for kind, figures in found.items() for name, value in figures.items()}


def post_one_id(count: int = 1500) -> dict[str, object]:
    """POST of one id, committed and with its job queued, against a plain endpoint that stores two rows."""
    found: dict[str, dict[str, object]] = {}
    for kind in kinds():
        with both(kind) as (ours, (port, pid)):
            ids = iter(range(SAMPLES))
            posts = (
                request("POST", "/v1/deletion-requests", ours.token, _body(ours.dataset, [sample(n)])) for n in ids
            )
            theirs = (
                request("POST", "/requests", "-", _body(ours.dataset, [secrets.token_hex(7)])) for _ in iter(int, 1)
            )
            drive(ours.port, posts, CLIENTS, 200)
            drive(port, theirs, CLIENTS, 200)
            runs = in_turn(
                partial(drive, ours.port, posts, CLIENTS, count, ours.pid),
                partial(drive, port, theirs, CLIENTS, count // 3, pid),
            )
            found[kind] = _compared(*runs, 202)
            with ours.database() as database, database.read() as session:
                stored = session.execute(text("SELECT count(*) FROM deletion_requests")).scalar_one()
                jobs = session.execute(text("SELECT count(*) FROM jobs")).scalar_one()
            found[kind]["all_stored"] = stored == jobs == 200 + ROUNDS * count
    passed = all(f["ratio"] >= 4 and f["all_answered"] and f["all_stored"] for f in found.values())  # type: ignore[operator]
    return {
        "clients": CLIENTS,
        **_flat(found),
        "gate": "at least 4 times the plain endpoint on each database; every request answered 202 and stored",
        "gate_passed": passed,
    }


def status_polls(count: int = 6000) -> dict[str, object]:
    """Polls with the ETag that the client has, of a request and of its job, against a plain GET."""
    found: dict[str, dict[str, object]] = {}
    for kind in kinds():
        with both(kind) as (ours, (port, pid)):
            polls = []
            for number in range(POLLED):
                body = _body(ours.dataset, [sample(number)])
                made = drive(ours.port, iter([request("POST", "/v1/deletion-requests", ours.token, body)]), 1, 1).last
                shown = json.loads(made.partition(b"\r\n\r\n")[2])
                for place in (f"/v1/deletion-requests/{shown['id']}", f"/v1/jobs/{shown['outcomes'][0]['job']}"):
                    polls.append(request("GET", place, ours.token, If_None_Match=_etag(ours, place)))
                drive(port, iter([request("POST", "/requests", "-", body)]), 1, 1)
            plain_polls = [request("GET", f"/requests/{number + 1}", "-") for number in range(POLLED)]
            runs = in_turn(
                partial(drive, ours.port, cycle(polls), CLIENTS, count, ours.pid),
                partial(drive, port, cycle(plain_polls), CLIENTS, count // 3, pid),
            )
            found[kind] = _compared(*runs, 304)
    return {
        "clients": CLIENTS,
        **_flat(found),
        "gate": "at least 4 times the plain endpoint on each database; every poll answered 304",
        "gate_passed": all(f["ratio"] >= 4 and f["all_answered"] for f in found.values()),  # type: ignore[operator]
    }


def _etag(ours: Service, place: str) -> str:
    reply = drive(ours.port, iter([request("GET", place, ours.token)]), 1, 1).last
    head = reply.partition(b"\r\n\r\n")[0].decode()
    return next(line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith("etag"))


def accept_100k_ids() -> dict[str, object]:
    """One deletion of half a dataset: parsed, and accepted in one durable transaction, each timed by itself."""
    count = 100_000
    found: dict[str, dict[str, Any]] = {}
    for kind in kinds():
        rounds = [_accept(kind, count) for _ in range(ROUNDS)]
        parse, accept = (list(seconds) for seconds in zip(*rounds, strict=True))
        found[kind] = {"parse_ms": 1000 * min(parse), "accept_ms": 1000 * min(accept), "all_ms": _listed(accept)}
    return {
        "ids": count,
        "of": 2 * count,
        **_flat(found),
        "gate": "accepted, committed and its job queued, in at most 100 ms after it was parsed",
        "gate_passed": all(figures["accept_ms"] <= 100 for figures in found.values()),
    }


def _accept(kind: str, count: int) -> tuple[float, float]:
    """Seconds of parsing and of accepting, on a new database."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = Settings(data_dir=folder, database_url=stack.enter_context(database_url(kind)))
        database = Database(settings)
        stack.callback(database.close)
        migrate.migrate(database)
        keys.bootstrap(database, settings)
        dataset, _ = fill(database, 2 * count, Policy())
        work, token = Intake(database, settings), settings.key_file.read_text().strip()
        raw = _body(dataset, [sample(7 * place % count) for place in range(count)])
        # A service that has accepted an order before, and whose data were read before.
        work([_posted(token, _body(dataset, [sample(count)]))[0]])
        work([_posted(token, raw[:-1] + b', "validate_only": true}')[0]])
        posted, parse = _posted(token, raw)
        began = time.perf_counter()
        (reply,) = work([posted])
        accept = time.perf_counter() - began
        if not isinstance(reply, Reply) or json.loads(reply.text)["samples"] != count:
            raise ValueError(f"it was not accepted: {reply}")
    return parse, accept


def _posted(token: str, raw: bytes) -> tuple[Posted, float]:
    """An order as it comes, and how many seconds its parsing took."""
    began = time.perf_counter()
    body = DeletionCreate.model_validate_json(raw)
    parse = time.perf_counter() - began
    return Posted(token, partial(order_of, body), "/v1/deletion-requests", None, raw, _reply), parse


def _listed(seconds: list[float]) -> str:
    return " / ".join(f"{1000 * each:.0f}" for each in seconds)
