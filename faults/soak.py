"""The long run: clients ask for deletions while faults strike, until both are through; then everything must hold."""

from __future__ import annotations

import math
import random
import re
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from app.core import keys
from app.core.config import Settings
from app.core.db import Database
from app.core.tables import CaseFile, DeletionRequest, Job, JobEvent, Tenant, Version
from app.operations import migrate
from app.rules.states import TERMINAL_JOBS, JobState
from faults import invariants
from faults import races as races_
from faults.clients import Clients, Shop, open_shop
from faults.fleet import Fleet
from faults.servers import Postgres, Redis, wait_for
from faults.strikes import STRIKES, Scene, kills, small_disk, strike, tending
from lethe import verify

WORKERS = 3
DRAIN_SECONDS = 900.0
CASE_SECONDS = 120.0
CASES = 20  # case files that are made and verified at the end


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def soak(backend: str, seed: int, wanted_kills: int, wanted_jobs: int, seconds: float, lease: float) -> dict[str, Any]:
    """One run on one kind of database; its figures. `broken`: what does not hold; none if all is well."""
    with tempfile.TemporaryDirectory(prefix="lethe-faults-") as name, ExitStack() as stack:
        root = Path(name)
        disk = stack.enter_context(small_disk(root / "disk"))
        values: dict[str, Any] = {"data_dir": root / "disk" / "data"}
        postgres = redis = None
        if backend == "postgresql":
            postgres, redis = Postgres(root / "postgres"), Redis(root / "redis")
            stack.callback(postgres.close)
            stack.callback(redis.close)
            values |= {"database_url": postgres.url, "broker_url": redis.url}
        settings = Settings(
            **values,
            lease_seconds=lease,
            rehint_seconds=1.0,
            resume_seconds=0.0,
            disk_reserve_bytes=0,
            log_format="text",
        )
        tokens = prepare(settings)
        fleet = Fleet(settings, root / "parts.log", WORKERS)
        stack.enter_context(tending(fleet))
        wait_for(fleet.port, 300.0)
        samples = min(1800, max(120, wanted_jobs // 2))
        with ThreadPoolExecutor() as pool:
            shops = list(pool.map(lambda n: open_shop(fleet.url, tokens[n], samples, seed + n), range(len(tokens))))
        clients = Clients(fleet.url, shops, seed)
        scene = Scene(settings, fleet, clients, random.Random(seed), disk, postgres, redis)
        try:
            races = {"one_key": races_.one_key(clients, fleet, shops[0])}
            found = run(scene, wanted_kills, wanted_jobs, seconds)
            fleet.close()
            return found | after(settings, shops[0], root, races, found["broken"])
        except BaseException:
            say(fleet.log.read_text(errors="replace")[-6000:])
            raise
        finally:
            clients.close()
            scene.database.close()


def after(settings: Settings, shop: Shop, root: Path, races: dict[str, Any], broken: list[str]) -> dict[str, Any]:
    """The races on the same database, once all is checked and no part runs."""
    for name, figures, wrong in (
        ("lanes", *races_.lanes(settings)),
        ("deadlines", *races_.deadlines(settings, shop)),
        *([] if settings.database_url else [("counter", *races_.counter(root / "counter"))]),
    ):
        races[name] = figures
        broken += wrong
    return {"races": races, "broken": broken}


def prepare(settings: Settings) -> list[str]:
    """The schema, and the keys of four tenants."""
    database = Database(settings)
    migrate.migrate(database)
    keys.bootstrap(database, settings)
    tokens = [settings.key_file.read_text().strip()]
    with database.write() as session:
        for number in range(1, 4):
            session.add(Tenant(id=f"ten_{number}", name=f"tenant {number}", created_at=func.now()))
            session.flush()
            tokens.append(keys.create(session, f"ten_{number}", "its key")[1])
    database.close()
    return tokens


def run(scene: Scene, wanted_kills: int, wanted_jobs: int, seconds: float) -> dict[str, Any]:
    clients, began = scene.clients, time.monotonic()
    clients.start()
    pause = seconds * 0.75 / max(1, wanted_kills * sum(share for _, share in STRIKES.values()) / 20)
    said = began
    while time.monotonic() - began < seconds:
        if kills(scene.done) < wanted_kills:
            time.sleep(scene.rng.expovariate(1 / min(pause, 2.0)))
            strike(scene)
        else:
            time.sleep(0.5)
        if kills(scene.done) >= wanted_kills and jobs_ended(scene.database) >= wanted_jobs:
            break
        if time.monotonic() - said > 30:
            said = time.monotonic()
            say(f"  {said - began:4.0f} s  {kills(scene.done)} kills, {jobs_ended(scene.database)} jobs ended")
    clients.close()
    struck = time.monotonic() - began
    retried, rested = drain(scene)
    cases = make_cases(scene)
    broken = settle(scene)
    if not rested:
        broken.insert(0, f"it was not at rest after {DRAIN_SECONDS:.0f} s")
    if kills(scene.done) < wanted_kills or jobs_ended(scene.database) < wanted_jobs:
        say("  the time was too short for every kill and job that was asked for")
    return figures(scene, struck, retried) | cases | {"broken": broken + cases["case_files_refused"]}


def jobs_ended(database: Database) -> int:
    with suppress(SQLAlchemyError), database.read() as session:
        return session.scalars(select(func.count()).where(Job.state.in_(TERMINAL_JOBS))).one()
    return 0


def drain(scene: Scene) -> tuple[int, bool]:
    """Nothing breaks any more: all must end by itself, and what was given up after three attempts is retried, as an
    operator does. How many were; whether all ended."""
    retried, end = 0, time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < end:
        with suppress(SQLAlchemyError), scene.database.read() as session:
            dead = session.execute(
                select(Job.id, Job.tenant_id).where(Job.state.in_([JobState.DEAD, JobState.FAILED, JobState.REJECTED]))
            ).all()
            left = session.scalars(select(func.count()).where(Job.state.in_([JobState.QUEUED, JobState.RUNNING]))).one()
            waiting = session.scalars(
                select(func.count()).where(
                    DeletionRequest.decision == "accepted", DeletionRequest.fulfilled_at.is_(None)
                )
            ).one()
            if not (left or waiting):
                return retried, True
        for job, tenant in dead:
            retried += retry(scene, job, tenant)
        time.sleep(0.5)
    return retried, False


def retry(scene: Scene, job: str, tenant: str) -> bool:
    shop = scene.clients.shops[0 if tenant == keys.FIRST_TENANT else int(tenant.removeprefix("ten_"))]
    with httpx.Client(base_url=scene.fleet.url, headers={"Authorization": f"Bearer {shop.token}"}) as http:
        reply = scene.clients.send(http, "POST", f"/v1/jobs/{job}:retry", json={})
    return reply is not None and reply.status_code == 200


def settle(scene: Scene) -> list[str]:
    """The checks, once the sweeper has had time to sign what is new."""
    end = time.monotonic() + 60
    while (found := invariants.broken(scene.settings, scene.clients)) and time.monotonic() < end:
        time.sleep(2)
    return found


def make_cases(scene: Scene) -> dict[str, Any]:
    """Case files of some requests, each held against the offline verifier."""
    refused, count = [], 0
    by_dataset = {shop.dataset: shop for shop in scene.clients.shops}
    for promise in [each for each in scene.clients.promises if each.request][
        :: max(1, len(scene.clients.promises) // CASES)
    ]:
        shop: Shop = by_dataset[promise.dataset]
        with httpx.Client(base_url=scene.fleet.url, headers={"Authorization": f"Bearer {shop.token}"}) as http:
            where = f"/v1/deletion-requests/{promise.request}"
            http.post(f"{where}:case-file", json={})
            if (reply := _made(http, f"{where}/case-file")) is None:
                refused.append(f"{promise.request} has no case file")
                continue
            report = verify.verify_case(reply.content, verify.read_trust(http.get("/v1/log/keys").content))
        count += 1
        if not report.verified:
            refused.append(f"the case file of {promise.request} does not verify")
    return {"case_files_verified": count, "case_files_refused": refused}


def _made(http: httpx.Client, path: str) -> httpx.Response | None:
    """The case file, once it is there; none where it is not in time."""
    end = time.monotonic() + CASE_SECONDS
    while time.monotonic() < end:
        reply = http.get(path)
        if reply.status_code == 200:
            return reply
        time.sleep(0.5)
    return None


def figures(scene: Scene, struck: float, retried: int) -> dict[str, Any]:
    log = scene.fleet.log.read_text(errors="replace")
    with scene.database.read() as session:
        counts = dict(session.execute(select(Job.kind, func.count()).group_by(Job.kind)).all())
        attempts = session.scalars(select(func.sum(Job.fence))).one()
        lost = session.scalars(select(func.count()).where(JobEvent.kind == "lease-lost")).one()
        made = session.scalars(select(func.count()).select_from(Version)).one()
        cases = session.scalars(select(func.count()).where(CaseFile.made_at.is_not(None))).one()
    waits = recovery(scene)
    found: dict[str, Any] = {
        "seconds_under_faults": round(struck, 1),
        "jobs": sum(counts.values()),
        "jobs_by_kind": counts,
        "attempts": int(attempts or 0),
        "versions": made,
        "requests_promised": len({each.request for each in scene.clients.promises if each.request}),
        "case_files": cases,
        "kills": kills(scene.done),
        "strikes": dict(sorted(scene.done.items())),
        "restarts": sum(part.starts - 1 for part in scene.fleet.parts),
        "leases_lost": lost,
        "stale_attempts_refused": len(re.findall(r"the lease was lost", log)),
        "jobs_retried_by_operator": retried,
        "replies": dict(sorted(scene.clients.statuses.items())),
    }
    if waits:
        found["recovery_seconds"] = {
            "samples": len(waits),
            "lease": scene.settings.lease_seconds,
            "median": round(statistics.median(waits), 2),
            "p99": round(sorted(waits)[math.ceil(0.99 * len(waits)) - 1], 2),
            "worst": round(max(waits), 2),
        }
    return found


def recovery(scene: Scene) -> list[float]:
    """From each kill of a worker to the moment in which its job ran again; jobs that had ended meanwhile are none."""
    waits = []
    with scene.database.read() as session:
        for job, at in scene.killed:
            events = session.execute(
                select(JobEvent.data, JobEvent.at)
                .where(JobEvent.job_id == job, JobEvent.at > at, JobEvent.kind == "state")
                .order_by(JobEvent.number)
            ).all()
            queued = next((n for n, (data, _) in enumerate(events) if data["state"] != JobState.RUNNING), None)
            if queued is None or events[queued][0]["state"] != JobState.QUEUED:
                continue
            again = next((when for data, when in events[queued:] if data["state"] == JobState.RUNNING), None)
            if again is not None:
                waits.append((again - at).total_seconds())
    return waits
