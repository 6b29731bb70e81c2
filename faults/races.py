"""Short races beside the long run, each of processes that start together: lanes, a counter, one key, a deadline."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError

from app import jobs
from app.core import db, keys
from app.core.config import Settings
from app.core.db import Database
from app.core.tables import DeletionRequest, Job, OutcomeRow, Tenant
from app.rules.states import JobKind, JobState
from faults.clients import Clients, Promise, Shop
from faults.fleet import Fleet
from faults.invariants import overlaps
from tests import zygote
from tests.trained import open_account

MODELS, LANE_JOBS, CLAIMERS = 5, 400, 8
ADDERS, ADDITIONS = 8, 1000
ONE_KEY_CALLS = 100
ROUNDS, TRAININGS = 20, 500


def race(count: int, target: Any, *arguments: Any) -> list[int]:
    """Exit codes of that many processes, which begin as soon as they are forked."""
    processes = [zygote.call(target, *arguments, number) for number in range(count)]
    return [process.wait() for process in processes]


# -- 400 jobs on 5 models, 8 workers ---------------------------------------------------------------


def lanes(settings: Settings) -> tuple[dict[str, Any], list[str]]:
    """Every job is claimed once, and no two of one model at a time."""
    database = Database(settings)
    with database.write() as session:
        made = [
            jobs.enqueue(session, tenant_id=keys.FIRST_TENANT, kind=JobKind.TRAIN, lane=f"race:{n % MODELS}").id
            for n in range(LANE_JOBS)
        ]
    began = time.monotonic()
    codes = race(CLAIMERS, _claim_all, settings.model_dump(include={"data_dir", "database_url"}))
    seconds = time.monotonic() - began
    with database.read() as session:
        rows = session.execute(select(Job.state, Job.fence).where(Job.id.in_(made))).all()
    found = [each for each in overlaps(database) if each.startswith("race:")]
    wrong = [f"lanes: {each}" for each in found]
    wrong += [f"lanes: a claimer ended with code {code}" for code in codes if code]
    if any(state != JobState.SUCCEEDED or fence != 1 for state, fence in rows):
        wrong.append("lanes: a job was claimed twice, or never ended")
    database.close()
    figures = {"jobs": len(rows), "models": MODELS, "workers": CLAIMERS, "overlaps": len(found)}
    return figures | {"seconds": round(seconds, 1)}, wrong


def _claim_all(values: dict[str, Any], number: int) -> None:
    database = Database(Settings(**values))
    idle = 0
    while idle < 20:
        claim = None
        with suppress(OperationalError):  # half a minute without its turn to write: a worker looks again, too
            claim = jobs.claim(database, f"racer-{number}", 60.0)
            idle += claim is None
        if claim is None:
            time.sleep(0.02)
            continue
        idle = 0
        while True:
            with suppress(OperationalError), database.write() as session:
                jobs.finish(session, jobs.fenced(session, claim), JobState.SUCCEEDED)
                break


# -- read-modify-writes on SQLite ------------------------------------------------------------------


def counter(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """8 processes add one, 1,000 times each, with a transaction for each time. One that is refused ends."""
    database = Database(Settings(data_dir=folder))
    with database.write() as session:
        session.execute(text("CREATE TABLE counter (n INTEGER NOT NULL)"))
        session.execute(text("INSERT INTO counter VALUES (0)"))
    began = time.monotonic()
    codes = race(ADDERS, _add, folder)
    seconds = time.monotonic() - began
    with database.read() as session:
        value = session.execute(text("SELECT n FROM counter")).scalar_one()
    database.close()
    refused = sum(map(bool, codes))
    figures = {
        "processes": ADDERS,
        "transactions": ADDERS * ADDITIONS,
        "updates": value,
        "processes_refused": refused,
        "per_second": round(ADDERS * ADDITIONS / seconds),
    }
    lost = value != ADDERS * ADDITIONS or refused
    return figures, [f"counter: {value} of {ADDERS * ADDITIONS}, {refused} processes were refused"] if lost else []


def _add(folder: Path, _number: int) -> None:
    database = Database(Settings(data_dir=folder))
    for _ in range(ADDITIONS):
        with database.write() as session:
            value = session.execute(text("SELECT n FROM counter")).scalar_one()
            session.execute(text("UPDATE counter SET n = :n"), {"n": value + 1})


# -- one key, 100 times at once --------------------------------------------------------------------


def one_key(clients: Clients, fleet: Fleet, shop: Shop) -> dict[str, Any]:
    """The same POST a hundred times at once under one Idempotency-Key, while the API is killed: the promise is held
    to at the end of the run."""
    promise = Promise("one-key", shop.dataset, [shop.ids.pop()])
    clients.promises.append(promise)
    killed = threading.Timer(0.15, lambda: [fleet.kill(part) for part in fleet.of_kind("api")])
    with (
        httpx.Client(base_url=fleet.url, headers={"Authorization": f"Bearer {shop.token}"}, timeout=60) as http,
        ThreadPoolExecutor(ONE_KEY_CALLS) as pool,
    ):
        killed.start()
        list(pool.map(lambda _: clients.keep_asking(http, promise), range(ONE_KEY_CALLS)))
        killed.join()
    return {"calls": ONE_KEY_CALLS, "requests": int(bool(promise.request)), "api_kills": 1}


# -- a deadline behind 500 trainings ---------------------------------------------------------------


def deadlines(settings: Settings, shop: Shop) -> tuple[dict[str, Any], list[str]]:
    """A deletion that is due in 60 s, behind 500 trainings of another tenant that has its turn: it is taken first.

    Nothing else runs on this database any more.
    """
    first, taken = 0, time.monotonic()
    with open_account(settings) as account:
        account.http.headers["Authorization"] = f"Bearer {shop.token}"
        database = account.database
        with database.write() as session:
            for number in range(TRAININGS):
                jobs.enqueue(session, tenant_id="ten_1", kind=JobKind.TRAIN, lane=f"behind:{number}")
        for _ in range(ROUNDS):
            with database.write() as session:
                now = db.now(session)
                session.execute(update(Tenant).where(Tenant.id == keys.FIRST_TENANT).values(served_at=now))
            made = account.delete(shop.dataset, [shop.ids.pop()])
            with database.write() as session:
                due = db.now(session) + timedelta(seconds=60)
                session.execute(update(DeletionRequest).where(DeletionRequest.id == made["id"]).values(due_at=due))
            claim = jobs.claim(database, "racer", 60.0)
            with database.read() as session:
                own = session.scalars(select(OutcomeRow.job_id).where(OutcomeRow.request_id == made["id"])).one()
            first += claim is not None and claim.id == own
            if claim is not None:
                with database.write() as session:  # so that the next round has a job of its own
                    jobs.finish(
                        session, jobs.fenced(session, claim), JobState.FAILED, problem=jobs.problem("race", "over")
                    )
    seconds = time.monotonic() - taken
    wrong = [] if first == ROUNDS else [f"deadlines: {first} of {ROUNDS} were taken first"]
    return {"rounds": ROUNDS, "trainings_before": TRAININGS, "taken_first": first, "seconds": round(seconds, 1)}, wrong
