"""Who is let in to what: the table of routes against the API's own description, rates, and streams that end."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
from fastapi.testclient import TestClient

from app.api.http.event_stream import Follower
from app.api.http.known_keys import KnownKeys
from app.blobs import usage
from app.blobs.open import open_blobs
from app.core import db, keys
from app.core.config import Settings
from app.core.db import Database
from app.core.errors import Unauthorized
from app.core.tables import ApiKey, Dataset
from app.main import ROUTERS, create_app
from app.main import _guarded as guarded
from app.rules.policy import Policy
from benchmarks.posting import fill
from tests.helpers import is_problem

pytestmark = pytest.mark.validation
DIGITS = {"name": "d", "source": {"name": "digits"}}
UPLOAD = {"name": "d", "source": {"name": "upload"}}


def test_the_scopes_that_are_checked_first_are_those_of_the_description(settings: Settings) -> None:
    document, routes = create_app(settings).openapi(), guarded()
    found = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            named = {scope for way in operation.get("security", ()) for scopes in way.values() for scope in scopes}
            concrete = re.sub(r"\{number\}", "1", path)
            concrete = re.sub(r"\{[a-z_]+\}", "x_0", concrete)
            route = routes.find(method.upper(), concrete)
            if not operation.get("security"):
                assert route is None, path
                continue
            assert route is not None, path
            assert route.scopes == named, path
            assert route.route.path_format.startswith("/v1/")
            found += 1
    assert found >= len(ROUTERS)
    assert routes.find("POST", "/v1/jobs") is None
    assert routes.find("POST", "/healthz") is None


def test_a_key_and_its_tenant_have_rates(settings: Settings, database: Database) -> None:
    with TestClient(create_app(settings.model_copy(update={"key_calls_per_second": 2}))) as http:
        http.headers["Authorization"] = f"Bearer {settings.key_file.read_text().strip()}"
        replies = [http.get("/v1/jobs") for _ in range(8)]
        refused = next(reply for reply in replies if reply.status_code != 200)
        is_problem(refused, 429, "too-many-requests")
        assert refused.headers["Retry-After"] == "1"
        assert http.get("/healthz").status_code == 200
        assert http.get("/v1/jobs", headers={"Authorization": ""}).status_code == 401


def test_a_tenant_has_a_most_of_jobs_in_the_queue_but_not_of_what_deletions_need(
    settings: Settings, database: Database
) -> None:
    with TestClient(create_app(settings.model_copy(update={"tenant_queued_jobs": 2}))) as http:
        http.headers["Authorization"] = f"Bearer {settings.key_file.read_text().strip()}"
        dataset, model = fill(database, 100, Policy())
        for seed in range(2):
            assert http.post(f"/v1/models/{model}:train", json={"seed": seed}).status_code == 202
        for path, body in ((f"/v1/models/{model}:precompute", {}), ("/v1/datasets", DIGITS)):
            refused = http.post(path, json=body)
            is_problem(refused, 429, "too-many-jobs")
            assert refused.headers["Retry-After"] == "60"
        asked = http.post("/v1/deletion-requests", json={"dataset": dataset, "sample_ids": ["sample-0000001"]})
        assert asked.status_code == 202
        with database.write() as session:
            _, other = keys.new_tenant(session, "other")
        assert http.post("/v1/datasets", json=DIGITS, headers={"Authorization": f"Bearer {other}"}).status_code == 202


def test_a_tenant_has_a_most_of_bytes(settings: Settings, database: Database) -> None:
    with TestClient(create_app(settings.model_copy(update={"tenant_bytes": 1_000_000}))) as http:
        http.headers["Authorization"] = f"Bearer {settings.key_file.read_text().strip()}"
        where = f"/v1/datasets/{http.post('/v1/datasets', json=UPLOAD).json()['id']}/content"
        form = {"Content-Type": "application/x-npz"}
        is_problem(http.put(where, content=bytes(1_000_001), headers=form), 507, "quota-exceeded")
        is_problem(http.put(where, content=iter([bytes(1_000_001)]), headers=form), 507, "quota-exceeded")
        is_problem(http.put(where, content=bytes(999_000), headers=form), 422, "dataset-content")
        dataset, _ = fill(database, 10, Policy())  # its version says that it has one byte
        stored = open_blobs(settings).put(bytes(500_000))
        with database.write() as session:
            session.get_one(Dataset, dataset).images = stored.digest
            session.get_one(Dataset, dataset).upload = stored.digest
        with database.read() as session:
            assert usage.stored_bytes(session, open_blobs(settings), keys.FIRST_TENANT) == 500_001
        is_problem(http.put(where, content=bytes(500_000), headers=form), 507, "quota-exceeded")
        is_problem(http.put(where, content=bytes(499_999), headers=form), 422, "dataset-content")


def test_a_key_is_looked_up_once_in_some_seconds_and_a_refusal_every_time(
    settings: Settings, database: Database
) -> None:
    token = settings.key_file.read_text().strip()

    async def play() -> int:
        known, asked = KnownKeys(database), 0
        inner = known._ask

        def counted(tokens: list[str]) -> object:
            nonlocal asked
            asked += len(tokens)
            return inner(tokens)

        known._asked._work = counted  # type: ignore[assignment]
        for _ in range(3):
            assert (await known.find(token)).tenant_id == keys.FIRST_TENANT
        for _ in range(2):
            with pytest.raises(Unauthorized):
                await known.find("lethe_x_y")
        known._known[token] = (known._known[token][0], time.monotonic())
        await known.find(token)
        known.close()
        return asked

    assert asyncio.run(play()) == 4


def test_a_stream_ends_when_it_is_old(database: Database, settings: Settings) -> None:
    assert asyncio.run(ended(database, settings.key_file.read_text().strip(), oldest=0.1))


def test_a_stream_ends_when_its_key_does(database: Database, settings: Settings) -> None:
    with database.write() as session:
        row, token = keys.create(session, keys.FIRST_TENANT, "another")
        name = row.id

    def revoke() -> None:
        with database.write() as session:
            session.get_one(ApiKey, name).revoked_at = db.now(session)

    assert asyncio.run(ended(database, token, revoke))


def test_a_stream_with_a_valid_key_goes_on(database: Database, settings: Settings) -> None:
    assert not asyncio.run(ended(database, settings.key_file.read_text().strip(), patience=0.3))


async def ended(
    database: Database, token: str, change: object = None, oldest: float = 900.0, patience: float = 10.0
) -> bool:
    """Whether the stream of a job without events has ended."""
    follower = Follower(database, oldest, poll_seconds=0.01, check_seconds=0.05)
    task = asyncio.create_task(follower.run())
    try:
        async with follower.subscribe("job_x", 0, token) as queue:
            if callable(change):
                change()
            async with asyncio.timeout(patience):
                return await queue.get() is None
    except TimeoutError:
        return False
    finally:
        task.cancel()
